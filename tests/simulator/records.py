"""What simulated step wrappers wrote, and S3's listing of it: late, stale or unreadable, by the profile."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

from emr_executor.core.model import ClusterUuid, StepId, StepRecord, SubmissionId
from emr_executor.ports import Clock
from tests.simulator.fault_profile import FaultProfile

AGENT = "the agent"
KEPT_VERSIONS = 3
"""Of one record: the newest, and what listings that lag may show instead."""


class Version(NamedTuple):
    """One state of a record's object. ``record`` is None where nobody can read it."""

    visible_at: float
    record: StepRecord | None


class Bucket:
    """The records that were not yet consumed, and the driver's output.

    Times are on the true monotonic clock.
    """

    def __init__(self) -> None:
        self._versions: dict[SubmissionId, list[Version]] = {}
        self._output: dict[tuple[SubmissionId, int], bytes] = {}
        self._claims: dict[SubmissionId, str] = {}
        self.stale_shown = 0

    def write(self, submission_id: SubmissionId, record: StepRecord | None, *, visible_at: float) -> None:
        """Overwrite a submission's record; listings show it from ``visible_at`` on."""
        versions = self._versions.setdefault(submission_id, [])
        versions.append(Version(visible_at, record))
        del versions[:-KEPT_VERSIONS]

    def claim(self, submission_id: SubmissionId, step_id: str) -> str:
        """Who holds the submission's claim: the first to ask does, for ever."""
        return self._claims.setdefault(submission_id, step_id)

    def put_output(self, submission_id: SubmissionId, number: int, chunk: bytes) -> None:
        """A chunk of a submission's output, numbered from 1."""
        self._output[submission_id, number] = chunk

    def changed(
        self, known: Mapping[SubmissionId, str], now: float, *, stale: float, rng: random.Random
    ) -> list[StepRecord]:
        """Records that differ from ``known`` in a listing made now, in the order of their keys.

        stale: the chance of each record to be shown as it was before its last change
        """
        found = []
        for submission_id, versions in self._versions.items():
            shown: Version | None = versions[-1]
            if versions[-1].visible_at > now:
                shown = _before(versions, now)
            elif stale > 0.0 and rng.random() < stale:
                self.stale_shown += 1
                shown = _before(versions, now)
            record = None if shown is None else shown.record
            if record is not None and known.get(submission_id) != record.mark:
                found.append(record)
        found.sort(key=_key)
        return found

    def output(self, submission_id: SubmissionId, number: int) -> bytes | None:
        """One chunk, from 1."""
        return self._output.get((submission_id, number))

    def unread(self, submission_id: SubmissionId, chunks: int) -> int:
        """How many bytes stand behind the first so many chunks."""
        return sum(
            len(chunk)
            for (owner, number), chunk in self._output.items()
            if owner == submission_id and number > chunks
        )

    def consume(self, submission_id: SubmissionId) -> None:
        """Delete a record; its output and its claim stay, as in S3."""
        self._versions.pop(submission_id, None)

    def __len__(self) -> int:
        return len(self._versions)


def _before(versions: list[Version], now: float) -> Version | None:
    """The newest version but for the last that can be seen now."""
    for version in reversed(versions[:-1]):
        if version.visible_at <= now:
            return version
    return None


def _key(record: StepRecord) -> tuple[str, str]:
    return record.cluster_uuid, record.submission_id


class SimRecords:
    """``ports.StepRecords`` on the bucket. ``clock`` is the true one."""

    def __init__(self, bucket: Bucket, clock: Clock, profile: FaultProfile, rng: random.Random) -> None:
        self._bucket, self._clock, self._profile, self._rng = bucket, clock, profile, rng

    async def changed(self, known: Mapping[SubmissionId, str]) -> tuple[StepRecord, ...]:
        """Records whose mark differs from ``known``."""
        stale = 0.0 if self._profile.is_calm else self._profile.records_stale
        return tuple(self._bucket.changed(known, self._clock.monotonic(), stale=stale, rng=self._rng))

    async def output(
        self, cluster_uuid: ClusterUuid, submission_id: SubmissionId, chunk: int
    ) -> bytes | None:
        """One chunk of driver output."""
        del cluster_uuid
        return self._bucket.output(submission_id, chunk)

    async def claimed_by(self, cluster_uuid: ClusterUuid, submission_id: SubmissionId) -> StepId | None:
        """The step that holds the submission's claim, or None: the agent holds it now."""
        del cluster_uuid
        holder = self._bucket.claim(submission_id, AGENT)
        return None if holder == AGENT else StepId(holder)

    async def unread(self, cluster_uuid: ClusterUuid, submission_id: SubmissionId, chunks: int) -> int:
        """How many bytes of output stand behind the first so many chunks."""
        del cluster_uuid
        return self._bucket.unread(submission_id, chunks)

    async def consume(self, over: Mapping[SubmissionId, ClusterUuid]) -> None:
        """Delete records that have served."""
        for submission_id in over:
            self._bucket.consume(submission_id)

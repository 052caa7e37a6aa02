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
    """The records that were not yet consumed, and the driver's output by chunk, from 1.

    Times are on the true monotonic clock.
    """

    def __init__(self) -> None:
        self.versions: dict[SubmissionId, list[Version]] = {}
        self.output: dict[tuple[SubmissionId, int], bytes] = {}
        self._claims: dict[SubmissionId, str] = {}
        self.stale_shown = 0

    def write(self, submission_id: SubmissionId, record: StepRecord | None, *, visible_at: float) -> None:
        """Overwrite a submission's record; listings show it from ``visible_at`` on."""
        versions = self.versions.setdefault(submission_id, [])
        versions.append(Version(visible_at, record))
        del versions[:-KEPT_VERSIONS]

    def claim(self, submission_id: SubmissionId, step_id: str) -> str:
        """Who holds the submission's claim: the first to ask does, for ever."""
        return self._claims.setdefault(submission_id, step_id)


def _before(versions: list[Version], now: float) -> Version | None:
    """The newest version but for the last that can be seen now."""
    for version in reversed(versions[:-1]):
        if version.visible_at <= now:
            return version
    return None


class SimRecords:
    """``ports.StepRecords`` on the bucket. ``clock`` is the true one."""

    def __init__(self, bucket: Bucket, clock: Clock, profile: FaultProfile, rng: random.Random) -> None:
        self._bucket, self._clock, self._profile, self._rng = bucket, clock, profile, rng

    async def changed(self, known: Mapping[SubmissionId, str]) -> tuple[StepRecord, ...]:
        """Records that differ from ``known`` in a listing made now, in the order of their keys."""
        now, rng = self._clock.monotonic(), self._rng
        stale = 0.0 if self._profile.is_calm else self._profile.records_stale
        found = []
        for submission_id, versions in self._bucket.versions.items():
            shown: Version | None = versions[-1]
            if versions[-1].visible_at > now:
                shown = _before(versions, now)
            elif stale > 0.0 and rng.random() < stale:
                self._bucket.stale_shown += 1
                shown = _before(versions, now)
            record = None if shown is None else shown.record
            if record is not None and known.get(submission_id) != record.mark:
                found.append(record)
        return tuple(sorted(found, key=lambda record: (record.cluster_uuid, record.submission_id)))

    async def output(
        self, cluster_uuid: ClusterUuid, submission_id: SubmissionId, chunk: int
    ) -> bytes | None:
        """One chunk of driver output."""
        del cluster_uuid
        return self._bucket.output.get((submission_id, chunk))

    async def claimed_by(self, cluster_uuid: ClusterUuid, submission_id: SubmissionId) -> StepId | None:
        """The step that holds the submission's claim, or None: the agent holds it now."""
        del cluster_uuid
        holder = self._bucket.claim(submission_id, AGENT)
        return None if holder == AGENT else StepId(holder)

    async def unread(self, cluster_uuid: ClusterUuid, submission_id: SubmissionId, chunks: int) -> int:
        """How many bytes of output stand behind the first so many chunks."""
        del cluster_uuid
        return sum(
            len(chunk)
            for (owner, number), chunk in self._bucket.output.items()
            if owner == submission_id and number > chunks
        )

    async def consume(self, over: Mapping[SubmissionId, ClusterUuid]) -> None:
        """Delete records that have served; their output and claims stay, as in S3."""
        for submission_id in over:
            self._bucket.versions.pop(submission_id, None)

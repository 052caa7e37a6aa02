"""What simulated step wrappers wrote, and S3's listing of it: late, stale, or silent when it is told to be."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from emr_executor.core.model import ClusterUuid, StepRecord, SubmissionId
from emr_executor.ports import Clock
from emr_executor.simulation.weather import Weather


@dataclass(slots=True)
class _Object:
    """One record's key. ``before`` is what a stale listing still shows."""

    record: StepRecord
    visible_at: float
    before: StepRecord | None = None


class Bucket:
    """The records of all submissions that were not yet consumed, and the driver's output."""

    def __init__(self) -> None:
        self._objects: dict[SubmissionId, _Object] = {}
        self._output: dict[SubmissionId, list[bytes]] = {}

    def write(self, record: StepRecord, *, visible_at: float) -> None:
        """Overwrite a submission's record; listings show it from ``visible_at`` (monotonic) on."""
        known = self._objects.get(record.submission_id)
        if known is None:
            self._objects[record.submission_id] = _Object(record, visible_at)
        else:
            shown = known.record if known.visible_at <= visible_at else known.before
            known.record, known.visible_at, known.before = record, visible_at, shown

    def put_output(self, submission_id: SubmissionId, chunk: bytes) -> None:
        """The next chunk of a submission's output."""
        self._output.setdefault(submission_id, []).append(chunk)

    def listing(self, now: float, *, stale: bool) -> list[StepRecord]:
        """The records that one listing shows."""
        shown = (
            one.before if one.visible_at > now or (stale and one.before is not None) else one.record
            for one in self._objects.values()
        )
        return [record for record in shown if record is not None]

    def output(self, submission_id: SubmissionId, chunk: int) -> bytes | None:
        """One chunk, from 1."""
        chunks = self._output.get(submission_id, [])
        return chunks[chunk - 1] if chunk <= len(chunks) else None

    def consume(self, submission_id: SubmissionId) -> None:
        """The record has served."""
        self._objects.pop(submission_id, None)
        self._output.pop(submission_id, None)


class SimRecords:
    """``ports.StepRecords`` on the bucket."""

    def __init__(self, bucket: Bucket, clock: Clock, weather: Weather, rng: random.Random) -> None:
        self._bucket, self._clock, self._weather, self._rng = bucket, clock, weather, rng

    async def changed(self, known: Mapping[SubmissionId, str]) -> tuple[StepRecord, ...]:
        """Records whose mark differs from ``known``."""
        stale = self._weather.happens("records_stale", "records", self._rng)
        listed = self._bucket.listing(self._clock.monotonic(), stale=stale)
        return tuple(record for record in listed if known.get(record.submission_id) != record.mark)

    async def output(self, submission_id: SubmissionId, chunk: int) -> bytes | None:
        """One chunk of driver output."""
        return self._bucket.output(submission_id, chunk)

    async def consume(self, cluster_uuid: ClusterUuid, submission_id: SubmissionId) -> None:
        """Delete a record that has served."""
        del cluster_uuid
        self._bucket.consume(submission_id)

"""The driver's output on its way from S3 to the task's log, to its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from emr_executor.agent.tasklog import driver_lines
from emr_executor.agent.tick_state import TickState
from emr_executor.core.model import Submission, SubmissionId, WorkloadId
from emr_executor.core.states import StepState
from emr_executor.errors import TryAgain
from emr_executor.ports import Clock, StepRecords

REST_OF_OUTPUT_S = 60.0
"""How long a step that is over waits for its wrapper's last record and for output that cannot be read."""


class DriverOutput:
    """Reads chunks, and remembers since when a step that is over has some that were not read."""

    def __init__(
        self,
        records: StepRecords,
        clock: Clock,
        masks: Mapping[WorkloadId, tuple[str, ...]],
        records_uri: str,
    ) -> None:
        self._records, self._clock, self._masks, self._records_uri = records, clock, masks, records_uri
        self._completed_at: dict[SubmissionId, float] = {}
        self._unread_since: dict[SubmissionId, float] = {}

    def awaits_records(self, tick: TickState, seen_at: float) -> bool:
        """Whether EMR showed a step COMPLETED since the records were read (``seen_at``, monotonic)."""
        now = self._clock.monotonic()
        self._unread_since = {key: at for key, at in self._unread_since.items() if key in tick.submissions}
        self._completed_at = {key: self._completed_at.get(key, now) for key in _completed_silently(tick)}
        return any(seen_at <= since for since in self._completed_at.values())

    def quote(self, tick: TickState, submission: Submission, output: Sequence[bytes], missing: str) -> None:
        """Put output, and a line on what is missing of it, into the task's log."""
        workload, now = tick.workloads.get(submission.workload_id), self._clock.now()
        if workload is not None:
            masks = self._masks.get(workload.workload_id, ())
            tick.log_output(workload, driver_lines(now, b"".join(output), masks=masks))
            if missing:
                tick.log_line(now, workload, missing, level="warning")

    async def read(self, submission: Submission, chunks: float) -> list[bytes]:
        """What can be read of the chunks that are not in the task's log yet, up to so many in all."""
        output: list[bytes] = []
        while submission.output_chunks + len(output) < chunks:
            number = submission.output_chunks + len(output) + 1
            try:
                chunk = await self._records.output(submission.cluster_uuid, submission.submission_id, number)
            except TryAgain:
                break
            if chunk is None:
                break
            output.append(chunk)
        return output

    async def read_to_end(self, tick: TickState, seen_at: float) -> frozenset[SubmissionId]:
        """The steps that are COMPLETED by EMR's word, and whose output may not yet be read to its end.

        A wrapper writes its last record, and before it all output, before EMR can know of the end. So S3 is
        read once more after EMR has shown it, and what is there without a record too.
        """
        now, unread = self._clock.monotonic(), set()
        for key, submission in _completed_silently(tick).items():
            since = self._completed_at.setdefault(key, now)
            is_late = now - since >= REST_OF_OUTPUT_S
            if not is_late and (seen_at < since or key in self._unread_since):
                unread.add(key)
                continue
            with tick.confined(submission):
                output = await self.read(submission, math.inf)
                chunks = submission.output_chunks + len(output)
                missing = await self.missing(tick, submission, chunks)
                tick.put(replace(submission, output_chunks=chunks))
                self.quote(tick, submission, output, missing if is_late else "")
                if missing and not is_late:
                    unread.add(key)
        return frozenset(unread)

    def is_late(self, submission: Submission) -> bool:
        """Whether the output of a step that is over has been unreadable for too long (asked at each look)."""
        now = self._clock.monotonic()
        return now - self._unread_since.setdefault(submission.submission_id, now) >= REST_OF_OUTPUT_S

    def _output_uri(self, tick: TickState, submission: Submission) -> str:
        # The wrappers that claim nothing have one folder for the submissions of all clusters.
        cluster = f"{submission.cluster_uuid}/" if tick.claims_first(submission) else ""
        return f"{self._records_uri}output/{cluster}{submission.submission_id}/"

    def not_there(self, tick: TickState, submission: Submission) -> str:
        """One line on output that its wrapper counts and that S3 does not have."""
        return f"the end of the driver's output is missing: it is not in {self._output_uri(tick, submission)}"

    async def missing(self, tick: TickState, submission: Submission, chunks: int) -> str:
        """One line on the output that stands in S3 behind so many chunks; empty where there is none."""
        uri = self._output_uri(tick, submission)
        try:
            left = await self._records.unread(submission.cluster_uuid, submission.submission_id, chunks)
        except TryAgain as error:
            return f"the end of the driver's output could not be read from {uri}: {error}"
        return f"{left:,} bytes of the driver's output could not be read; they are in {uri}" if left else ""


def _completed_silently(tick: TickState) -> dict[SubmissionId, Submission]:
    """By EMR's word; their wrapper's last one was not read."""
    return {
        one.submission_id: one
        for one in tick.ending()
        if one.step_state is StepState.COMPLETED and not one.wrapper_ended
    }

"""What step wrappers wrote to S3, read beside the ticks: a tick takes what has come, and waits for nothing.

A round lists the records, reads those that changed, and the driver's output that they count. What it read is
kept until a tick has saved it, so that a tick that is dropped costs no second read; what is kept is bounded.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from emr_executor.agent.outcomes import Outcomes
from emr_executor.agent.surroundings import Surroundings
from emr_executor.agent.tasklog import driver_lines
from emr_executor.agent.tick_state import TickState
from emr_executor.core.model import ClusterUuid, StepRecord, Submission, SubmissionId, WorkloadId
from emr_executor.core.observe import observe_record
from emr_executor.core.states import RecordPhase, StepState
from emr_executor.errors import Throttled, TryAgain

REST_OF_OUTPUT_S = 60.0
"""How long a step that is over waits for its wrapper's last record and for output that cannot be read."""
FIRST_ANSWER_S = 5.0
"""How long an agent that has just begun waits for S3's first answer before it believes EMR's lists alone."""
MOST_KEPT_BYTES = 16 * 1024 * 1024
"""Driver output in memory that no tick has saved yet: no more is read until then."""
MOST_OF_ONE_STEP_BYTES = 1024 * 1024
"""Driver output of one step in one round, so that a step that writes much holds up no other."""
STEPS_AT_ONCE = 16
LAST_ROUND_S = 5.0
"""How much longer it waits for the round that finds out what is missing."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class News:
    """What was read of one submission.

    after: how many chunks of output the task's log had before
    record: None while its wrapper is silent
    is_whole: all output was read that the record counts, or that there is; or the rest was given up
    missing: a line on output that was given up; empty once it is told
    """

    after: int
    record: StepRecord | None = None
    output: list[bytes] = field(default_factory=list)
    is_whole: bool = False
    missing: str = ""

    @property
    def read(self) -> int:
        """The number of the last chunk that was read."""
        return self.after + len(self.output)

    @property
    def chunks(self) -> int:
        """How many chunks the task's log has, or does without, when this is told."""
        return max(self.read, self.record.chunks) if self.record and self.is_whole else self.read

    @property
    def is_last(self) -> bool:
        """Whether its wrapper writes no more."""
        return self.record is None or self.record.phase is RecordPhase.ENDED

    def is_news_of(self, submission: Submission) -> bool:
        """Whether the row does not hold all of it. It tells nothing of that where the wrapper is silent."""
        if not submission.is_live or self.after > submission.output_chunks:
            return False
        has_mark = not self.is_whole or (self.record and self.record.mark == submission.record_mark)
        return not has_mark or submission.output_chunks < self.chunks


class RecordPoll:
    """Reads in ``round``, and tells a tick in ``apply``.

    wanted: set when a round has something to do before the interval is over
    wake: called when there is something to tell
    """

    def __init__(
        self,
        around: Surroundings,
        outcomes: Outcomes,
        *,
        masks: Mapping[WorkloadId, tuple[str, ...]],
        wake: Callable[[], None],
    ) -> None:
        self._records, self._records_uri, self._clock = around.records, around.records_uri, around.clock
        self._interval_s = around.settings.records_interval_s
        self._outcomes, self._masks, self._wake = outcomes, masks, wake
        self.wanted = asyncio.Event()
        self._tick: TickState | None = None
        self._news: dict[SubmissionId, News] = {}
        # In the order in which their turn comes; None where EMR shows the end and the wrapper is silent.
        self._unread: dict[SubmissionId, StepRecord | None] = {}
        self._stuck_since: dict[SubmissionId, float] = {}
        self._told_to_end: set[SubmissionId] = set()
        self._over: dict[SubmissionId, ClusterUuid] = {}
        self._kept_bytes = 0
        self._is_behind = False
        self._due_at = -math.inf
        self._seen_at = self._began_at = self._clock.monotonic()
        self._has_answer = False

    @property
    def unseen_s(self) -> float:
        """How long ago the records could last be listed."""
        return self._clock.monotonic() - self._seen_at

    @property
    def is_heard(self) -> bool:
        """Whether S3 has answered, or was waited for: what wrappers wrote tells more than ListSteps."""
        return self._has_answer or self._clock.monotonic() - self._began_at >= FIRST_ANSWER_S

    # -- in a tick -------------------------------------------------------------------------------

    def apply(self, tick: TickState) -> None:
        """Put what was read into the tick's state and the tasks' logs."""
        if self._tick is None:
            self._began_at = self._clock.monotonic()
            self.wanted.set()
        self._tick = tick
        for key, news in list(self._news.items()):
            submission = tick.submissions.get(key)
            is_wanted = submission is not None and news.is_news_of(submission)
            # What a bug keeps from being saved is read again later, and not told in every tick.
            if submission is None or not is_wanted or submission.quarantine is not None:
                del self._news[key]
            if submission is not None and is_wanted:
                with tick.confined(submission):
                    self._tell(tick, submission, news)
        if self._is_behind:
            self.wanted.set()

    def _tell(self, tick: TickState, submission: Submission, news: News) -> None:
        now = self._clock.now()
        seen, mark = submission, submission.record_mark
        if news.record and (news.is_whole or news.record.phase is not RecordPhase.ENDED):
            seen = observe_record(submission, news.record)
            mark = news.record.mark if news.is_whole else mark
        chunks = max(submission.output_chunks, news.chunks)
        seen = replace(seen, output_chunks=chunks, record_mark=mark)
        self._outcomes.started(tick, submission, seen, now=now)
        output = news.output[submission.output_chunks - news.after :]
        workload = tick.workloads.get(submission.workload_id)
        if workload is not None:
            masks = self._masks.get(workload.workload_id, ())
            tick.log_output(workload, driver_lines(now, b"".join(output), masks=masks))
            if news.missing:
                tick.log_line(now, workload, news.missing, level="warning")
        news.missing = ""
        if news.record is None and news.is_whole:
            self._told_to_end.add(submission.submission_id)

    def unread(self, tick: TickState) -> frozenset[SubmissionId]:
        """Submissions that are not settled yet, since more of how they ended is about to be told.

        A wrapper writes its last record, and before it all output, before EMR can know of the end. So S3 is
        read once more after EMR has shown it, and what is there without a record too.
        """
        now, unread = self._clock.monotonic(), set()
        for key, submission in _completed_silently(tick).items():
            if key not in self._stuck_since:
                self._stuck_since[key], self._due_at = now, -math.inf
                self.wanted.set()
            if key in self._told_to_end:
                continue
            if not self._is_late(key, LAST_ROUND_S):
                unread.add(key)
                continue
            self._told_to_end.add(key)
            workload = tick.workloads.get(submission.workload_id)
            if workload is not None:
                uri = self._output_uri(tick, submission)
                text = f"the end of the driver's output could not be read from {uri}: S3 does not answer"
                tick.log_line(self._clock.now(), workload, text, level="warning")
        known = (*self._unread.items(), *((key, news.record) for key, news in self._news.items()))
        for key, record in known:
            its_own = tick.submissions.get(key)
            if record and record.phase is RecordPhase.ENDED and its_own and not its_own.wrapper_ended:
                unread.add(key)
        return frozenset(unread)

    def consume(self, over: Iterable[Submission]) -> None:
        """The records of these have served, and can be deleted."""
        self._over |= {one.submission_id: one.cluster_uuid for one in over}
        if self._over:
            self.wanted.set()

    # -- beside the ticks ------------------------------------------------------------------------

    async def round(self) -> None:
        """List the records when that is due, read what is unread, and delete what has served."""
        if self._tick is not None and (self._unread or self._clock.monotonic() >= self._due_at):
            await self._read_all(self._tick)
        if self._over:
            over = dict(self._over)
            try:
                await self._records.consume(over)
            except TryAgain as error:
                log.warning("records_not_deleted", how_many=len(over), error=str(error))
            else:
                self._over = {key: where for key, where in self._over.items() if key not in over}

    async def _read_all(self, tick: TickState) -> None:
        live = {one.submission_id: one for one in tick.live()}
        self._stuck_since = {key: at for key, at in self._stuck_since.items() if key in live}
        self._unread = {key: record for key, record in self._unread.items() if key in live}
        self._told_to_end &= live.keys()
        if self._clock.monotonic() >= self._due_at:
            await self._list(tick, live)
        self._kept_bytes = sum(len(chunk) for news in self._news.values() for chunk in news.output)
        self._is_behind = False
        turns, free = list(self._unread), asyncio.Semaphore(STEPS_AT_ONCE)

        async def read(key: SubmissionId) -> None:
            async with free:
                await self._read(tick, live[key], self._unread[key])

        await asyncio.gather(*map(read, turns))
        if any(news.is_whole and news.is_last for news in self._news.values()):
            self._wake()

    async def _list(self, tick: TickState, live: Mapping[SubmissionId, Submission]) -> None:
        began = self._clock.monotonic()
        self._due_at = began + self._interval_s
        silent = _completed_silently(tick).keys() - self._told_to_end
        read = {key: news.record for key, news in self._news.items()} | self._unread
        marks = {key: record.mark for key, record in read.items() if record is not None}
        known = {key: marks.get(key) or one.record_mark or "" for key, one in live.items()}
        try:
            changed = await self._records.changed(known) if live else ()
        except TryAgain as error:
            # Told by agent.dependencies, but for throttling.
            level = log.warning if isinstance(error, Throttled) else log.debug
            level("poll_failed", part="records", error=str(error))
            silent = {key for key in silent if self._is_late(key)}
        else:
            self._seen_at = began
            self._unread |= {one.submission_id: one for one in changed if one.submission_id in live}
        self._has_answer = True
        for key in sorted(silent):
            self._unread.setdefault(key, None)

    async def _read(self, tick: TickState, submission: Submission, record: StepRecord | None) -> None:
        """Output that the record counts, or all that there is; the record is told when that is done."""
        key, kept = submission.submission_id, self._news.get(submission.submission_id)
        found = News(after=kept.read if kept else submission.output_chunks, record=record)
        last, size, is_stuck = record.chunks if record else math.inf, 0, False
        while found.read < last and not is_stuck and not self._is_enough(size):
            chunk = await self._chunk(submission, found.read + 1)
            is_stuck = chunk is None
            if chunk is not None:
                found.output.append(chunk)
                size += len(chunk)
                self._kept_bytes += len(chunk)
        found.is_whole = found.read >= last
        if is_stuck:
            if found.is_last:
                self._stuck_since.setdefault(key, self._clock.monotonic())
                missing = await self._missing(tick, submission, found)
                found.is_whole = not missing or self._is_late(key)
                found.missing = missing if found.is_whole else ""
        elif found.is_whole and record is not None:
            self._stuck_since.pop(key, None)
        self._is_behind |= not is_stuck and not found.is_whole
        if self._unread.get(key, found) is record:
            del self._unread[key]
            if not found.is_whole:
                self._unread[key] = record
        self._keep(key, found)

    def _keep(self, key: SubmissionId, found: News) -> None:
        kept = self._news.get(key)
        if kept is not None and kept.read == found.after:
            found.after, found.output = kept.after, kept.output + found.output
        self._news[key] = found

    def _is_enough(self, size: int) -> bool:
        return size >= MOST_OF_ONE_STEP_BYTES or self._kept_bytes >= MOST_KEPT_BYTES

    def _is_late(self, key: SubmissionId, more_s: float = 0.0) -> bool:
        """Whether the output of a step that is over has been unreadable for too long."""
        now = self._clock.monotonic()
        return now - self._stuck_since.get(key, now) >= REST_OF_OUTPUT_S + more_s

    async def _chunk(self, submission: Submission, number: int) -> bytes | None:
        try:
            return await self._records.output(submission.cluster_uuid, submission.submission_id, number)
        except TryAgain:
            return None

    async def _missing(self, tick: TickState, submission: Submission, found: News) -> str:
        """One line on the output behind what was read; empty where there is none."""
        uri = self._output_uri(tick, submission)
        try:
            left = await self._records.unread(submission.cluster_uuid, submission.submission_id, found.read)
        except TryAgain as error:
            return f"the end of the driver's output could not be read from {uri}: {error}"
        if left:
            return f"{left:,} bytes of the driver's output could not be read; they are in {uri}"
        return f"the end of the driver's output is missing: it is not in {uri}" if found.record else ""

    def _output_uri(self, tick: TickState, submission: Submission) -> str:
        # The wrappers that claim nothing have one folder for the submissions of all clusters.
        cluster = f"{submission.cluster_uuid}/" if tick.claims_first(submission) else ""
        return f"{self._records_uri}output/{cluster}{submission.submission_id}/"


def _completed_silently(tick: TickState) -> dict[SubmissionId, Submission]:
    """By EMR's word; their wrapper's last one was not read."""
    return {
        one.submission_id: one
        for one in tick.ending()
        if one.step_state is StepState.COMPLETED and not one.wrapper_ended
    }

"""The supervisor process of one phase, as ``task.supervise`` is one, in virtual time.

It reaches the world only through its surroundings, each call of which may be its last: it keeps nothing that
another process would need. User code is a few seconds and an end, told by the try's script.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

from emr_executor.core.model import StepPlan, Workload
from emr_executor.core.states import Verdict, WorkloadState
from emr_executor.errors import Bug, StaleWriter, StoreBusy
from emr_executor.ports import Clock, PhaseJob
from emr_executor.store.protocols import PhaseFace
from emr_executor.task.results import backoff_s
from tests.simulator.airflow_api import ExecutionApi
from tests.simulator.airflow_entities import (
    ApiRefused,
    ApiSilent,
    FinishEnd,
    PrepareEnd,
    TaskState,
    TryScript,
)

EXIT_NO_RESULT = 75
"""``task.supervise.EXIT_NO_RESULT``: no result was written."""
EXIT_BROKEN = 70
"""``task.host._EXIT_BROKEN``: something escaped from the supervisor."""
BEAT_S = 5.0
"""``[workers] min_heartbeat_interval``: between two heartbeats, and two renewals of the claim."""
OUTAGE_S = 240.0
"""``Settings.outage_s`` with its defaults: how long the API server or the store may be away for one phase."""
API_ATTEMPTS = 5
"""``[workers] execution_api_retries``: at least so many, and for ``OUTAGE_S`` at least (task/api.py)."""
API_WAIT_MIN_S, API_WAIT_MAX_S = 1.0, 5.0
"""``[workers] execution_api_retry_wait_min`` and ``task.api.LONGEST_PAUSE_S``; wait_random_exponential."""
WRITE_PAUSES_S = (2.0, 4.0, 6.0, 8.0, 10.0)
"""As ``task.ticker``; the last one again and again."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSurroundings:
    """What one supervisor process reaches, each through that process's own gate.

    api: a client of its own, with ``PHASE_TIMEOUT_S``
    clock: of its host
    """

    store: PhaseFace
    api: ExecutionApi
    clock: Clock


class _Abandoned(Exception):
    """The phase has to run again; nothing was said to Airflow."""


class _Outage(_Abandoned):
    """The same, for something that is away: the attempt does not count."""


class _Killed(Exception):
    """User code was ended from outside, or died, without a word."""


class _ServerTerminated(Exception):
    """A heartbeat was refused: Airflow no longer wants the try."""


class SimTicker:
    """``task.ticker.Ticker`` as coroutines."""

    def __init__(self, job: PhaseJob, around: PhaseSurroundings) -> None:
        self._store, self._clock = around.store, around.clock
        self._renew = partial(around.store.renew_claim, job.workload_id, job.claim_token)
        self._last: float | None = None
        self.is_lost = False

    async def tick(self) -> None:
        """Renew the claim when its time has come. Raises StaleWriter, from then on always."""
        now = self._clock.monotonic()
        if not self.is_lost and self._last is not None and now - self._last < BEAT_S:
            return
        self._last = now
        try:
            await self._guarded(self._renew)
        except StoreBusy:
            return

    async def intend(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write down what Airflow is about to be told. Raises StaleWriter: it may not be told."""
        with suppress(StoreBusy):
            await self._guarded(write)

    async def sleep(self, delay_s: float) -> None:
        """Wait, ticking. Raises StaleWriter."""
        end = self._clock.monotonic() + delay_s
        while (left := end - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left, BEAT_S))
            await self.tick()

    async def write(
        self, write: Callable[[], Awaitable[None]], meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Write a result, again and again while the store is away. Raises StaleWriter, StoreBusy.

        meanwhile: called after each pause (production: in every second of it)
        """
        until, attempt = self._clock.monotonic() + OUTAGE_S, 0
        while True:
            try:
                await self._guarded(write)
            except StoreBusy:
                if self._clock.monotonic() >= until:
                    raise
            else:
                return
            pause_s = WRITE_PAUSES_S[min(attempt, len(WRITE_PAUSES_S) - 1)]
            await self._clock.sleep(min(pause_s, until - self._clock.monotonic()))
            if meanwhile is not None:
                await meanwhile()
            attempt += 1

    async def _guarded(self, act: Callable[[], Awaitable[None]]) -> None:
        if self.is_lost:
            raise StaleWriter("the claim of this phase was lost")
        try:
            await act()
        except StaleWriter:
            self.is_lost = True
            raise


class SupervisorProcess:
    """One phase. ``run`` gives the exit code, as ``task.host`` would report it."""

    def __init__(
        self,
        job: PhaseJob,
        around: PhaseSurroundings,
        *,
        script: TryScript,
        s3_is_down: Callable[[], bool],
        rng: random.Random,
    ) -> None:
        self._workload: Workload = job.workload
        self._job, self._script, self._s3_is_down, self._rng = job, script, s3_is_down, rng
        self._store, self._api, self._clock = around.store, around.api, around.clock
        self._ticker = SimTicker(job, around)
        self._token = around.api.mint(job.workload_id)
        self._delay_s = backoff_s(job.workload.phase_attempts - 1)
        self._is_finish = job.workload.state is WorkloadState.FINISHING
        self._by = "finish" if self._is_finish else "prepare"
        self._should_retry = False
        self._last_beat = -BEAT_S
        self._heard_at = 0.0

    async def run(self) -> int:
        """``run_phase``: to the end of the phase, whose result is written by then, or never."""
        try:
            await self._supervise()
        except StaleWriter:
            return EXIT_NO_RESULT
        except StoreBusy:
            return EXIT_BROKEN
        return 0

    # -- the ladder of task.supervise --------------------------------------------------------------------

    async def _supervise(self) -> None:
        try:
            await self._start()
        except ApiRefused as refused:
            await self._ticker.write(self._refused("/run", refused))
            return
        except ApiSilent as silent:
            await self._ticker.write(partial(self._retry, str(silent), spent=False))
            return
        result = await self._phase()
        if result is not None:
            await self._ticker.write(result)

    async def _start(self) -> None:
        workload = self._workload
        identity, started_at = workload.identity, workload.started_at
        if identity is None or started_at is None:
            raise Bug(f"workload {workload.workload_id} runs a phase without a stored identity")
        answer, self._token = await self._patiently(
            lambda: self._api.run(
                workload.workload_id, self._token, identity, started_at=started_at.timestamp()
            )
        )
        self._should_retry = answer.should_retry
        self._heard_at = self._clock.monotonic()

    async def _phase(self) -> Callable[[], Awaitable[None]] | None:
        """What to write of the phase; None when it has parked. The order of ``_result_write``."""
        try:
            reported = await (self._finish() if self._is_finish else self._prepare())
        except _ServerTerminated as why:
            return partial(self._gone, str(why))
        except ApiRefused as refused:
            return self._refused("/state", refused)
        except (ApiSilent, _Outage) as why:
            return partial(self._retry, str(why), spent=False)
        except _Abandoned as why:
            return partial(self._retry, str(why))
        return None if reported is None else partial(self._over, reported)

    async def _prepare(self) -> TaskState | None:
        script = self._script
        try:
            await self._user_code(script.prepare_s)
            if script.prepare is PrepareEnd.DIES:
                raise _Killed
        except _Killed:
            return await self._report_unspoken_end()
        if script.prepare is PrepareEnd.PARKS:
            await self._park()
            return None
        return await self._report_failure(may_retry=script.prepare is PrepareEnd.RAISES)

    async def _finish(self) -> TaskState:
        script = self._script
        try:
            await self._user_code(script.finish_s)
            if script.finish is FinishEnd.DIES:
                raise _Killed
        except _Killed:
            raise _Abandoned("the finish process ended early") from None
        if script.finish is FinishEnd.HELD:
            raise _Abandoned("the DAG or its task is missing from the DAG file; the outcome is held")
        outcome = self._workload.outcome
        if outcome is None:
            raise Bug(f"workload {self._workload.workload_id} has no outcome to finish with")
        if outcome.verdict is Verdict.SUCCEEDED and script.finish is FinishEnd.BY_OUTCOME:
            return await self._say(TaskState.SUCCESS)
        # EmrStepCancelled is an AirflowFailException (task/step_errors.py): no retry.
        return await self._report_failure(may_retry=outcome.verdict is not Verdict.CANCELLED)

    async def _park(self) -> None:
        """``PhaseProcess._park``: stage to S3 with signs of life, then store the step."""
        await self._ticker.tick()
        if self._script.stage_s > 0.0:
            await self._clock.sleep(self._script.stage_s)
        if self._s3_is_down():
            raise _Outage("the step could not be staged")
        await self._ticker.tick()
        step = step_of(self._workload, self._script)
        store, job = self._store, self._job
        try:
            await self._ticker.write(
                lambda: store.record_parked(job.workload_id, job.claim_token, step, self._clock.now()),
                meanwhile=self._beat_while_parking,
            )
        except StoreBusy as busy:
            raise _Outage(f"the step could not be stored: {busy}") from None

    async def _beat_while_parking(self) -> None:
        """``PhaseProcess._beat``: a refusal is met by the next heartbeat."""
        await self._ticker.tick()
        with suppress(_ServerTerminated, _Outage):
            await self._beat()

    # -- user code and its signs of life -----------------------------------------------------------------

    async def _user_code(self, seconds: float) -> None:
        """Runs for so long. Raises _ServerTerminated, _Killed, StaleWriter."""
        end = self._clock.monotonic() + seconds
        while (left := end - self._clock.monotonic()) > 0:
            await self._ticker.tick()
            await self._beat()
            # The first look comes at once, as in the stock supervisor.
            left = end - self._clock.monotonic()
            if left > 0:
                await self._clock.sleep(min(left, BEAT_S))

    async def _beat(self) -> None:
        """``_send_heartbeat_if_needed`` of the stock supervisor (SUP:1699-1754)."""
        if self._clock.monotonic() - self._last_beat < BEAT_S:
            return
        self._last_beat = self._clock.monotonic()
        identity = self._workload.identity
        if identity is None:
            raise Bug("a phase runs without an identity")
        try:
            self._token = await self._api.heartbeat(self._workload.workload_id, self._token, identity)
        except ApiRefused as refused:
            if refused.is_not_wanted:
                raise _ServerTerminated(f"answer to a heartbeat: {refused}") from None
        except ApiSilent:
            pass
        else:
            self._heard_at = self._clock.monotonic()
            return
        if self._clock.monotonic() - self._heard_at >= OUTAGE_S:
            raise _Outage("no heartbeat got through to the Execution API")

    # -- telling Airflow ---------------------------------------------------------------------------------

    async def _report_failure(self, *, may_retry: bool) -> TaskState:
        """User code raised: RetryTask where tries are left, else the state FAILED."""
        if may_retry and self._should_retry:
            return await self._say(TaskState.UP_FOR_RETRY)
        return await self._tell(TaskState.FAILED)

    async def _report_unspoken_end(self) -> TaskState:
        """``_report_unspoken_end``: the child died in prepare."""
        return await self._tell(TaskState.UP_FOR_RETRY if self._should_retry else TaskState.FAILED)

    async def _say(self, state: TaskState) -> TaskState:
        """SucceedTask and RetryTask are sent when the child says so, and once more at its end if that failed.

        (``_send_terminal_state_msg``, then ``update_task_state_if_needed``.) FAILED is sent at the end only.
        """
        try:
            return await self._tell(state)
        except (ApiRefused, ApiSilent):
            return await self._tell(state)

    async def _tell(self, state: TaskState) -> TaskState:
        workload_id, token = self._workload.workload_id, self._job.claim_token
        await self._ticker.intend(partial(self._store.record_intent, workload_id, token, str(state)))
        await self._patiently(lambda: self._api.finish(workload_id, self._token, state, by=self._by))
        return state

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """A request with the client's retries, which are for silence only; ticking between them."""
        until, attempt = self._clock.monotonic() + OUTAGE_S, 1
        while True:
            try:
                return await call()
            except ApiSilent:
                if attempt >= API_ATTEMPTS and self._clock.monotonic() >= until:
                    raise
                longest_s = max(API_WAIT_MIN_S, min(API_WAIT_MAX_S, 2.0 ** min(attempt - 1, 8)))
                await self._ticker.sleep(self._rng.uniform(API_WAIT_MIN_S, longest_s))
                attempt += 1

    # -- results -----------------------------------------------------------------------------------------

    async def _over(self, state: TaskState) -> None:
        job = self._job
        await self._store.record_over(job.workload_id, job.claim_token, str(state), self._clock.now())

    async def _gone(self, reason: str) -> None:
        job, text = self._job, f"Airflow no longer wants the try: {reason}"
        await self._store.record_gone(job.workload_id, job.claim_token, text, self._clock.now())

    def _refused(self, call: str, refused: ApiRefused) -> Callable[[], Awaitable[None]]:
        text = f"{call}: {refused}"
        if refused.is_not_wanted:
            return partial(self._gone, text)
        return partial(self._retry, text, spent=not refused.is_outage)

    async def _retry(self, note: str, *, spent: bool = True) -> None:
        job, now = self._job, self._clock.now()
        not_before = now + timedelta(seconds=self._delay_s)
        await self._store.record_retry(
            job.workload_id, job.claim_token, not_before, note, now=now, spent=spent
        )


def step_of(workload: Workload, script: TryScript) -> StepPlan:
    """The step that a prepare phase makes of a try."""
    return StepPlan(
        command=("spark-submit", workload.key.task_id),
        spec_uri=f"s3://staging/specs/{workload.key.task_id}.json",
        wrapper_uri="s3://staging/wrapper/emr_step_wrapper.py",
        execution_timeout_s=script.execution_timeout_s,
        translator="simulated",
    )

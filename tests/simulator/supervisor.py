"""The supervisor process of one phase: ``task.phase_result.supervise`` over a task runner in virtual time.

Production's code is synchronous. It runs in a greenlet here, and where it would wait, ``await_only`` waits
in the virtual loop. It reaches the world only through its surroundings, each call of which may be its last.
User code is a few seconds and an end, told by the try's script.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.util import await_only, greenlet_spawn

from emr_executor.core.model import Identity, StepPlan, Workload
from emr_executor.core.states import Verdict, WorkloadState
from emr_executor.errors import Bug, StaleWriter, StoreBusy, TryAgain
from emr_executor.ports import Clock, PhaseJob
from emr_executor.task.phase_result import (
    EXIT_BROKEN,
    EXIT_NO_RESULT,
    LONGEST_PAUSE_S,
    is_not_wanted,
    supervise,
)
from emr_executor.task.results import PhaseResults
from emr_executor.task.ticker import Ticker
from tests.simulator.airflow_api import ExecutionApi
from tests.simulator.airflow_entities import (
    ApiRefused,
    ApiSilent,
    FinishEnd,
    PrepareEnd,
    TaskState,
    TryScript,
)
from tests.simulator.stores import StoreFunctions

BEAT_S = 5.0
"""``[workers] min_heartbeat_interval``: between two heartbeats, and two renewals of the claim."""
OUTAGE_S = 240.0
"""``Settings.outage_s`` with its defaults: how long the API server or the store may be away for one phase."""
API_ATTEMPTS = 5
"""``[workers] execution_api_retries``: at least so many, and for ``OUTAGE_S`` at least (task/api.py)."""
API_WAIT_MIN_S = 1.0
"""``[workers] execution_api_retry_wait_min``; wait_random_exponential."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSurroundings:
    """What one supervisor process reaches, each through that process's own gate.

    api: a client of its own, with ``PHASE_TIMEOUT_S``
    clock: of its host
    """

    store: StoreFunctions
    api: ExecutionApi
    clock: Clock


class SimResults(PhaseResults):
    """Production's results over the phase's store."""

    def __init__(self, job: PhaseJob, around: PhaseSurroundings) -> None:
        self._workload_id, self._claim_token = job.workload_id, job.claim_token
        self._store, self._now = around.store, around.clock.now  # type: ignore[method-assign]

    def _write(self, statement: Callable[..., None], *values: Any, **named: Any) -> None:
        write = getattr(self._store, statement.__name__)
        await_only(write(self._workload_id, self._claim_token, *values, **named))


class _Abandoned(Exception):
    """User code is over, and the phase has to run again; nothing was said to Airflow."""


class _Outage(_Abandoned):
    """The same, for something that is away: the attempt does not count."""


class _Refused(Exception):
    """A heartbeat was refused: Airflow no longer wants the try."""


class SupervisorProcess:
    """One phase; its own ``TaskRunner``. ``run`` gives the exit code, as ``task.host`` would report it."""

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
        self._script, self._s3_is_down, self._rng = script, s3_is_down, rng
        self._api, self._clock = around.api, around.clock
        self._results = SimResults(job, around)
        self._ticker = Ticker(
            self._results,
            interval_s=BEAT_S,
            patience_s=OUTAGE_S,
            monotonic=around.clock.monotonic,
            sleep=self._sleep,
        )
        self._token = around.api.mint(job.workload_id)
        self._is_finish = job.workload.state is WorkloadState.FINISHING
        self._by = "finish" if self._is_finish else "prepare"
        self._should_retry = False
        self._last_beat = -BEAT_S
        self._heard_at = 0.0
        self._why: str | None = None
        self.exit_code = 0
        self.parked = self.is_refused = self.is_in_outage = False
        self.told_state = ""

    async def run(self) -> int:
        """``run_phase``: to the end of the phase, whose result is written by then, or never."""
        try:
            return await greenlet_spawn(supervise, self._start, self._workload, self._results, self._ticker)
        except StaleWriter:
            return EXIT_NO_RESULT
        except StoreBusy:
            return EXIT_BROKEN

    def wait(self) -> None:
        """User code to its end, and Airflow told. Raises StaleWriter, ApiRefused, ApiSilent."""
        try:
            (self._finish if self._is_finish else self._prepare)()
        except _Refused:
            self.is_refused = True
        except _Abandoned as why:
            self._why, self.is_in_outage = str(why), isinstance(why, _Outage)

    def unfinished(self) -> str | None:
        """See ``TaskRunner``."""
        return self._why

    def _start(self) -> SupervisorProcess:
        workload, identity, started_at = self._workload, self._identity, self._workload.started_at
        if started_at is None:
            raise Bug(f"workload {workload.workload_id} runs a phase without a start")
        self._should_retry, self._token = self._patiently(
            lambda: self._api.run(
                workload.workload_id, self._token, identity, started_at=started_at.timestamp()
            )
        )
        self._heard_at = self._clock.monotonic()
        return self

    @property
    def _identity(self) -> Identity:
        if self._workload.identity is None:
            raise Bug(f"workload {self._workload.workload_id} runs a phase without a stored identity")
        return self._workload.identity

    def _prepare(self) -> None:
        script = self._script
        self._user_code(script.prepare_s)
        if script.prepare is PrepareEnd.PARKS:
            self._park()
        elif script.prepare is PrepareEnd.DIES:
            # ``_report_unspoken_end``
            self._tell(TaskState.UP_FOR_RETRY if self._should_retry else TaskState.FAILED)
        else:
            self._report_failure(may_retry=script.prepare is PrepareEnd.RAISES)

    def _finish(self) -> None:
        script = self._script
        self._user_code(script.finish_s)
        if script.finish is FinishEnd.DIES:
            raise _Abandoned("the finish process ended early")
        if script.finish is FinishEnd.HELD:
            raise _Abandoned("the DAG or its task is missing from the DAG file; the outcome is held")
        outcome = self._workload.outcome
        if outcome is None:
            raise Bug(f"workload {self._workload.workload_id} has no outcome to finish with")
        if outcome.verdict is Verdict.SUCCEEDED and script.finish is FinishEnd.BY_OUTCOME:
            self._say(TaskState.SUCCESS)
        else:
            # EmrStepCancelled is an AirflowFailException (task/step_errors.py): no retry.
            self._report_failure(may_retry=outcome.verdict is not Verdict.CANCELLED)

    def _park(self) -> None:
        """``PhaseProcess._park``: stage to S3 with signs of life, then store the step."""
        self._ticker.tick()
        if self._script.stage_s > 0.0:
            self._sleep(self._script.stage_s)
        if self._s3_is_down():
            raise _Outage("the step could not be staged")
        self._ticker.tick()
        step = step_of(self._workload, self._script)
        try:
            self._ticker.write(lambda: self._results.parked(step), meanwhile=self._beat_while_parking)
        except TryAgain as later:
            raise _Outage(f"the step could not be stored: {later}") from None
        self.parked = True

    def _beat_while_parking(self) -> None:
        """``PhaseProcess._beat``: a refusal is met by the next heartbeat."""
        self._ticker.tick()
        with suppress(_Refused, _Outage):
            self._beat()

    # -- user code and its signs of life -----------------------------------------------------------------

    def _user_code(self, seconds: float) -> None:
        """Runs for so long. Raises _Refused, _Outage, StaleWriter."""
        end = self._clock.monotonic() + seconds
        while (left := end - self._clock.monotonic()) > 0:
            self._ticker.tick()
            self._beat()
            # The first look comes at once, as in the stock supervisor.
            left = end - self._clock.monotonic()
            if left > 0:
                self._sleep(min(left, BEAT_S))

    def _beat(self) -> None:
        """``_send_heartbeat_if_needed`` of the stock supervisor (SUP:1699-1754)."""
        if self._clock.monotonic() - self._last_beat < BEAT_S:
            return
        self._last_beat = self._clock.monotonic()
        try:
            self._token = await_only(
                self._api.heartbeat(self._workload.workload_id, self._token, self._identity)
            )
        except ApiRefused as refused:
            if is_not_wanted(refused):
                raise _Refused from None
        except ApiSilent:
            pass
        else:
            self._heard_at = self._clock.monotonic()
            return
        if self._clock.monotonic() - self._heard_at >= OUTAGE_S:
            raise _Outage("no heartbeat got through to the Execution API")

    def _sleep(self, delay_s: float) -> None:
        await_only(self._clock.sleep(delay_s))

    # -- telling Airflow ---------------------------------------------------------------------------------

    def _report_failure(self, *, may_retry: bool) -> None:
        """User code raised: RetryTask where tries are left, else the state FAILED."""
        if may_retry and self._should_retry:
            self._say(TaskState.UP_FOR_RETRY)
        else:
            self._tell(TaskState.FAILED)

    def _say(self, state: TaskState) -> None:
        """SucceedTask and RetryTask are sent when the child says so, and once more at its end if that failed.

        (``_send_terminal_state_msg``, then ``update_task_state_if_needed``.) FAILED is sent at the end only.
        """
        try:
            self._tell(state)
        except (ApiRefused, ApiSilent):
            self._tell(state)

    def _tell(self, state: TaskState) -> None:
        self._ticker.intend(str(state))
        self._patiently(lambda: self._api.finish(self._workload.workload_id, self._token, state, by=self._by))
        self.told_state = str(state)

    def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """A request with the client's retries, which are for silence only; ticking between them."""
        until, attempt = self._clock.monotonic() + OUTAGE_S, 1
        while True:
            try:
                return await_only(call())
            except ApiSilent:
                if attempt >= API_ATTEMPTS and self._clock.monotonic() >= until:
                    raise
                longest_s = max(API_WAIT_MIN_S, min(LONGEST_PAUSE_S, 2.0 ** min(attempt - 1, 8)))
                self._ticker.sleep(self._rng.uniform(API_WAIT_MIN_S, longest_s))
                attempt += 1


def step_of(workload: Workload, script: TryScript) -> StepPlan:
    """The step that a prepare phase makes of a try."""
    return StepPlan(
        command=("spark-submit", workload.key.task_id),
        spec_uri=f"s3://staging/specs/{workload.key.task_id}.json",
        wrapper_uri="s3://staging/wrapper/emr_step_wrapper.py",
        execution_timeout_s=script.execution_timeout_s,
        translator="simulated",
    )

"""One Airflow scheduler with our executor in it, in virtual time.

``ModelScheduler`` calls its executor in the order of ``_run_scheduler_loop`` (SJR:1695). Its process may be
killed anywhere: all that is in memory is gone, and another takes over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from emr_executor.core.model import TaskKey
from emr_executor.errors import StoreBusy
from emr_executor.parked_tries import OUTCOMES_A_SYNC, ParkedTries
from emr_executor.ports import Clock
from tests.simulator.airflow_entities import TaskState
from tests.simulator.airflow_scheduling import ExecutorEvent
from tests.simulator.airflow_session import SchedulerSession


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerPace:
    """How often a scheduler does what; the defaults are Airflow's (config_templates/config.yml).

    loop_s: pause between two loops; Airflow's is 1 s when idle and none when not
    queued_a_loop: ``max_tis_per_query``
    """

    loop_s: float = 2.0
    queued_a_loop: int = 16
    beat_s: float = 5.0
    adopt_s: float = 300.0
    purge_s: float = 10.0
    stuck_s: float = 120.0


class ModelExecutor:
    """``emr_executor.executor`` over the model's transactions: its memory is production's own."""

    def __init__(self, session: SchedulerSession, clock: Clock) -> None:
        self._session, self._clock = session, clock
        self.job_id = 0
        self.events: dict[TaskKey, ExecutorEvent] = {}
        self.tries: ParkedTries[TaskKey] = ParkedTries()

    def failed_by_scheduler(self, key: TaskKey, why: str) -> None:
        """As ``EmrExecutor.change_state`` with FAILED."""
        self.tries.failed(key, TaskState.FAILED)
        self.events[key] = ExecutorEvent(TaskState.FAILED, why)

    async def heartbeat(self) -> None:
        """As ``EmrExecutor.heartbeat``: nothing escapes."""
        self.tries.begin_loop()
        for part in (self._store_late, self._adopt_late, self._send_cancels, self._take_outcomes):
            with suppress(StoreBusy):
                await part()

    async def _store_late(self) -> None:
        # No row of the model is one that the database refuses: nothing is tried one by one.
        if batch := self.tries.late():
            await self._session.accept_late(batch)
            self.tries.stored(batch)

    async def _adopt_late(self) -> None:
        if ids := self.tries.unadopted():
            await self._session.adopt_late(ids, self.job_id, self.tries, self._clock.now())
            self.tries.looked_for(ids)

    async def _send_cancels(self) -> None:
        for reason, ids in self.tries.cancels():
            await self._session.ask_cancel(ids, reason, self.job_id)
            self.tries.cancelled(ids)

    async def _take_outcomes(self) -> None:
        outcomes = await self._session.take_outcomes(self.job_id, OUTCOMES_A_SYNC)
        for outcome in self.tries.ended(outcomes):
            self.events[outcome.key] = ExecutorEvent(TaskState.SUCCESS)


class ModelScheduler:
    """A scheduler's process. ``run`` until ``stop``, or drop its task to kill it.

    session: its door to the database, behind its gate
    clock: of its host
    """

    def __init__(self, session: SchedulerSession, clock: Clock, pace: SchedulerPace | None = None) -> None:
        self._session, self._clock, self._pace = session, clock, pace or SchedulerPace()
        self.executor = ModelExecutor(session, clock)
        self._due: dict[str, float] = {}
        self._is_stopping = False

    @property
    def job_id(self) -> int:
        """0 until it has begun."""
        return self.executor.job_id

    def stop(self) -> None:
        """SIGTERM: the loop ends, and with it the job."""
        self._is_stopping = True

    async def run(self) -> None:
        """Begin a job and loop."""
        while not self.job_id:
            await self._guarded(self._begin)
            if not self.job_id:
                await self._clock.sleep(self._pace.loop_s)
        await self._guarded(self._adopt)
        while not self._is_stopping:
            await self.loop()
            await self._clock.sleep(self._pace.loop_s)
        await self._guarded(lambda: self._session.end_job(self.job_id))

    async def loop(self) -> None:
        """One pass of ``_run_scheduler_loop`` (SJR:1810-1880)."""
        await self._guarded(self._do_scheduling)
        await self.executor.heartbeat()
        await self._guarded(self._process_events)
        pace, job_id = self._pace, self.job_id
        if self._is_due("beat", pace.beat_s, at_first=True):
            await self._guarded(lambda: self._session.beat_job(job_id, self._clock.now()))
        if self._is_due("adopt", pace.adopt_s):
            await self._guarded(self._adopt)
        if self._is_due("purge", pace.purge_s):
            await self._guarded(lambda: self._session.purge(job_id, self.executor, self._clock.now()))
        if self._is_due("stuck", pace.stuck_s):
            await self._guarded(lambda: self._session.requeue_stuck(job_id, self.executor, self._clock.now()))

    async def _begin(self) -> None:
        self.executor.job_id = await self._session.begin_job(self._clock.now())

    async def _do_scheduling(self) -> None:
        session, limit = self._session, self._pace.queued_a_loop
        if session.may_schedule():
            await session.schedule(self._clock.now())
        if session.may_queue():
            await session.queue(self.job_id, self.executor, self._clock.now(), limit)

    async def _process_events(self) -> None:
        # get_event_buffer empties it first: what a failing transaction was to handle is gone.
        events, self.executor.events = self.executor.events, {}
        if events:
            await self._session.process_events(self.job_id, self.executor, events, self._clock.now())

    async def _adopt(self) -> None:
        await self._session.adopt_or_reset(self.job_id, self.executor, self._clock.now())

    def _is_due(self, what: str, every_s: float, *, at_first: bool = False) -> bool:
        now = self._clock.monotonic()
        due = self._due.get(what)
        if due is None:
            self._due[what] = now + every_s
            return at_first
        if now < due:
            return False
        self._due[what] = now + every_s
        return True

    @staticmethod
    async def _guarded(work: Callable[[], Awaitable[object]]) -> None:
        """A busy database ends Airflow's own loop, and its process is started anew; here it goes on."""
        with suppress(StoreBusy):
            await work()

"""One Airflow scheduler with our executor in it, in virtual time.

``ModelExecutor`` is ``emr_executor.executor.EmrExecutor`` line by line, without Airflow's classes: what that
does wrong, this does wrong too. ``ModelScheduler`` calls it in the order of ``_run_scheduler_loop``
(SJR:1695). Its process may be killed anywhere: all that is in memory is gone, and another takes over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from emr_executor.core.model import TaskKey, Workload, WorkloadId
from emr_executor.errors import StoreBusy
from emr_executor.ports import Clock
from tests.simulator.airflow_entities import SimTaskInstance, TaskState
from tests.simulator.airflow_scheduling import ExecutorEvent
from tests.simulator.airflow_session import SchedulerSession

OUTCOMES_A_SYNC = LATE_A_SYNC = 500
"""As ``emr_executor.executor``."""


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
    """The executor's memory and what it asks of the store."""

    def __init__(self, session: SchedulerSession, clock: Clock) -> None:
        self._session, self._clock = session, clock
        self.job_id = 0
        self.events: dict[TaskKey, ExecutorEvent] = {}
        self._parked: dict[WorkloadId, TaskKey | None] = {}
        self._late: dict[WorkloadId, Workload] = {}
        self._to_adopt: set[WorkloadId] = set()
        self._to_cancel: dict[WorkloadId, str] = {}
        self._revoked: dict[WorkloadId, TaskKey | None] = {}

    @property
    def parked(self) -> frozenset[WorkloadId]:
        """The tries that this executor believes to have."""
        return frozenset(self._parked)

    def queue_workload(self, workload: Workload) -> None:
        """As ``EmrExecutor.queue_workload``, whose statement the session makes."""
        self._forget(workload.workload_id)
        self._parked[workload.workload_id] = workload.key

    def accept_failed(self, workload: Workload) -> None:
        """Its statement failed: accepted in one of the next loops."""
        self._late[workload.workload_id] = workload

    def adopted(self, ti: SimTaskInstance) -> None:
        """As ``EmrExecutor._adopt``."""
        self._parked[WorkloadId(ti.ti_id)] = ti.key

    def adoption_failed(self, ti: SimTaskInstance) -> None:
        """As ``EmrExecutor.try_adopt_task_instances`` where its statement fails."""
        self._parked[WorkloadId(ti.ti_id)] = None
        self._to_adopt.add(WorkloadId(ti.ti_id))

    def has_task(self, ti: SimTaskInstance) -> bool:
        """As ``EmrExecutor.has_task``; ``queued_tasks`` and ``running`` are always empty."""
        return ti.ti_id in self._parked

    def revoke_task(self, ti: SimTaskInstance) -> None:
        """As ``EmrExecutor.revoke_task``."""
        workload_id = WorkloadId(ti.ti_id)
        key = self._parked.get(workload_id)
        self._forget(workload_id)
        self._revoked[workload_id] = key or ti.key

    def failed_by_scheduler(self, key: TaskKey, why: str) -> None:
        """As ``EmrExecutor.change_state`` with FAILED."""
        known = self._parked | self._revoked
        for workload_id in [w for w, held in known.items() if held == key]:
            self._forget(workload_id)
            self._to_cancel[workload_id] = "the scheduler set the try to failed"
        self.events[key] = ExecutorEvent(TaskState.FAILED, why)

    async def heartbeat(self) -> None:
        """As ``EmrExecutor.heartbeat``: nothing escapes."""
        self._revoked.clear()
        for part in (self._store_late, self._adopt_late, self._send_cancels, self._take_outcomes):
            try:
                await part()
            except StoreBusy:
                continue

    def _forget(self, workload_id: WorkloadId) -> None:
        for debt in (self._parked, self._late, self._to_cancel, self._revoked):
            debt.pop(workload_id, None)
        self._to_adopt.discard(workload_id)

    async def _store_late(self) -> None:
        # No row of the model is one that the database refuses: nothing is tried one by one.
        if batch := list(self._late.values())[:LATE_A_SYNC]:
            await self._session.accept_late(batch)
            for workload in batch:
                self._late.pop(workload.workload_id, None)

    async def _adopt_late(self) -> None:
        ids = sorted(self._to_adopt)[:LATE_A_SYNC]
        if not ids:
            return
        await self._session.adopt_late(ids, self.job_id, self, self._clock.now())
        for workload_id in ids:
            self._to_adopt.discard(workload_id)
            if self._parked.get(workload_id) is None:
                self._parked.pop(workload_id, None)

    async def _send_cancels(self) -> None:
        asked = {w: why for w, why in self._to_cancel.items() if w not in self._to_adopt}
        for reason in sorted(set(asked.values())):
            ids = [workload_id for workload_id, why in asked.items() if why == reason]
            await self._session.ask_cancel(ids, reason, self.job_id)
            for workload_id in ids:
                self._to_cancel.pop(workload_id, None)

    async def _take_outcomes(self) -> None:
        for outcome in await self._session.take_outcomes(self.job_id, OUTCOMES_A_SYNC):
            if outcome.workload_id in self._late:
                continue
            self._parked.pop(outcome.workload_id, None)
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
        try:
            await work()
        except StoreBusy:
            return

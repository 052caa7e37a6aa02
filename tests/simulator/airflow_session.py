"""The scheduler's transactions: rows of Airflow and of our store together, all of each or nothing.

In production the executor writes through the scheduler's own session (fact 11), so our row stands or falls
with Airflow's. Each method here is one such transaction: it has no await of its own, and the store
under it may not wait either, so no crash and no other process can come between. Faults stand before or
after a whole method: put the gate around this object, never around the store inside.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from emr_executor.core.model import TaskKey, Workload, WorkloadId
from emr_executor.errors import Bug, StoreBusy
from emr_executor.parked_tries import ParkedTries
from emr_executor.store.scheduler_store import Reported
from tests.simulator.airflow import AirflowModel
from tests.simulator.airflow_entities import SimTaskInstance
from tests.simulator.airflow_scheduling import ExecutorEvent
from tests.simulator.fault_profile import Shares
from tests.simulator.stores import StoreFunctions

if TYPE_CHECKING:
    from tests.simulator.scheduler import ModelExecutor

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class SessionFaults(Shares):
    """Faults inside of a transaction; shares of calls.

    accept_fails: our statement fails in its savepoint, QUEUED is committed (``_late`` of the executor)
    commit_fails: the executor was told, then everything is rolled back
    adopt_fails: our statement fails while adopting: the executor answers that it has taken them all
    """

    accept_fails: float = 0.0
    commit_fails: float = 0.0
    adopt_fails: float = 0.0


class SchedulerSession:
    """One scheduler's door to the database. Every method may raise StoreBusy, by the gate around it.

    airflow_slots: of the Airflow pool that all tasks share; None for no bound
    """

    def __init__(
        self,
        airflow: AirflowModel,
        store: StoreFunctions,
        *,
        rng: random.Random,
        faults: SessionFaults | None = None,
        airflow_slots: int | None = None,
    ) -> None:
        self._airflow, self._scheduling, self._store = airflow, airflow.scheduling, store
        self._rng, self._faults, self._slots = rng, faults or SessionFaults(), airflow_slots

    async def begin_job(self, now: datetime) -> int:
        """A scheduler starts; its job id."""
        return self._scheduling.begin_job(now.timestamp())

    async def beat_job(self, job_id: int, now: datetime) -> None:
        """The scheduler's own sign of life."""
        self._scheduling.beat_job(job_id, now.timestamp())

    async def end_job(self, job_id: int) -> None:
        """An orderly end."""
        self._scheduling.end_job(job_id)

    def may_schedule(self) -> bool:
        """Whether anything may be due: a loop of a scheduler with nothing to do should cost little."""
        return self._scheduling.may_schedule()

    def may_queue(self) -> bool:
        """Whether anything is SCHEDULED."""
        return self._scheduling.may_queue()

    async def schedule(self, now: datetime) -> None:
        """``_schedule_all_dag_runs``: what is due is SCHEDULED."""
        self._scheduling.schedule(now.timestamp())

    async def queue(self, job_id: int, executor: ModelExecutor, now: datetime, limit: int) -> int:
        """``_critical_section_enqueue_task_instances``: QUEUED and our row in one; how many."""
        tis = self._scheduling.to_queue(limit, self._slots)
        if not tis:
            return 0
        workloads = [workload_of(ti, job_id, now) for ti in tis]
        for workload in workloads:
            executor.tries.park(workload.workload_id, workload.key)
        if self._happens("commit_fails"):
            raise StoreBusy("simulated: the scheduler's transaction was rolled back")
        stored = [one for one in workloads if not self._happens("accept_fails")]
        at_once(self._store.accept(stored))
        kept = {one.workload_id for one in stored}
        for ti, workload in zip(tis, workloads, strict=True):
            if workload.workload_id not in kept:
                executor.tries.not_stored(workload)
            self._scheduling.queue(ti, job_id, now.timestamp())
        return len(tis)

    async def accept_late(self, workloads: Sequence[Workload]) -> None:
        """What could not be stored with QUEUED, in a transaction of its own."""
        at_once(self._store.accept(workloads))

    async def take_outcomes(self, job_id: int, limit: int) -> list[Reported]:
        """See ``scheduler_store``."""
        return at_once(self._store.take_outcomes(job_id, limit))

    async def ask_cancel(self, workload_ids: Collection[WorkloadId], reason: str, job_id: int) -> int:
        """See ``scheduler_store``."""
        return at_once(self._store.ask_cancel(workload_ids, reason, job_id))

    async def adopt_late(
        self, workload_ids: Collection[WorkloadId], job_id: int, tries: ParkedTries[TaskKey], now: datetime
    ) -> None:
        """``EmrExecutor._adopt_late``: those of the tries that Airflow has made this scheduler's."""
        found = map(self._airflow.find, workload_ids)
        ours = [ti for ti in found if ti is not None and ti.queued_by_job_id == job_id]
        if ours:
            self._try_adopt(ours, job_id, tries, now)

    async def process_events(
        self,
        job_id: int,
        executor: ModelExecutor,
        events: Mapping[TaskKey, ExecutorEvent],
        now: datetime,
    ) -> None:
        """See ``Scheduling.process_events``."""
        self._scheduling.process_events(
            job_id, events, lambda ti: ti.ti_id in executor.tries, now.timestamp()
        )

    async def purge(self, job_id: int, executor: ModelExecutor, now: datetime) -> None:
        """Tries without heartbeat: the executor is told to drop them; its event fails them (fact 9)."""
        for ti in self._scheduling.silent(job_id, now.timestamp()):
            executor.failed_by_scheduler(ti.key, "purged")

    async def requeue_stuck(self, job_id: int, executor: ModelExecutor, now: datetime) -> None:
        """``_handle_tasks_stuck_in_queued`` (SJR:3015)."""
        for ti in self._scheduling.stuck(job_id, now.timestamp()):
            executor.tries.revoke(WorkloadId(ti.ti_id), ti.key)
            if not self._scheduling.requeue_stuck(ti):
                executor.failed_by_scheduler(ti.key, "")

    async def adopt_or_reset(self, job_id: int, executor: ModelExecutor, now: datetime) -> None:
        """``adopt_or_reset_orphaned_tasks`` (SJR:3281) with ``try_adopt_task_instances``."""
        now_s = now.timestamp()
        self._scheduling.fail_silent_jobs(now_s)
        orphans = self._scheduling.orphans()
        if not orphans:
            return
        try:
            unknown = self._try_adopt(orphans, job_id, executor.tries, now)
        except StoreBusy:
            # executor.py try_adopt_task_instances answers [] to any error, that is "all are mine".
            unknown = []
            for ti in orphans:
                ti.last_heartbeat_at = now_s
                executor.tries.park_unadopted(WorkloadId(ti.ti_id))
        for ti in unknown:
            self._scheduling.reset(ti)
        for ti in orphans:
            if ti not in unknown:
                self._scheduling.adopt(ti, job_id, now_s)

    def _try_adopt(
        self, tis: Sequence[SimTaskInstance], job_id: int, tries: ParkedTries[TaskKey], now: datetime
    ) -> list[SimTaskInstance]:
        if self._happens("adopt_fails"):
            raise StoreBusy("simulated: the adopting statement failed")
        ids = [WorkloadId(ti.ti_id) for ti in tis]
        known = at_once(self._store.adopt(ids, job_id))
        unknown: list[SimTaskInstance] = []
        for ti in tis:
            if ti.ti_id not in known:
                if ti.state != "queued":
                    unknown.append(ti)
                    continue
                at_once(self._store.accept([workload_of(ti, job_id, now)]))
            ti.last_heartbeat_at = now.timestamp()
            tries.adopted(WorkloadId(ti.ti_id), ti.key)
        return unknown

    def _happens(self, what: str) -> bool:
        return self._faults.happens(what, self._rng)


def workload_of(ti: SimTaskInstance, job_id: int, now: datetime) -> Workload:
    """A try as ``airflow_mapping.to_workload`` makes it."""
    key, script = ti.key, ti.script
    return Workload(
        workload_id=WorkloadId(ti.ti_id),
        key=key,
        cluster_pool=script.cluster_pool,
        queue=script.queue,
        priority_weight=script.priority_weight,
        accepted_at=now,
        scheduler_job_id=job_id,
        workload={"ti": {"id": ti.ti_id, "try_number": key.try_number}},
        log_path=f"{ti.task}/attempt={key.try_number}.log",
    )


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing. Raises Bug where it would wait."""
    try:
        work.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    work.close()
    raise Bug("a transaction waited: give SchedulerSession a store that works on the spot, with no gate")

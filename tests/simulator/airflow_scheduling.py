"""What Airflow's schedulers do to the rows, each method one of their transactions.

``now_s`` is by the calling scheduler's clock: Airflow compares its wall clocks across hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from emr_executor.core.model import TaskKey
from tests.simulator.airflow_entities import ADOPTABLE, Job, SimTaskInstance, TaskState
from tests.simulator.airflow_tables import AirflowTables, task_name

HEARTBEAT_TIMEOUT_S = 300.0
"""``[scheduler] task_instance_heartbeat_timeout``."""
HEALTH_THRESHOLD_S = 30.0
"""``[scheduler] scheduler_health_check_threshold``."""
TASK_QUEUED_TIMEOUT_S = 600.0
"""``[scheduler] task_queued_timeout``."""
STUCK_RETRIES = 2
"""``[scheduler] num_stuck_in_queued_retries`` (its fallback, SJR:342)."""
_ALIVE_FOR_EVENTS = frozenset(
    {TaskState.SCHEDULED, TaskState.QUEUED, TaskState.RUNNING, TaskState.RESTARTING}
)
"""Where an executor's event that it is done means "killed externally" (SJR:1465)."""


@dataclass(frozen=True, slots=True)
class ExecutorEvent:
    """An entry of the executor's event buffer. why: ``purged`` for the heartbeat purge's, else empty."""

    state: TaskState
    why: str = ""


class Scheduling:
    """The scheduler's statements over the tables."""

    def __init__(self, tables: AirflowTables) -> None:
        self._tables = tables
        self.task_queued_timeout_s = TASK_QUEUED_TIMEOUT_S
        self.heartbeat_timeout_s = HEARTBEAT_TIMEOUT_S
        self._silent_not_before = 0.0

    # -- jobs --------------------------------------------------------------------------------------------

    def begin_job(self, now_s: float) -> int:
        """A scheduler starts. Returns its job id."""
        job_id = len(self._tables.jobs) + 1
        self._tables.jobs[job_id] = Job(job_id, now_s)
        return job_id

    def beat_job(self, job_id: int, now_s: float) -> None:
        """A scheduler's own heartbeat. It undoes having been declared dead (jobs/job.py:217, merge)."""
        job = self._tables.jobs[job_id]
        job.latest_heartbeat, job.is_running = now_s, True

    def end_job(self, job_id: int) -> None:
        """An orderly end: what it queued can be adopted at once."""
        self._tables.jobs[job_id].is_running = False

    def fail_silent_jobs(self, now_s: float) -> None:
        """Declare dead who has been silent for longer than the health threshold (SJR:3299)."""
        for job in self._tables.jobs.values():
            if job.is_running and job.latest_heartbeat < now_s - HEALTH_THRESHOLD_S:
                job.is_running = False
                self._tables.tell("scheduler_died", None, detail={"job": job.job_id})

    # -- queueing ----------------------------------------------------------------------------------------

    def may_schedule(self) -> bool:
        """Whether anything waits for its time."""
        tables = self._tables
        return bool(tables.count(None) or tables.count(TaskState.UP_FOR_RETRY))

    def may_queue(self) -> bool:
        """Whether anything is SCHEDULED."""
        return self._tables.count(TaskState.SCHEDULED) > 0

    def schedule(self, now_s: float) -> None:
        """What waits for nothing gets its next number and is SCHEDULED (models/dagrun.py:2129)."""
        tables = self._tables
        due = [ti for ti in tables.in_state(TaskState.UP_FOR_RETRY) if ti.retry_at <= now_s]
        for ti in (*tables.in_state(None), *due):
            is_later = ti.try_number > 0
            tables.next_try(ti)
            if is_later:
                tables.tell("retried", ti)

    def to_queue(self, limit: int, slots: int | None) -> list[SimTaskInstance]:
        """SCHEDULED ones, by priority_weight, then age; no more than ``limit`` and the slots left.

        slots: of that pool; QUEUED and RUNNING count (models/pool.py:289)
        """
        tables = self._tables
        if slots is not None:
            limit = min(limit, slots - tables.count(TaskState.QUEUED) - tables.count(TaskState.RUNNING))
        if limit <= 0 or not tables.count(TaskState.SCHEDULED):
            return []
        waiting = tables.in_state(TaskState.SCHEDULED)
        return sorted(waiting, key=lambda ti: (-ti.script.priority_weight, ti.number))[:limit]

    def queue(self, ti: SimTaskInstance, job_id: int, now_s: float) -> None:
        """SCHEDULED -> QUEUED by this scheduler."""
        ti.queued_by_job_id, ti.queued_at = job_id, now_s
        self._tables.set_state(ti, TaskState.QUEUED)
        self._tables.tell("queued", ti)

    # -- the executor's events ---------------------------------------------------------------------------

    def process_events(
        self,
        job_id: int,
        events: Mapping[TaskKey, ExecutorEvent],
        has_task: Callable[[SimTaskInstance], bool],
        now_s: float,
    ) -> None:
        """``process_executor_events`` (SJR:1313-1632).

        Nothing happens to a try that is over, has another number, was queued by another scheduler, or that
        the executor still has. RESTARTING with SUCCESS is freed; anything else is "killed externally".
        """
        # Of several tries of one task only the last event's number counts (SJR:1346).
        last = {task_name(key): (key.try_number, event) for key, event in events.items()}
        for task, (try_number, event) in last.items():
            ti = self._tables.task(task)
            if ti is None or ti.try_number != try_number or ti.state not in _ALIVE_FOR_EVENTS:
                continue
            if ti.queued_by_job_id != job_id or has_task(ti):
                continue
            if ti.state is TaskState.RESTARTING and event.state is TaskState.SUCCESS:
                ti.max_tries = ti.try_number + ti.script.retries
                self._tables.set_state(ti, None)
                self._tables.tell("freed", ti)
            else:
                self._handle_failure(ti, event, now_s)

    def _handle_failure(self, ti: SimTaskInstance, event: ExecutorEvent, now_s: float) -> None:
        """TI:1859: only a RUNNING try is archived; a QUEUED or SCHEDULED one passes its id to the next."""
        before, ti_id = ti.state, ti.ti_id
        is_eligible = ti.script.retries > 0 and ti.try_number <= ti.max_tries
        if before is TaskState.RESTARTING or is_eligible:
            if before is TaskState.RUNNING:
                self._tables.archive(ti)
            ti.retry_at = now_s + ti.script.retry_delay_s
            self._tables.set_state(ti, TaskState.UP_FOR_RETRY)
        else:
            self._tables.set_state(ti, TaskState.FAILED)
        name = "purged" if event.why == "purged" else "killed_externally"
        self._tables.tell(name, ti, ti_id=ti_id, detail={"by": str(event.state), "was": before or ""})

    # -- watching ----------------------------------------------------------------------------------------

    def silent(self, job_id: int, now_s: float) -> list[SimTaskInstance]:
        """RUNNING and RESTARTING tries of this scheduler without a heartbeat for too long (SJR:3540)."""
        limit = now_s - self.heartbeat_timeout_s
        if limit <= self._silent_not_before:
            return []
        watched = self._tables.in_state(TaskState.RUNNING, TaskState.RESTARTING)
        beats = [ti.last_heartbeat_at for ti in watched if ti.last_heartbeat_at is not None]
        # Heartbeats only grow, so nothing can be silent before the oldest of them is.
        self._silent_not_before = min(beats, default=limit)
        return [
            ti
            for ti in watched
            if ti.last_heartbeat_at is not None
            and ti.last_heartbeat_at < limit
            and ti.queued_by_job_id == job_id
        ]

    def stuck(self, job_id: int, now_s: float) -> list[SimTaskInstance]:
        """Tries that this scheduler queued ``task_queued_timeout`` ago (SJR:3038)."""
        limit = now_s - self.task_queued_timeout_s
        return [
            ti
            for ti in self._tables.in_state(TaskState.QUEUED)
            if ti.queued_by_job_id == job_id and ti.queued_at is not None and ti.queued_at < limit
        ]

    def requeue_stuck(self, ti: SimTaskInstance) -> bool:
        """Send a stuck try round again, with its id and number; False: too often, it FAILED (SJR:3047)."""
        if ti.times_stuck >= STUCK_RETRIES:
            self._tables.set_state(ti, TaskState.FAILED)
            self._tables.tell("queued_too_long", ti)
            return False
        ti.times_stuck += 1
        ti.queued_at = ti.queued_by_job_id = None
        self._tables.set_state(ti, TaskState.SCHEDULED)
        self._tables.tell("requeued", ti)
        return True

    def orphans(self) -> list[SimTaskInstance]:
        """Tries whose scheduler no longer runs (SJR:3311); those without one are nobody's."""
        jobs = self._tables.jobs
        return [
            ti
            for ti in self._tables.in_state(*ADOPTABLE)
            if ti.queued_by_job_id is not None and not jobs[ti.queued_by_job_id].is_running
        ]

    def adopt(self, ti: SimTaskInstance, job_id: int, now_s: float) -> None:
        """The try belongs to this scheduler now (SJR:3362-3366)."""
        ti.queued_by_job_id = job_id
        if ti.last_heartbeat_at is None:
            ti.last_heartbeat_at = now_s
        self._tables.tell("adopted", ti, detail={"job": job_id})

    def reset(self, ti: SimTaskInstance) -> None:
        """The executor did not know the try: archived, scheduled anew under another id (SJR:3348-3360)."""
        before, ti_id = ti.state, ti.ti_id
        self._tables.archive(ti)
        ti.queued_by_job_id = None
        self._tables.set_state(ti, None)
        self._tables.tell("reset", ti, ti_id=ti_id, detail={"was": before or ""})

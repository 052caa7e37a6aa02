"""The limits of Airflow that can hold a task back, each with how much of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow.configuration import conf
from airflow.jobs.job import Job, JobState
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.ti_deps.dependencies_states import EXECUTION_STATES
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import func, select
from sqlalchemy.orm import Session

SCHEDULER_JOB = "SchedulerJob"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit: ``used`` of ``allowed`` are taken, and the task needs ``needed`` more.

    name: ``pool``, or the option's name as Airflow spells it
    subject: the pool's name, for a pool
    allowed: None is unlimited
    holds: whether the task does not fit
    """

    name: str
    used: int
    allowed: int | None
    needed: int = 1
    subject: str | None = None
    holds: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", self.allowed is not None and self.used + self.needed > self.allowed)


def pool_limit(session: Session, ti: Any) -> Limit:
    """Slots of the task's Airflow pool. A pool that does not exist allows none."""
    pool = session.scalar(select(Pool).where(Pool.pool == ti.pool))
    allowed: int | None = 0
    states = {*EXECUTION_STATES}
    if pool is not None:
        allowed = None if pool.slots < 0 else pool.slots
        if pool.include_deferred:
            states.add(TaskInstanceState.DEFERRED)
    taken = select(func.sum(TaskInstance.pool_slots)).where(
        TaskInstance.pool == ti.pool, TaskInstance.state.in_(states)
    )
    used = int(session.scalar(taken) or 0)
    return Limit(name="pool", used=used, allowed=allowed, needed=ti.pool_slots, subject=ti.pool)


def runs_limit(session: Session, dag: Any, run: Any) -> Limit:
    """Running runs of the DAG against ``max_active_runs``; a backfill has a limit of its own."""
    of_same = (
        DagRun.backfill_id.is_(None) if run.backfill_id is None else DagRun.backfill_id == run.backfill_id
    )
    running = select(func.count()).where(
        DagRun.dag_id == run.dag_id, DagRun.state == DagRunState.RUNNING, of_same
    )
    allowed = dag.max_active_runs if run.backfill_id is None else run.backfill_max_active_runs
    return Limit(name="max_active_runs", used=session.scalar(running) or 0, allowed=allowed or None)


def parallelism_limit(session: Session, ours_by_scheduler: Mapping[int | None, int]) -> Limit:
    """``[core] parallelism`` of the scheduler with most room: tries of all executors but ours count.

    A parked try holds no slot (``EmrExecutor.slots_occupied``), so live workloads are taken off.
    """
    taken = (
        select(TaskInstance.queued_by_job_id, func.count())
        .where(TaskInstance.state.in_(EXECUTION_STATES))
        .group_by(TaskInstance.queued_by_job_id)
    )
    by_job: dict[int | None, int] = {row[0]: row[1] for row in session.execute(taken)}
    jobs = [job.id for job in _live_schedulers(session)]
    used = min((max(0, by_job.get(job, 0) - ours_by_scheduler.get(job, 0)) for job in jobs), default=0)
    return Limit(name="parallelism", used=used, allowed=conf.getint("core", "parallelism"))


def schedulers_alive(session: Session) -> int:
    """How many schedulers gave a sign of life lately."""
    return len(_live_schedulers(session))


def _live_schedulers(session: Session) -> list[Any]:
    running = select(Job).where(Job.job_type == SCHEDULER_JOB, Job.state == JobState.RUNNING)
    return [job for job in session.scalars(running) if job.is_alive()]

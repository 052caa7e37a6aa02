"""Airflow's half of ``explain``: where a task instance stands and which of Airflow's limits holds it.

Read through Airflow's own models, on the connection of the one transaction that reads everything. The
limits are those of ``SchedulerJobRunner._executable_task_instances_to_queued`` (airflow 3.3): pool slots,
``max_active_tasks`` of the DAG run, ``max_active_tis_per_dag`` and ``_per_dagrun``, ``[core] parallelism``.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from airflow.configuration import conf
from airflow.jobs.job import Job, JobState
from airflow.models.dag import DagModel
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.ti_deps.dependencies_states import ACTIVE_STATES, EXECUTION_STATES
from airflow.utils.state import DagRunState, State, TaskInstanceState
from sqlalchemy import Connection, func, select
from sqlalchemy.orm import Session

from emr_executor.cli.formatting import filled
from emr_executor.cli.read_only import CannotTell
from emr_executor.store import queries

WAITING_STATES = frozenset({None, "scheduled", "up_for_retry", "up_for_reschedule"})
"""States in which Airflow, and not we, has the next word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A task that the explained one follows and that is not over: its instances by state."""

    task_id: str
    states: dict[str, int]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AirflowFacts:
    """A task instance as Airflow has it.

    ti_id: also the id of our workload
    state: None while the scheduler has not looked at it, or its upstream is not done
    instances: how many instances of the task the run has by state, when it is mapped
    next_retry_at: when an up_for_retry try may be scheduled again
    executor_known: whether ``[core] executor`` names the task's executor
    limits, upstream, other_reasons: empty where the state says that Airflow does not hold the task
    other_reasons: what Airflow's own dependency checks say (depends_on_past, reschedule, ...)
    """

    ti_id: str
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    max_tries: int
    state: str | None
    queue: str | None
    executor: str | None
    executor_known: bool
    start_date: datetime | None
    end_date: datetime | None
    scheduled_at: datetime | None
    queued_at: datetime | None
    last_heartbeat_at: datetime | None
    next_retry_at: datetime | None = None
    run_state: str
    run_after: datetime | None
    dag_paused: bool
    instances: dict[str, int]
    schedulers_alive: int
    limits: tuple[Limit, ...] = ()
    trigger_rule: str | None = None
    upstream: tuple[Upstream, ...] = ()
    other_reasons: tuple[str, ...] = ()


def read_airflow(
    conn: Connection, *, dag_id: str, task_id: str, run_id: str | None, map_index: int | None
) -> AirflowFacts:
    """The facts of one task instance, of the latest run unless one is named. Raises CannotTell."""
    with Session(bind=conn, autoflush=False) as session:
        dag = session.get(DagModel, dag_id)
        run = _run(session, dag_id, run_id, is_known=dag is not None)
        tis = _instances(session, run, task_id)
        ti = _chosen(tis, map_index)
        schedulers = _live_schedulers(session)
        waits: dict[str, Any] = {}
        if ti.state in WAITING_STATES:
            waits = _dependencies(session, run, ti)
            parallelism = _parallelism(session, schedulers, queries.live_by_scheduler(conn))
            waits["limits"] = (*_limits(session, dag, run, ti), parallelism)
        return filled(
            AirflowFacts,
            ti,
            ti_id=str(ti.id),
            executor_known=_is_executor_known(ti.executor),
            scheduled_at=ti.scheduled_dttm,
            queued_at=ti.queued_dttm,
            run_state=str(run.state),
            run_after=run.run_after,
            dag_paused=bool(dag and dag.is_paused),
            instances=dict(Counter(state_name(one.state) for one in tis)) if len(tis) > 1 else {},
            schedulers_alive=len(schedulers),
            **waits,
        )


def _run(session: Session, dag_id: str, run_id: str | None, *, is_known: bool) -> Any:
    runs = select(DagRun).where(DagRun.dag_id == dag_id).order_by(DagRun.run_after.desc(), DagRun.id.desc())
    if run_id is not None:
        runs = runs.where(DagRun.run_id == run_id)
    run = session.scalars(runs.limit(1)).one_or_none()
    if run is not None:
        return run
    if is_known:
        what = f"has no run {run_id!r}" if run_id else "has never run: trigger it, or wait for its schedule"
        raise CannotTell(f"DAG {dag_id!r} {what}")
    names = session.scalars(select(DagModel.dag_id)).all()
    raise CannotTell(f"Airflow knows no DAG {dag_id!r}{_did_you_mean(dag_id, names)}")


def _instances(session: Session, run: Any, task_id: str) -> Sequence[Any]:
    of_run = (TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)
    asked = select(TaskInstance).where(*of_run, TaskInstance.task_id == task_id)
    found = session.scalars(asked.order_by(TaskInstance.map_index)).all()
    if not found:
        names = session.scalars(select(TaskInstance.task_id).where(*of_run).distinct()).all()
        raise CannotTell(
            f"run {run.run_id!r} of DAG {run.dag_id!r} has no task {task_id!r}{_did_you_mean(task_id, names)}"
        )
    return found


def _chosen(tis: Sequence[Any], map_index: int | None) -> Any:
    """The named instance; unnamed the first that is not over, else the last."""
    if map_index is None:
        return next((ti for ti in tis if ti.state not in State.finished), tis[-1])
    for ti in tis:
        if ti.map_index == map_index:
            return ti
    indexes = f"0 to {tis[-1].map_index}" if tis[-1].map_index >= 0 else "none: it is not mapped"
    raise CannotTell(f"task {tis[0].task_id!r} has no map index {map_index}; it has {indexes}")


def _dependencies(session: Session, run: Any, ti: Any) -> dict[str, Any]:
    """What the DAG itself says: upstream tasks that are not over, and Airflow's own checks beyond them."""
    dag = DBDagBag(load_op_links=False).get_dag_for_run(run, session)
    if dag is None or not dag.has_task(ti.task_id):
        return {"other_reasons": ("the DAG as Airflow has it stored no longer has this task",)}
    ti.task = task = dag.get_task(ti.task_id)
    found: dict[str, Any] = {"trigger_rule": str(getattr(task, "trigger_rule", "")) or None}
    if ti.state == TaskInstanceState.UP_FOR_RETRY:
        found["next_retry_at"] = ti.next_retry_datetime()
    elif ti.state is None or ti.state == TaskInstanceState.UP_FOR_RESCHEDULE:
        upstream = _unfinished(session, run, sorted(task.upstream_task_ids))
        statuses = [status for status in ti.get_failed_dep_statuses(session=session) if status.reason]
        told = {"Trigger Rule"} if upstream else set()
        reasons = (f"{one.dep_name}: {one.reason}" for one in statuses if one.dep_name not in told)
        found |= {"upstream": upstream, "other_reasons": tuple(sorted(reasons))}
    return found


def _unfinished(session: Session, run: Any, task_ids: list[str]) -> tuple[Upstream, ...]:
    asked = (
        select(TaskInstance.task_id, TaskInstance.state, func.count())
        .where(
            TaskInstance.dag_id == run.dag_id,
            TaskInstance.run_id == run.run_id,
            TaskInstance.task_id.in_(task_ids),
        )
        .group_by(TaskInstance.task_id, TaskInstance.state)
    )
    states: dict[str, dict[str, int]] = {task_id: {} for task_id in task_ids}
    for task_id, state, count in session.execute(asked):
        if state not in State.finished:
            states[task_id][state_name(state)] = count
    return tuple(Upstream(task_id=task_id, states=of) for task_id, of in states.items() if of)


def _limits(session: Session, dag: Any, run: Any, ti: Any) -> Iterator[Limit]:
    yield _pool(session, ti)
    of_dag = (TaskInstance.dag_id == ti.dag_id,)
    of_run = (*of_dag, TaskInstance.run_id == ti.run_id)
    if dag is not None:
        used = _count(session, *of_run, TaskInstance.state.in_(EXECUTION_STATES))
        yield Limit(name="max_active_tasks", used=used, allowed=dag.max_active_tasks)
        if run.state == DagRunState.QUEUED:
            yield _active_runs(session, dag, run)
    task = getattr(ti, "task", None)
    active = TaskInstance.state.in_(ACTIVE_STATES)
    for name, which in (("max_active_tis_per_dag", of_dag), ("max_active_tis_per_dagrun", of_run)):
        allowed = getattr(task, name, None)
        if allowed is not None:
            used = _count(session, *which, TaskInstance.task_id == ti.task_id, active)
            yield Limit(name=name, used=used, allowed=allowed)


def _pool(session: Session, ti: Any) -> Limit:
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


def _active_runs(session: Session, dag: Any, run: Any) -> Limit:
    """Running runs of the DAG against ``max_active_runs``; a backfill has a limit of its own."""
    running = select(func.count()).where(
        DagRun.dag_id == run.dag_id,
        DagRun.state == DagRunState.RUNNING,
        DagRun.backfill_id.is_not_distinct_from(run.backfill_id),
    )
    allowed = dag.max_active_runs if run.backfill_id is None else run.backfill_max_active_runs
    return Limit(name="max_active_runs", used=session.scalar(running) or 0, allowed=allowed or None)


def _parallelism(session: Session, schedulers: list[int], ours: Mapping[int | None, int]) -> Limit:
    """``[core] parallelism`` of the scheduler with most room: tries of all executors but ours count.

    A parked try holds no slot (``EmrExecutor.slots_occupied``), so live workloads are taken off.
    """
    job = TaskInstance.queued_by_job_id
    taken = select(job, func.count()).where(TaskInstance.state.in_(EXECUTION_STATES)).group_by(job)
    by_job: dict[int | None, int] = {row[0]: row[1] for row in session.execute(taken)}
    used = min((max(0, by_job.get(one, 0) - ours.get(one, 0)) for one in schedulers), default=0)
    return Limit(name="parallelism", used=used, allowed=conf.getint("core", "parallelism"))


def _live_schedulers(session: Session) -> list[int]:
    """The jobs of the schedulers that gave a sign of life lately."""
    running = select(Job).where(Job.job_type == "SchedulerJob", Job.state == JobState.RUNNING)
    return [job.id for job in session.scalars(running) if job.is_alive()]


def _count(session: Session, *which: Any) -> int:
    return session.scalar(select(func.count()).select_from(TaskInstance).where(*which)) or 0


def _is_executor_known(executor: str | None) -> bool:
    from airflow.executors.executor_loader import ExecutorLoader

    if executor is None:
        return True
    names = ExecutorLoader.get_executor_names(validate_teams=False)
    known = {known for name in names for known in (name.alias, name.module_path)}
    return executor in known or executor in {path.rpartition(".")[2] for path in known if path}


def state_name(state: Any) -> str:
    """A task instance's state as a word; the database has no word for the first one."""
    return "not scheduled" if state is None else str(state)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""

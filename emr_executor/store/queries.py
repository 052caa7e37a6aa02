"""What people ask, for the command line: read-only, each answer bounded by a limit or by what lives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Table, and_, case, func, or_, select, tuple_

from emr_executor.core.model import Cluster, HistoryEntry, Submission, TaskKey, Workload, WorkloadId
from emr_executor.core.states import (
    LIVE_SUBMISSION_STATES,
    OVER_CLUSTER_STATES,
    ClusterState,
    StepState,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.store.clauses import LIVE_WORKLOAD_STATES, is_none_of
from emr_executor.store.lease_store import LeaseRow, read_lease
from emr_executor.store.rows import (
    cluster_from,
    history_entry_from,
    submission_from,
    task_key_from,
    workload_from,
)
from emr_executor.store.schema import (
    CLUSTER,
    HISTORY,
    IS_UNREAD_END,
    STEERING,
    SUBMISSION,
    TASK_INSTANCE,
    WORKLOAD,
    ReportState,
)
from emr_executor.store.snapshot_store import PARKED, RUNNING, task_instance_id
from emr_executor.store.unreadable import known_or_text

_LIVE_SUBMISSIONS = tuple(sorted(LIVE_SUBMISSION_STATES))
_IS_PRESENT = is_none_of(CLUSTER.c.state, OVER_CLUSTER_STATES)
_KEY_COLUMNS = [WORKLOAD.c[name] for name in ("dag_id", "task_id", "run_id", "try_number", "map_index")]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadCount:
    """How many live workloads of a cluster pool stand in a state, and since when the first of them.

    quarantined: how many of them are in quarantine
    """

    cluster_pool: str
    state: WorkloadState
    target: WorkloadTarget
    count: int
    oldest: datetime
    quarantined: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The whole at one glance.

    clusters: (cluster pool, state, count) of those that are not over
    submissions: (state, count) of the live ones; CANCEL_PENDING, as EMR has it, goes before our own state
    unread: workloads that are over and that their scheduler has not heard of yet
    steering: the lease of the agent that steers
    """

    workloads: tuple[WorkloadCount, ...]
    clusters: tuple[tuple[str, ClusterState, int], ...]
    submissions: tuple[tuple[str, int], ...]
    unread: int
    steering: LeaseRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A row in quarantine that is not over.

    quarantine: the reason, and under it the row's story
    target: of a workload or a cluster
    """

    entity: str
    row_id: str
    state: str
    quarantine: str
    target: str | None = None
    key: TaskKey | None = None
    cluster_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLoad:
    """A cluster and its steps: ``live`` intended, pending or running, ``running`` of them in a slot."""

    cluster: Cluster
    live: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """A submission and whose it is.

    cluster_id: None while its cluster's launch is unresolved
    losses: how many submissions of its workload died with their cluster
    """

    submission: Submission
    key: TaskKey
    cluster_id: str | None
    losses: int = 0


def status(conn: Connection) -> Status:
    """Counts of what lives, in a handful of statements."""
    w = WORKLOAD.c
    group = (w.cluster_pool, w.state, w.target)
    held = func.count(w.quarantine).label("quarantined")
    counted = (
        select(*group, func.count().label("count"), func.min(w.accepted_at).label("oldest"), held)
        .where(w.state.in_(LIVE_WORKLOAD_STATES))
        .group_by(*group)
        .order_by(*group)
    )
    unread = and_(IS_UNREAD_END, w.reported == ReportState.UNREAD)
    clusters = _counted(conn, CLUSTER, _IS_PRESENT, "cluster_pool", "state")
    steps: Counter[str] = Counter()
    for step_state, state, count in _counted(
        conn, SUBMISSION, SUBMISSION.c.state.in_(_LIVE_SUBMISSIONS), "step_state", "state"
    ):
        steps[step_state if step_state == StepState.CANCEL_PENDING else state] += count
    return Status(
        workloads=tuple(
            WorkloadCount(
                cluster_pool=row["cluster_pool"],
                state=WorkloadState(row["state"]),
                target=known_or_text(WorkloadTarget, row["target"]),
                count=row["count"],
                oldest=row["oldest"],
                quarantined=row["quarantined"],
            )
            for row in conn.execute(counted).mappings()
        ),
        clusters=tuple((row[0], known_or_text(ClusterState, row[1]), row[2]) for row in clusters),
        submissions=tuple(sorted(steps.items())),
        unread=conn.execute(select(func.count()).select_from(WORKLOAD).where(unread)).scalar_one(),
        steering=read_lease(conn, STEERING),
    )


def quarantined(conn: Connection) -> tuple[Held, ...]:
    """Rows in quarantine that are not over: workloads, submissions, clusters, each by its id."""
    w, s, c = WORKLOAD.c, SUBMISSION.c, CLUSTER.c
    rides = SUBMISSION.join(WORKLOAD, w.workload_id == s.workload_id).outerjoin(
        CLUSTER, c.cluster_uuid == s.cluster_uuid
    )
    workloads = conn.execute(
        select(w.workload_id.label("row_id"), w.state, w.quarantine, w.target, *_KEY_COLUMNS)
        .where(w.state.in_(LIVE_WORKLOAD_STATES), w.quarantine.is_not(None))
        .order_by(w.workload_id)
    ).mappings()
    submissions = conn.execute(
        select(s.submission_id.label("row_id"), s.state, s.quarantine, c.cluster_id, *_KEY_COLUMNS)
        .select_from(rides)
        .where(s.state.in_(_LIVE_SUBMISSIONS), s.quarantine.is_not(None))
        .order_by(s.submission_id)
    ).mappings()
    clusters = conn.execute(
        select(c.cluster_uuid.label("row_id"), c.state, c.quarantine, c.target, c.cluster_id)
        .where(_IS_PRESENT, c.quarantine.is_not(None))
        .order_by(c.cluster_uuid)
    ).mappings()
    return (
        *(_held("workload", row) for row in workloads),
        *(_held("submission", row) for row in submissions),
        *(_held("cluster", row) for row in clusters),
    )


def _held(entity: str, row: RowMapping) -> Held:
    return Held(
        entity=entity,
        row_id=row["row_id"],
        state=row["state"],
        quarantine=row["quarantine"],
        target=row.get("target"),
        key=task_key_from(row) if "dag_id" in row else None,
        cluster_id=row.get("cluster_id"),
    )


def clusters(conn: Connection, *, over: int = 0) -> tuple[ClusterLoad, ...]:
    """Clusters that are not over, oldest first, after the ``over`` last ones that are, each with its load."""
    is_over = CLUSTER.c.state.in_(sorted(OVER_CLUSTER_STATES))
    past = select(CLUSTER).where(is_over).order_by(CLUSTER.c.intended_at.desc()).limit(over)
    present = select(CLUSTER).where(_IS_PRESENT).order_by(CLUSTER.c.intended_at, CLUSTER.c.cluster_uuid)
    rows = [*reversed(conn.execute(past).mappings().all()), *conn.execute(present).mappings()]
    running = case((SUBMISSION.c.state == SubmissionState.RUNNING, 1), else_=0)
    loads = (
        select(SUBMISSION.c.cluster_uuid, func.count(), func.sum(running))
        .where(SUBMISSION.c.state.in_(_LIVE_SUBMISSIONS))
        .group_by(SUBMISSION.c.cluster_uuid)
    )
    load_of = {row[0]: (row[1], row[2]) for row in conn.execute(loads)}
    found = ((cluster_from(row), load_of.get(row["cluster_uuid"], (0, 0))) for row in rows)
    return tuple(ClusterLoad(cluster=one, live=live, running=runs) for one, (live, runs) in found)


def live_steps(conn: Connection, limit: int, *, dag_id: str | None = None) -> tuple[StepView, ...]:
    """Live submissions, of one DAG or of all, the longest there first."""
    live = SUBMISSION.c.state.in_(_LIVE_SUBMISSIONS)
    by_age = (SUBMISSION.c.intended_at, SUBMISSION.c.submission_id)
    return _steps(conn, limit, live, *by_age, dag_id=dag_id)


def past_steps(conn: Connection, limit: int, *, dag_id: str | None = None) -> tuple[StepView, ...]:
    """The last submissions that are over, of one DAG or of all, the oldest of them first."""
    over = SUBMISSION.c.state.not_in(_LIVE_SUBMISSIONS)
    latest = (SUBMISSION.c.intended_at.desc(), SUBMISSION.c.submission_id.desc())
    return tuple(reversed(_steps(conn, limit, over, *latest, dag_id=dag_id)))


def _steps(
    conn: Connection, limit: int, which: ColumnElement[bool], *order: ColumnElement[Any], dag_id: str | None
) -> tuple[StepView, ...]:
    joined = SUBMISSION.join(WORKLOAD, WORKLOAD.c.workload_id == SUBMISSION.c.workload_id).outerjoin(
        CLUSTER, CLUSTER.c.cluster_uuid == SUBMISSION.c.cluster_uuid
    )
    asked = (
        select(*SUBMISSION.c, *_KEY_COLUMNS, WORKLOAD.c.losses, CLUSTER.c.cluster_id)
        .select_from(joined)
        .where(which)
        .order_by(*order)
        .limit(limit)
    )
    if dag_id is not None:
        asked = asked.where(WORKLOAD.c.dag_id == dag_id)
    return tuple(
        StepView(
            submission=submission_from(row),
            key=task_key_from(row),
            cluster_id=row["cluster_id"],
            losses=row["losses"],
        )
        for row in conn.execute(asked).mappings()
    )


def keys_of(conn: Connection, workload_ids: Iterable[str]) -> dict[str, TaskKey]:
    """The task of each of these workloads that is known."""
    asked = select(WORKLOAD.c.workload_id, *_KEY_COLUMNS).where(WORKLOAD.c.workload_id.in_(set(workload_ids)))
    return {row["workload_id"]: task_key_from(row) for row in conn.execute(asked).mappings()}


def live_by_scheduler(conn: Connection) -> dict[int | None, int]:
    """How many workloads that are not over each scheduler's job has handed over."""
    w = WORKLOAD.c
    counted = select(w.scheduler_job_id, func.count()).where(w.state.in_(LIVE_WORKLOAD_STATES))
    return {row[0]: row[1] for row in conn.execute(counted.group_by(w.scheduler_job_id))}


def last_heartbeat(conn: Connection) -> datetime | None:
    """When Airflow last heard of a parked try: only the agent that steers speaks for those."""
    return _heartbeat(conn, func.max)


def oldest_heartbeat(conn: Connection) -> datetime | None:
    """When Airflow heard of the parked try that it has not heard of for longest."""
    return _heartbeat(conn, func.min, TASK_INSTANCE.c.state == RUNNING)


def _heartbeat(conn: Connection, which: Callable[..., Any], *conditions: ColumnElement[bool]) -> Any:
    asked = (
        select(which(TASK_INSTANCE.c.last_heartbeat_at))
        .select_from(WORKLOAD.join(TASK_INSTANCE, TASK_INSTANCE.c.id == task_instance_id(conn.dialect.name)))
        .where(WORKLOAD.c.state.in_(PARKED), WORKLOAD.c.target == WorkloadTarget.RUN, *conditions)
    )
    return conn.execute(asked).scalar_one()


def workload(conn: Connection, workload_id: WorkloadId) -> Workload | None:
    """One workload, or None when it is unknown or purged."""
    row = conn.execute(select(WORKLOAD).where(WORKLOAD.c.workload_id == workload_id)).mappings().one_or_none()
    return None if row is None else workload_from(row)


def workloads_of(
    conn: Connection,
    *,
    dag_id: str,
    task_id: str | None = None,
    run_id: str | None = None,
    map_index: int | None = None,
    over: bool = False,
    limit: int = 100,
) -> tuple[Workload, ...]:
    """Workloads of a DAG that are not over (``over``: all), the latest first; None means any."""
    w = WORKLOAD.c
    wanted = {w.task_id: task_id, w.run_id: run_id, w.map_index: map_index}
    conditions = [w.dag_id == dag_id, *(c == value for c, value in wanted.items() if value is not None)]
    if not over:
        conditions.append(w.state.in_(LIVE_WORKLOAD_STATES))
    asked = (
        select(WORKLOAD).where(*conditions).order_by(w.accepted_at.desc(), w.workload_id.desc()).limit(limit)
    )
    return tuple(map(workload_from, conn.execute(asked).mappings()))


def live_workloads(conn: Connection, workload_ids: Iterable[str]) -> tuple[Workload, ...]:
    """Those of the workloads that are not over."""
    w = WORKLOAD.c
    asked = select(WORKLOAD).where(w.workload_id.in_(set(workload_ids)), w.state.in_(LIVE_WORKLOAD_STATES))
    return tuple(map(workload_from, conn.execute(asked).mappings()))


def ahead_of(conn: Connection, waiting: Workload) -> int:
    """How many workloads in its state have their turn before it; for a READY one, of its cluster pool."""
    w = WORKLOAD.c
    earlier = or_(
        w.priority_weight > waiting.priority_weight,
        and_(
            w.priority_weight == waiting.priority_weight,
            or_(
                w.accepted_at < waiting.accepted_at,
                and_(w.accepted_at == waiting.accepted_at, w.workload_id < waiting.workload_id),
            ),
        ),
    )
    alike = [w.state == waiting.state, w.target == WorkloadTarget.RUN]
    if waiting.state is WorkloadState.READY:
        alike.append(w.cluster_pool == waiting.cluster_pool)
    return conn.execute(select(func.count()).select_from(WORKLOAD).where(*alike, earlier)).scalar_one()


def submissions_of(conn: Connection, workload_id: WorkloadId) -> tuple[Submission, ...]:
    """All submissions of a workload, in order."""
    asked = select(SUBMISSION).where(SUBMISSION.c.workload_id == workload_id).order_by(SUBMISSION.c.n)
    return tuple(map(submission_from, conn.execute(asked).mappings()))


def history_of(
    conn: Connection, subjects: Iterable[tuple[str, str]], *, limit: int = 200
) -> tuple[HistoryEntry, ...]:
    """The last ``limit`` lines on any of the subjects (kind, id), oldest first."""
    named = tuple_(HISTORY.c.subject, HISTORY.c.subject_id).in_(list(subjects))
    return _last_lines(conn, named, limit)


def recent_history(conn: Connection, limit: int) -> tuple[HistoryEntry, ...]:
    """The last lines of all, oldest first."""
    return _last_lines(conn, None, limit)


def _last_lines(conn: Connection, which: ColumnElement[bool] | None, limit: int) -> tuple[HistoryEntry, ...]:
    asked = select(HISTORY).order_by(HISTORY.c.id.desc()).limit(limit)
    if which is not None:
        asked = asked.where(which)
    return tuple(map(history_entry_from, reversed(conn.execute(asked).mappings().all())))


def _counted(conn: Connection, table: Table, which: ColumnElement[bool], *names: str) -> list[Any]:
    group = [table.c[name] for name in names]
    return list(conn.execute(select(*group, func.count()).where(which).group_by(*group).order_by(*group)))

"""What the steering agent reads: everything that lives, at a cost that what is over does not change."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Uuid, and_, cast, func, or_, select

from emr_executor.core.model import Cluster, ClusterUuid, Identity, Snapshot, WorkloadId
from emr_executor.core.states import (
    LIVE_SUBMISSION_STATES,
    OVER_CLUSTER_STATES,
    ClusterState,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.store.clauses import BY_TURN, LIVE_WORKLOAD_STATES
from emr_executor.store.rows import (
    BULKY_WORKLOAD_COLUMNS,
    cluster_from,
    identity_from,
    lean_workload_from,
    submission_from,
)
from emr_executor.store.schema import CLUSTER, SUBMISSION, TASK_INSTANCE, WORKLOAD

_LIVE_CLUSTER_STATES = tuple(state for state in ClusterState if state not in OVER_CLUSTER_STATES)
PARKED = (WorkloadState.READY, WorkloadState.SUBMITTED, WorkloadState.FINISHABLE)
UNCLAIMED = (WorkloadState.ACCEPTED, *PARKED)
WANTED_BY_AIRFLOW = ("queued", "running")
"""TaskInstanceState values of a try that should go on."""
_LEAN_COLUMNS = tuple(column for column in WORKLOAD.c if column.name not in BULKY_WORKLOAD_COLUMNS)


def snapshot(conn: Connection, now: datetime, ready_limit: int) -> Snapshot:
    """All that lives, in four statements: of one moment where the runner reads (``Runner.read``).

    READY workloads come by turn, at most ``ready_limit``; ``ready_waiting`` counts them all. Quarantined ones
    take nobody's place there. ``workload`` and ``executor_config`` of each workload are left empty: only a
    phase needs them, and its claim brings them.
    """
    live_submissions = SUBMISSION.c.state.in_(sorted(LIVE_SUBMISSION_STATES))
    # A cluster that is over still matters as long as a submission on it is not settled.
    unsettled = CLUSTER.c.cluster_uuid.in_(select(SUBMISSION.c.cluster_uuid).where(live_submissions))
    live_clusters = or_(CLUSTER.c.state.in_(_LIVE_CLUSTER_STATES), unsettled)
    clusters = conn.execute(select(CLUSTER).where(live_clusters)).mappings()
    submissions = conn.execute(select(SUBMISSION).where(live_submissions)).mappings()
    ready, ready_waiting = _ready(conn, ready_limit)
    return Snapshot(
        now=now,
        clusters=tuple(map(cluster_from, clusters)),
        submissions=tuple(map(submission_from, submissions)),
        workloads=tuple(map(lean_workload_from, (*ready, *_engaged(conn)))),
        ready_waiting=ready_waiting,
    )


def _ready(conn: Connection, limit: int) -> tuple[list[Any], int]:
    ready = and_(
        WORKLOAD.c.state == WorkloadState.READY,
        WORKLOAD.c.target == WorkloadTarget.RUN,
        WORKLOAD.c.quarantine.is_(None),
    )
    how_many = select(func.count()).select_from(WORKLOAD).where(ready).scalar_subquery().label("how_many")
    by_turn = select(*_LEAN_COLUMNS, how_many).where(ready).order_by(*BY_TURN).limit(limit)
    rows = list(conn.execute(by_turn).mappings())
    return rows, rows[0]["how_many"] if rows else 0


def _engaged(conn: Connection) -> list[Any]:
    engaged = or_(
        and_(WORKLOAD.c.state == WorkloadState.SUBMITTED, WORKLOAD.c.target == WorkloadTarget.RUN),
        and_(WORKLOAD.c.state.in_(LIVE_WORKLOAD_STATES), WORKLOAD.c.target == WorkloadTarget.CANCEL),
    )
    return list(conn.execute(select(*_LEAN_COLUMNS).where(engaged).order_by(*BY_TURN)).mappings())


def clusters(conn: Connection, cluster_uuids: Collection[ClusterUuid]) -> tuple[Cluster, ...]:
    """Those of the clusters that have a row, over or not."""
    rows = conn.execute(select(CLUSTER).where(CLUSTER.c.cluster_uuid.in_(list(cluster_uuids)))).mappings()
    return tuple(map(cluster_from, rows))


def heartbeat_targets(conn: Connection) -> tuple[tuple[WorkloadId, Identity], ...]:
    """Parked tries that Airflow must hear of: nobody's phase does it for them."""
    w = WORKLOAD.c
    parked = select(w.workload_id, w.hostname, w.unixname, w.pid).where(
        w.state.in_(PARKED), w.target == WorkloadTarget.RUN, w.hostname.is_not(None)
    )
    rows = conn.execute(parked).mappings()
    return tuple((WorkloadId(row["workload_id"]), identity_from(row)) for row in rows)


def unwanted(conn: Connection) -> tuple[tuple[WorkloadId, str | None], ...]:
    """Tries that should go on for all we know, but not for Airflow: with its state, None when it is gone.

    One SELECT over live tries that no phase has claimed: a phase hears of it from the Execution API itself,
    and between its last call there and its last write here Airflow's state is ahead of ours by right. A try
    has an identity once its prepare phase was claimed; earlier than that there is nothing to stop.
    """
    w = WORKLOAD.c
    its_task_instance = TASK_INSTANCE.c.id == task_instance_id(conn)
    asked = (
        select(w.workload_id, TASK_INSTANCE.c.state)
        .select_from(WORKLOAD.outerjoin(TASK_INSTANCE, its_task_instance))
        .where(
            w.state.in_(UNCLAIMED),
            w.target == WorkloadTarget.RUN,
            w.hostname.is_not(None),
            or_(TASK_INSTANCE.c.state.is_(None), TASK_INSTANCE.c.state.not_in(WANTED_BY_AIRFLOW)),
        )
    )
    return tuple((WorkloadId(row.workload_id), row.state) for row in conn.execute(asked))


def task_instance_id(conn: Connection) -> ColumnElement[Any]:
    """A workload's id as Airflow's ``task_instance.id`` holds it."""
    # The conversion stands on our side of the comparison, so that Airflow's primary key is used: a native
    # uuid on PostgreSQL, 32 hexadecimal digits on SQLite (SQLAlchemy's Uuid).
    if conn.dialect.name == "postgresql":
        return cast(WORKLOAD.c.workload_id, Uuid)
    return func.replace(WORKLOAD.c.workload_id, "-", "")

"""What the steering agent reads: everything that lives, at a cost that what is over does not change."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    ScalarSelect,
    Select,
    Uuid,
    and_,
    bindparam,
    cast,
    func,
    or_,
    select,
    union_all,
)

from emr_executor.core.model import Cluster, ClusterUuid, Identity, InLine, Snapshot, WorkloadId
from emr_executor.core.states import (
    OVER_CLUSTER_STATES,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.workload import HANDED_OVER_AGAIN
from emr_executor.store.clauses import BY_TURN, LIVE_WORKLOAD_STATES, OVER_SUBMISSION_STATES, is_none_of
from emr_executor.store.known_rows import KnownRows, stamps
from emr_executor.store.rows import (
    BULKY_WORKLOAD_COLUMNS,
    as_dicts,
    cluster_from,
    identity_from,
    lean_workload_from,
    submission_from,
)
from emr_executor.store.schema import CLUSTER, SUBMISSION, TASK_INSTANCE, WORKLOAD

PARKED = (WorkloadState.READY, WorkloadState.SUBMITTED, WorkloadState.FINISHABLE)
UNCLAIMED = (WorkloadState.ACCEPTED, *PARKED)
RUNNING = "running"
"""TaskInstanceState of a try that was started, and whose silence Airflow takes for its death."""
WANTED_BY_AIRFLOW = (RUNNING, *sorted(HANDED_OVER_AGAIN))
"""TaskInstanceState values of a try that should go on."""
RESTARTING = "restarting"
"""TaskInstanceState.RESTARTING: cleared while RUNNING, waiting for the executor's SUCCESS."""
_LEAN_COLUMNS = tuple(column for column in WORKLOAD.c if column.name not in BULKY_WORKLOAD_COLUMNS)
_KNOWN_FOR = timedelta(minutes=1)
"""A row that is purged and handed over again may come back as it was counted before; that takes a day."""

_WORKLOAD_STAMP = select(
    *(
        WORKLOAD.c[name]
        for name in ("workload_id", "version", "priority_weight", "scheduler_job_id", "claim_beat")
    )
)
_IS_READY = and_(
    WORKLOAD.c.state == WorkloadState.READY,
    WORKLOAD.c.target == WorkloadTarget.RUN,
    WORKLOAD.c.quarantine.is_(None),
)
_HOW_MANY_READY = select(func.count()).select_from(WORKLOAD).where(_IS_READY)
_READY_BY_TURN = stamps(_WORKLOAD_STAMP.where(_IS_READY).order_by(*BY_TURN).limit(bindparam("at_most")))
_ENGAGED = stamps(
    union_all(
        _WORKLOAD_STAMP.where(
            WORKLOAD.c.state == WorkloadState.SUBMITTED, WORKLOAD.c.target == WorkloadTarget.RUN
        ),
        _WORKLOAD_STAMP.where(
            WORKLOAD.c.state.in_(LIVE_WORKLOAD_STATES), WORKLOAD.c.target == WorkloadTarget.CANCEL
        ),
    )
)
_LIVE_SUBMISSIONS = stamps(
    select(SUBMISSION.c.submission_id, SUBMISSION.c.version).where(
        is_none_of(SUBMISSION.c.state, OVER_SUBMISSION_STATES)
    )
)
_LIVE_CLUSTERS = stamps(
    select(CLUSTER.c.cluster_uuid, CLUSTER.c.version).where(is_none_of(CLUSTER.c.state, OVER_CLUSTER_STATES))
)


class Known:
    """What a reader of snapshots has read, so that its next one reads only what has changed."""

    def __init__(self) -> None:
        self.read_at: datetime | None = None
        self.forget()

    def forget(self) -> None:
        """Read everything again."""
        self.clusters = KnownRows(_LIVE_CLUSTERS, tuple(CLUSTER.c), cluster_from)
        self.submissions = KnownRows(_LIVE_SUBMISSIONS, tuple(SUBMISSION.c), submission_from)
        self.ready = KnownRows(_READY_BY_TURN, _LEAN_COLUMNS, lean_workload_from)
        self.engaged = KnownRows(_ENGAGED, _LEAN_COLUMNS, lean_workload_from)


def snapshot(conn: Connection, now: datetime, ready_limit: int, known: Known | None = None) -> Snapshot:
    """All that lives: of one moment where the runner reads (``Runner.read``).

    READY workloads come by turn, at most ``ready_limit``; ``ready_beyond`` counts the rest. Quarantined ones
    take nobody's place there. ``workload`` and ``executor_config`` of each workload are left empty: only a
    phase needs them, and its claim brings them.

    known: by the reader's last snapshots; a row that has not changed since is not read
    """
    known = known or Known()
    if known.read_at is not None and not timedelta() <= now - known.read_at <= _KNOWN_FOR:
        known.forget()
    live, submissions = known.clusters.read(conn), known.submissions.read(conn)
    # A cluster that is over still matters as long as a submission on it is not settled. As a condition of the
    # first statement this would make PostgreSQL read every cluster that ever was.
    unsettled = {s.cluster_uuid for s in submissions} - {c.cluster_uuid for c in live}
    ready, engaged = known.ready.read(conn, at_most=ready_limit), known.engaged.read(conn)
    waiting = conn.execute(_HOW_MANY_READY).scalar_one() if len(ready) == ready_limit else len(ready)
    known.read_at = now
    # One whose step is broken is in quarantine though its row is not.
    placeable = (one for one in ready if one.quarantine is None)
    return Snapshot(
        now=now,
        clusters=(*live, *clusters(conn, sorted(unsettled))) if unsettled else live,
        submissions=submissions,
        workloads=(*placeable, *engaged),
        ready_beyond=waiting - len(ready),
    )


def clusters(conn: Connection, cluster_uuids: Collection[ClusterUuid]) -> tuple[Cluster, ...]:
    """Those of the clusters that have a row, over or not."""
    found = conn.execute(select(CLUSTER).where(CLUSTER.c.cluster_uuid.in_(list(cluster_uuids))))
    return tuple(map(cluster_from, as_dicts(found)))


def line(conn: Connection) -> tuple[InLine, ...]:
    """Every live workload by turn, in few columns."""
    return tuple(
        InLine(
            workload_id=WorkloadId(row.workload_id),
            state=WorkloadState(row.state),
            is_open=row.is_open,
            log_path=row.log_path,
            not_before=row.not_before,
        )
        for row in conn.execute(_LINE)
    )


def _line() -> Select[Any]:
    w = WORKLOAD.c
    is_open = and_(w.target == WorkloadTarget.RUN, w.quarantine.is_(None)).label("is_open")
    told = select(w.workload_id, w.state, is_open, w.log_path, w.not_before)
    return told.where(w.state.in_(LIVE_WORKLOAD_STATES)).order_by(*BY_TURN)


_LINE = _line()


def heartbeat_targets(conn: Connection) -> tuple[tuple[WorkloadId, Identity], ...]:
    """Tries that Airflow must hear of, and no phase speaks for them.

    Parked ones, and those that are RUNNING for Airflow and wait to be prepared once more: in an outage, or
    behind many others, that may take longer than Airflow waits for a heartbeat.
    """
    rows = as_dicts(conn.execute(_spoken_for(conn.dialect.name)))
    return tuple((WorkloadId(row["workload_id"]), identity_from(row)) for row in rows)


@cache
def _spoken_for(dialect_name: str) -> CompoundSelect[Any]:
    who = [WORKLOAD.c[name] for name in ("workload_id", "hostname", "unixname", "pid")]
    wanted = (WORKLOAD.c.target == WorkloadTarget.RUN, WORKLOAD.c.hostname.is_not(None))
    begun = (WORKLOAD.c.state == WorkloadState.ACCEPTED, _state_in_airflow(dialect_name) == RUNNING)
    return union_all(
        select(*who).where(WORKLOAD.c.state.in_(PARKED), *wanted),
        select(*who).where(*begun, *wanted),
    )


def unwanted(conn: Connection) -> tuple[tuple[WorkloadId, str | None], ...]:
    """Tries that should go on for all we know, but not for Airflow: with its state, None when it is gone.

    One SELECT over live tries that no phase has claimed: a phase hears of it from the Execution API itself,
    and between its last call there and its last write here Airflow's state is ahead of ours by right. A try
    has an identity once its prepare phase was claimed; earlier than that there is nothing to stop.
    """
    asked = _unwanted(conn.dialect.name)
    return tuple((WorkloadId(row.workload_id), row.state) for row in conn.execute(asked))


@cache
def _unwanted(dialect_name: str) -> Select[Any]:
    w, state = WORKLOAD.c, _state_in_airflow(dialect_name)
    return select(w.workload_id, state.label("state")).where(
        w.state.in_(UNCLAIMED),
        w.target == WorkloadTarget.RUN,
        w.hostname.is_not(None),
        func.coalesce(state, "").not_in(WANTED_BY_AIRFLOW),
    )


def _state_in_airflow(dialect_name: str) -> ScalarSelect[Any]:
    """The state of a workload's task instance; NULL where it is gone or has none.

    One look by Airflow's primary key for each workload; a join may be planned as a hash of all its rows.
    """
    its_own = TASK_INSTANCE.c.id == task_instance_id(dialect_name)
    return select(TASK_INSTANCE.c.state).where(its_own).correlate(WORKLOAD).scalar_subquery()


def state_of_try(conn: Connection, workload_id: WorkloadId) -> tuple[str | None, bool]:
    """Airflow's state for a workload's task instance, and whether its try was cleared and waits for our word.

    Clearing gives the task instance a new id, so that one is found by its key.
    """
    w, same_task = WORKLOAD.c, ("dag_id", "task_id", "run_id", "map_index", "try_number")
    its_own = TASK_INSTANCE.c.id == task_instance_id(conn.dialect.name)
    its_try = and_(*(TASK_INSTANCE.c[name] == w[name] for name in same_task))
    asked = (
        select(its_own.label("is_its_own"), TASK_INSTANCE.c.state)
        .select_from(WORKLOAD.join(TASK_INSTANCE, or_(its_own, its_try)))
        .where(w.workload_id == workload_id)
    )
    found = {bool(row.is_its_own): row.state for row in conn.execute(asked)}
    return found.get(True), RESTARTING in found.values()


def task_instance_id(dialect_name: str) -> ColumnElement[Any]:
    """A workload's id as Airflow's ``task_instance.id`` holds it."""
    # The conversion stands on our side of the comparison, so that Airflow's primary key is used: a native
    # uuid on PostgreSQL, 32 hexadecimal digits on SQLite (SQLAlchemy's Uuid).
    if dialect_name == "postgresql":
        return cast(WORKLOAD.c.workload_id, Uuid)
    return func.replace(WORKLOAD.c.workload_id, "-", "")

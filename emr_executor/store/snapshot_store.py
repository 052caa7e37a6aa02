"""What the steering agent reads: everything that lives, at a cost that what is over does not change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Row,
    ScalarSelect,
    Select,
    Table,
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
from emr_executor.store.rows import (
    BULKY_WORKLOAD_COLUMNS,
    Stored,
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
S = TypeVar("S", bound=Stored)


_KNOWN_FOR = timedelta(minutes=1)
"""A row that is purged and handed over again may come back as it was counted before; that takes a day."""
_FETCHED_AT_ONCE = 500


def snapshot(conn: Connection, now: datetime, ready_limit: int, known: Snapshot | None = None) -> Snapshot:
    """All that lives: of one moment where the runner reads (``Runner.read``).

    READY workloads come by turn, at most ``ready_limit``; ``ready_beyond`` counts the rest. Quarantined ones
    take nobody's place there. ``workload`` and ``executor_config`` of each workload are left empty: only a
    phase needs them, and its claim brings them.

    known: the last snapshot. Of a row that has not changed since, only its key and its counters are read, and
        its value is the one in there.
    """
    if known is None or not timedelta() <= now - known.now <= _KNOWN_FOR:
        known = Snapshot(now=now, clusters=(), submissions=(), workloads=())
    live = _values(conn, _CLUSTER, conn.execute(_LIVE_CLUSTERS).all(), known.clusters)
    submissions = _values(conn, _SUBMISSION, conn.execute(_LIVE_SUBMISSIONS).all(), known.submissions)
    # A cluster that is over still matters as long as a submission on it is not settled. As a condition of the
    # first statement this would make PostgreSQL read every cluster that ever was.
    unsettled = {s.cluster_uuid for s in submissions} - {c.cluster_uuid for c in live}
    ready = conn.execute(_READY_BY_TURN, {"at_most": ready_limit}).all()
    engaged = conn.execute(_ENGAGED).all()
    workloads = _values(conn, _WORKLOAD, [*ready, *engaged], known.workloads)
    # One whose step is broken is in quarantine though its row is not.
    placeable = (w for w in workloads[: len(ready)] if w.quarantine is None)
    return Snapshot(
        now=now,
        clusters=(*live, *clusters(conn, sorted(unsettled))) if unsettled else live,
        submissions=submissions,
        workloads=(*placeable, *workloads[len(ready) :]),
        ready_beyond=ready[0].how_many - len(ready) if ready else 0,
    )


class _Kind(Generic[S]):
    """How the values of one table are read, those alone that changed.

    counters: the columns of which one at least changes with each change of a row, and the fields of its value
    """

    def __init__(
        self,
        table: Table,
        columns: Iterable[Column[Any]],
        counters: Sequence[str],
        value_from: Callable[[Any], S],
    ) -> None:
        (key,) = table.primary_key.columns
        wanted = key.in_(bindparam("their_keys", expanding=True))
        self.stamp: tuple[Column[Any], ...] = (key, *(table.c[name] for name in counters))
        self.stamp_of: Callable[[S], tuple[Any, ...]] = attrgetter(key.name, *counters)
        self.by_key = select(*columns).where(wanted)
        self.value_from = value_from


_CLUSTER = _Kind(CLUSTER, CLUSTER.c, ["version"], cluster_from)
_SUBMISSION = _Kind(SUBMISSION, SUBMISSION.c, ["version"], submission_from)
_WORKLOAD = _Kind(
    WORKLOAD,
    (column for column in WORKLOAD.c if column.name not in BULKY_WORKLOAD_COLUMNS),
    ["version", "priority_weight", "scheduler_job_id", "claim_beat"],
    lean_workload_from,
)


def _values(conn: Connection, kind: _Kind[S], rows: Sequence[Row[Any]], known: Iterable[S]) -> tuple[S, ...]:
    """The value of each row, of which its stamp was read, in their order; known ones are not read again."""
    width = len(kind.stamp)
    stamps = [tuple(row[:width]) for row in rows]
    value_of = {kind.stamp_of(value): value for value in known}
    found = {stamp[0]: value_of[stamp] for stamp in stamps if stamp in value_of}
    missing = [stamp[0] for stamp in stamps if stamp not in value_of]
    for begin in range(0, len(missing), _FETCHED_AT_ONCE):
        keys = {"their_keys": missing[begin : begin + _FETCHED_AT_ONCE]}
        fetched = map(kind.value_from, as_dicts(conn.execute(kind.by_key, keys)))
        found |= {kind.stamp_of(value)[0]: value for value in fetched}
    return tuple(found[stamp[0]] for stamp in stamps if stamp[0] in found)


def _ready_by_turn() -> Select[Any]:
    ready = and_(
        WORKLOAD.c.state == WorkloadState.READY,
        WORKLOAD.c.target == WorkloadTarget.RUN,
        WORKLOAD.c.quarantine.is_(None),
    )
    how_many = select(func.count()).select_from(WORKLOAD).where(ready).scalar_subquery().label("how_many")
    return select(*_WORKLOAD.stamp, how_many).where(ready).order_by(*BY_TURN).limit(bindparam("at_most"))


def _engaged() -> Select[Any]:
    engaged = or_(
        and_(WORKLOAD.c.state == WorkloadState.SUBMITTED, WORKLOAD.c.target == WorkloadTarget.RUN),
        and_(WORKLOAD.c.state.in_(LIVE_WORKLOAD_STATES), WORKLOAD.c.target == WorkloadTarget.CANCEL),
    )
    return select(*_WORKLOAD.stamp).where(engaged).order_by(*BY_TURN)


_LIVE_SUBMISSIONS = select(*_SUBMISSION.stamp).where(is_none_of(SUBMISSION.c.state, OVER_SUBMISSION_STATES))
_LIVE_CLUSTERS = select(*_CLUSTER.stamp).where(is_none_of(CLUSTER.c.state, OVER_CLUSTER_STATES))
_READY_BY_TURN = _ready_by_turn()
_ENGAGED = _engaged()


def clusters(conn: Connection, cluster_uuids: Collection[ClusterUuid]) -> tuple[Cluster, ...]:
    """Those of the clusters that have a row, over or not."""
    found = conn.execute(_CLUSTER.by_key, {"their_keys": list(cluster_uuids)})
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

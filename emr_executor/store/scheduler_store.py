"""What ``EmrExecutor`` says to the store, from inside the scheduler's loop: few, short statements.

Every function works in the transaction of the connection that it is given and never commits it: what is
accepted in the scheduler's own session stands or falls with Airflow's QUEUED (airflow/jobs/
scheduler_job_runner.py, ``queue_workload``).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    Row,
    Update,
    and_,
    bindparam,
    case,
    or_,
    select,
    update,
)

from emr_executor.core.model import TaskKey, Workload, WorkloadId
from emr_executor.core.states import WorkloadState, WorkloadTarget
from emr_executor.core.workload import HANDED_OVER_AGAIN
from emr_executor.store.clauses import LIVE_WORKLOAD_STATES, OVER_WORKLOAD_STATES, in_lock_order
from emr_executor.store.dialect import upsert
from emr_executor.store.rows import mapping_of, task_key_from
from emr_executor.store.schema import DEPLOYMENT, IS_UNREAD_END, TASK_INSTANCE, WORKLOAD, ReportState
from emr_executor.store.snapshot_store import RESTARTING, task_instance_id

_OWNERSHIP = ("scheduler_job_id", "priority_weight")
_DEPLOYMENT_ROW = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """How a workload ended. ``state`` is FINISHED or CANCELLED, ``airflow_state`` what Airflow was told."""

    workload_id: WorkloadId
    key: TaskKey
    airflow_state: str | None
    state: WorkloadState


def deployment_id(conn: Connection) -> str:
    """The identity of this deployment, made by whoever asks first. Two who race get the same."""
    wanted = select(DEPLOYMENT.c.deployment_id).where(DEPLOYMENT.c.id == _DEPLOYMENT_ROW)
    found = conn.execute(wanted).scalar_one_or_none()
    if found is None:
        row = {"id": _DEPLOYMENT_ROW, "deployment_id": str(uuid.uuid4())}
        conn.execute(upsert(conn.dialect.name, DEPLOYMENT).values(row).on_conflict_do_nothing())
        found = conn.execute(wanted).scalar_one()
    return found


def accept(conn: Connection, workloads: Sequence[Workload]) -> None:
    """Take workloads over from the scheduler, each in ACCEPTED as given; one statement for up to 1000.

    The same task instance may be handed over again (a reschedule, a foreign deferral, a requeue). Where its
    row is not over, it goes on where it stands: Airflow wants it, so a cancellation that had not come to its
    end is taken back, and only its owner and priority follow the new hand-over. Where it is over, it starts
    anew; ``submissions`` goes on counting, so that no submission id is ever used twice.
    """
    by_id = {workload.workload_id: _accepted_row(workload) for workload in workloads}
    if by_id:
        conn.execute(
            _accept_statement(conn.dialect.name), [by_id[workload_id] for workload_id in sorted(by_id)]
        )


def _accepted_row(workload: Workload) -> dict[str, Any]:
    return {**mapping_of(Workload).columns(workload), "reported": ReportState.UNREAD}


@cache
def _accept_statement(dialect_name: str) -> Insert:
    # Made once, without its rows: the scheduler hands over one task instance a call.
    insert = upsert(dialect_name, WORKLOAD)
    # Not IN: an expanding parameter cannot be used with many rows.
    over = or_(*(WORKLOAD.c.state == state for state in OVER_WORKLOAD_STATES))
    unwanted = WORKLOAD.c.target == WorkloadTarget.CANCEL
    changes: dict[str, Any] = {
        column.name: case((over, insert.excluded[column.name]), else_=column)
        for column in WORKLOAD.c
        if column.name not in {"workload_id", "submissions"}
    }
    for name in (*_OWNERSHIP, "target", "cancel_reason"):
        changes[name] = insert.excluded[name]
    changes["version"] = case((or_(over, unwanted), WORKLOAD.c.version + 1), else_=WORKLOAD.c.version)
    return insert.on_conflict_do_update(index_elements=["workload_id"], set_=changes)


def take_outcomes(conn: Connection, scheduler_job_id: int, limit: int) -> list[Reported]:
    """Outcomes that this scheduler has not read yet, oldest first; one statement, two when there are any.

    A CANCELLED workload is offered again each time as long as Airflow holds its task instance in RESTARTING:
    only an executor event SUCCESS, seen by the scheduler that owns it, frees a try that was cleared while it
    ran, and an event may be dropped (airflow/jobs/scheduler_job_runner.py, ``process_executor_events``).
    Clearing gives the task instance a new id, so it is found by its key.
    """
    found = conn.execute(_unread(), {"its_job": scheduler_job_id, "at_most": limit}).all()
    outcomes: list[Reported] = []
    offered: list[str] = []
    done: list[str] = []
    for row in found:
        restarting = row.state == WorkloadState.CANCELLED and row.task_state == RESTARTING
        if restarting or row.reported == ReportState.UNREAD:
            outcomes.append(_reported(row))
        if not restarting:
            done.append(row.workload_id)
        elif row.reported == ReportState.UNREAD:
            offered.append(row.workload_id)
    if offered or done:
        conn.execute(_MARKED, {"offered": offered, "their_ids": [*offered, *done]})
    return outcomes


@cache
def _unread() -> Any:
    same_task = ("dag_id", "task_id", "run_id", "map_index", "try_number")
    # Not a join: it would be planned for the many that are over, as a hash of Airflow's whole table.
    task_state = (
        select(TASK_INSTANCE.c.state)
        .where(
            WORKLOAD.c.state == WorkloadState.CANCELLED,
            *(TASK_INSTANCE.c[name] == WORKLOAD.c[name] for name in same_task),
        )
        .correlate(WORKLOAD)
        .scalar_subquery()
    )
    return (
        select(
            *(WORKLOAD.c[name] for name in ("workload_id", *same_task, "airflow_state", "state", "reported")),
            task_state.label("task_state"),
        )
        .where(WORKLOAD.c.scheduler_job_id == bindparam("its_job"), IS_UNREAD_END)
        # Those that were never read go first: repeats must not starve them.
        .order_by(WORKLOAD.c.reported, WORKLOAD.c.finished_at, WORKLOAD.c.workload_id)
        .limit(bindparam("at_most"))
        # A row that is handed over again, or purged, between being read and being marked would be marked
        # for an end that it no longer has; its next end would never be read. Busy rows are read next time.
        .with_for_update(of=WORKLOAD, skip_locked=True)
    )


def _reported(row: Row[Any]) -> Reported:
    return Reported(
        workload_id=row.workload_id,
        key=task_key_from(row._mapping),  # noqa: SLF001 - SQLAlchemy's public name for a row as a mapping
        airflow_state=row.airflow_state,
        state=WorkloadState(row.state),
    )


_THEIRS = WORKLOAD.c.workload_id.in_(bindparam("their_ids", expanding=True))
_IS_OFFERED = WORKLOAD.c.workload_id.in_(bindparam("offered", expanding=True))
_MARKED = (
    update(WORKLOAD)
    .where(in_lock_order(_THEIRS))
    .values(reported=case((_IS_OFFERED, int(ReportState.OFFERED)), else_=int(ReportState.DONE)))
)
_LIVE = and_(_THEIRS, WORKLOAD.c.state.in_(LIVE_WORKLOAD_STATES))
_LIVE_ONES = select(WORKLOAD.c.workload_id).where(_LIVE)
_ADOPTED = (
    update(WORKLOAD)
    .where(in_lock_order(_LIVE))
    .values(scheduler_job_id=bindparam("its_job"))
    .returning(WORKLOAD.c.workload_id)
)


def adopt(conn: Connection, workload_ids: Collection[WorkloadId], scheduler_job_id: int) -> set[WorkloadId]:
    """Those of the workloads that are known and not over, now owned by this scheduler. One statement."""
    if not workload_ids:
        return set()
    asked = {"their_ids": list(workload_ids), "its_job": scheduler_job_id}
    return set(conn.execute(_ADOPTED, asked).scalars())


def live(conn: Connection, workload_ids: Collection[WorkloadId]) -> set[WorkloadId]:
    """Those of the workloads that are known and not over. One statement."""
    if not workload_ids:
        return set()
    return set(conn.execute(_LIVE_ONES, {"their_ids": list(workload_ids)}).scalars())


def ask_cancel(
    conn: Connection, workload_ids: Iterable[WorkloadId], reason: str, scheduler_job_id: int | None = None
) -> int:
    """Set the target of workloads to CANCEL; how many were not over and not cancelled yet. One statement.

    With ``scheduler_job_id`` only of those that this scheduler still owns: its word comes late, and another
    one may have taken the try over meanwhile.
    """
    ids = list(workload_ids)
    if not ids:
        return 0
    wanted = [_LIVE, WORKLOAD.c.target == WorkloadTarget.RUN]
    if scheduler_job_id is not None:
        wanted.append(WORKLOAD.c.scheduler_job_id == scheduler_job_id)
    return conn.execute(_to_cancel(in_lock_order(*wanted), reason), {"their_ids": ids}).rowcount


def ask_cancel_unless_queued(conn: Connection, workload_ids: Iterable[WorkloadId], reason: str) -> int:
    """``ask_cancel`` for who learnt earlier that Airflow does not want these tries: it is looked at again.

    A try whose task instance is SCHEDULED or QUEUED under the same id is not cancelled: it was taken back
    (stuck in queued) and is handed over again. The rows are locked before Airflow's are read: the scheduler
    sets QUEUED and takes the try over in one transaction, so that what is read then is of one moment.
    """
    ids = list(workload_ids)
    if not ids:
        return 0
    w = WORKLOAD.c
    of_them = _LIVE_ONES.where(w.target == WorkloadTarget.RUN).order_by(w.workload_id)
    locked = conn.execute(of_them.with_for_update(), {"their_ids": ids}).scalars().all()
    if not locked:
        return 0
    handed_over = (
        select(TASK_INSTANCE.c.id)
        .where(
            TASK_INSTANCE.c.id == task_instance_id(conn.dialect.name),
            TASK_INSTANCE.c.state.in_(sorted(HANDED_OVER_AGAIN)),
        )
        .correlate(WORKLOAD)
        .exists()
    )
    return conn.execute(_to_cancel(_THEIRS & ~handed_over, reason), {"their_ids": locked}).rowcount


def _to_cancel(which: ColumnElement[bool], reason: str) -> Update:
    changes = {"target": WorkloadTarget.CANCEL, "cancel_reason": reason}
    return update(WORKLOAD).where(which).values(**changes, version=WORKLOAD.c.version + 1)

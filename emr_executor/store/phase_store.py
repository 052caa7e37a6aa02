"""Claims on phases, and what a phase's process records of itself.

A claim is a token on the row. The agent that claims chooses it, the phase's supervisor process writes under
it, and whoever finds that (token, beat) stood still for ``claim_s`` on its own clock may free the claim by
naming exactly what it saw. Every function here is one transaction's worth of work and commits nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    Update,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    update,
)

from emr_executor.core.backoff import doubled_s
from emr_executor.core.model import HistoryEntry, Identity, StepPlan, Workload, WorkloadId
from emr_executor.core.states import WorkloadState, WorkloadTarget
from emr_executor.core.transitions import WORKLOAD as TABLE
from emr_executor.core.transitions import WorkloadEvent
from emr_executor.core.transitions import transition as moved
from emr_executor.core.workload import seen_in_refusal
from emr_executor.errors import StaleWriter
from emr_executor.store.clauses import BY_TURN, in_lock_order
from emr_executor.store.history_store import append
from emr_executor.store.rows import as_dicts, json_of, workload_from
from emr_executor.store.schema import WORKLOAD
from emr_executor.store.snapshot_store import state_of_try

CLAIMED_FROM: dict[WorkloadState, WorkloadState] = {
    phase: waiting for waiting, phase in TABLE.ends(WorkloadEvent.CLAIMED).items() if waiting is not None
}
"""The state in which each phase waits to be claimed, and to which it returns when it must run again."""

_GONE = {phase: moved(TABLE, phase, WorkloadEvent.GONE).value for phase in CLAIMED_FROM}


def _now(name: str) -> BindParameter[Any]:
    return bindparam(f"new_{name}", type_=WORKLOAD.c[name].type)


def _ends(seen: WorkloadEvent) -> ColumnElement[str]:
    """The state that each claimed workload has after an observation, as the tables say it."""
    ends = {phase: moved(TABLE, phase, seen).value for phase in CLAIMED_FROM}
    return case(ends, value=WORKLOAD.c.state)


# Statements that run for each workload are made once: making one takes longer than running it.
_ITS_PHASE = and_(
    WORKLOAD.c.workload_id == bindparam("its_id"),
    WORKLOAD.c.claim_token == bindparam("its_token"),
    or_(*(WORKLOAD.c.state == phase for phase in CLAIMED_FROM)),
)


def _ending(*conditions: ColumnElement[bool], **columns: Any) -> Update:
    """The end of a claim, with what comes of the workload."""
    values = {"version": WORKLOAD.c.version + 1, "claim_token": None, "claim_beat": 0, **columns}
    return update(WORKLOAD).where(_ITS_PHASE, *conditions).values(values)


_REFUSED_PAUSE_S, _REFUSED_PAUSE_MAX_S = 5.0, 60.0
"""Before a try that Airflow took back and hands over again is looked at again: doubled with each attempt."""

_RENEWED = update(WORKLOAD).where(_ITS_PHASE).values(claim_beat=WORKLOAD.c.claim_beat + 1)
_PARKED = _ending(
    WORKLOAD.c.state == WorkloadState.PREPARING,
    state=moved(TABLE, WorkloadState.PREPARING, WorkloadEvent.PARKED),
    step=_now("step"),
    ready_at=func.coalesce(WORKLOAD.c.ready_at, _now("ready_at")),
    phase_attempts=0,
    not_before=None,
    airflow_state=None,
)
_INTENT = (
    update(WORKLOAD)
    .where(_ITS_PHASE)
    .values(
        airflow_state=_now("airflow_state"),
        claim_beat=WORKLOAD.c.claim_beat + 1,
        version=WORKLOAD.c.version + 1,
    )
)
_REFUSED = select(WORKLOAD.c.airflow_state, WORKLOAD.c.phase_attempts).where(_ITS_PHASE).with_for_update()
_OVER = _ending(
    state=_ends(WorkloadEvent.REPORTED),
    airflow_state=_now("airflow_state"),
    finished_at=_now("finished_at"),
)
_TO_REPEAT = _ending(state=_ends(WorkloadEvent.TO_REPEAT), not_before=_now("not_before"))
_TO_REPEAT_UNSPENT = _ending(
    state=_ends(WorkloadEvent.TO_REPEAT),
    not_before=_now("not_before"),
    phase_attempts=case((WORKLOAD.c.phase_attempts > 0, WORKLOAD.c.phase_attempts - 1), else_=0),
)
_NO_STEP = WORKLOAD.c.step.is_(None)
_UNWANTED = _ending(
    target=WorkloadTarget.CANCEL,
    cancel_reason=_now("cancel_reason"),
    state=case((_NO_STEP, _GONE[WorkloadState.PREPARING]), else_=_GONE[WorkloadState.FINISHING]),
    finished_at=case((_NO_STEP, _now("finished_at")), else_=None),
)
_FREED = _ending(
    WORKLOAD.c.claim_beat == bindparam("its_beat"),
    state=_ends(WorkloadEvent.FELL_SILENT),
    not_before=_now("not_before"),
)


def claim(
    conn: Connection,
    kind: WorkloadState,
    limit: int,
    identity: Identity,
    *,
    now: datetime,
    new_token: Callable[[], str],
) -> tuple[Workload, ...]:
    """Up to ``limit`` workloads whose phase ``kind`` (PREPARING or FINISHING) is now the caller's, by turn.

    ``identity`` is kept for the try's life: only a workload that has none yet gets it. Each workload has a
    token of its own. Workloads that another transaction is claiming are passed over, and quarantined ones.
    ACCEPTED workloads that Airflow no longer wants become CANCELLED here: no user code of theirs has run.
    One whose row cannot be read goes into quarantine, so that the line moves on.
    """
    if kind is WorkloadState.PREPARING:
        conn.execute(_CANCELLED_UNPREPARED, {"new_finished_at": now})
    found = conn.execute(_waiting(kind), {"now": now, "at_most": limit})
    waiting = [workload_from(row) for row in as_dicts(found)]
    claimed = tuple(
        replace(
            workload,
            state=kind,
            version=workload.version + 1,
            claim_token=new_token(),
            claim_beat=0,
            identity=workload.identity or identity,
            started_at=workload.started_at or now,
            phase_attempts=workload.phase_attempts + 1,
        )
        for workload in waiting
        if workload.quarantine is None
    )
    for workload in waiting:
        if workload.quarantine is not None:
            conn.execute(_SET_ASIDE, {"its_id": workload.workload_id, "why": workload.quarantine})
    _write_claims(conn, claimed)
    return claimed


_IS_DUE = or_(
    WORKLOAD.c.not_before.is_(None),
    WORKLOAD.c.not_before <= bindparam("now", type_=WORKLOAD.c.not_before.type),
)
_MAY_BE_CLAIMED = and_(WORKLOAD.c.target == WorkloadTarget.RUN, WORKLOAD.c.quarantine.is_(None), _IS_DUE)
_CLAIMABLE = select(
    exists()
    .where(WORKLOAD.c.state == WorkloadState.FINISHABLE, _MAY_BE_CLAIMED)
    .label(WorkloadState.FINISHING),
    exists()
    .where(
        WORKLOAD.c.state == WorkloadState.ACCEPTED,
        or_(WORKLOAD.c.target == WorkloadTarget.CANCEL, _MAY_BE_CLAIMED),
    )
    .label(WorkloadState.PREPARING),
)


def claimable(conn: Connection, now: datetime) -> tuple[WorkloadState, ...]:
    """The kinds of phases of which ``claim`` finds any, FINISHING first; asked without a lock."""
    found = conn.execute(_CLAIMABLE, {"now": now}).mappings().one()
    return tuple(kind for kind in (WorkloadState.FINISHING, WorkloadState.PREPARING) if found[kind])


@cache
def _waiting(kind: WorkloadState) -> Select[Any]:
    return (
        select(WORKLOAD)
        .where(WORKLOAD.c.state == CLAIMED_FROM[kind], _MAY_BE_CLAIMED)
        .order_by(*BY_TURN)
        .limit(bindparam("at_most"))
        .with_for_update(skip_locked=True)
    )


_SET_ASIDE = (
    update(WORKLOAD)
    .where(WORKLOAD.c.workload_id == bindparam("its_id"))
    .values(quarantine=bindparam("why"), version=WORKLOAD.c.version + 1)
)
_CANCELLED_UNPREPARED = (
    update(WORKLOAD)
    .where(
        in_lock_order(
            WORKLOAD.c.state == WorkloadState.ACCEPTED,
            WORKLOAD.c.target == WorkloadTarget.CANCEL,
            skip_locked=True,
        )
    )
    .values(
        state=moved(TABLE, WorkloadState.ACCEPTED, WorkloadEvent.UNWANTED),
        finished_at=_now("finished_at"),
        version=WORKLOAD.c.version + 1,
    )
)
_CLAIM_COLUMNS = ("state", "version", "claim_token", "claim_beat", "started_at", "phase_attempts")
_CLAIM = (
    update(WORKLOAD)
    .where(WORKLOAD.c.workload_id == bindparam("its_id"), WORKLOAD.c.version == bindparam("its_version"))
    .values({name: _now(name) for name in (*_CLAIM_COLUMNS, "hostname", "unixname", "pid")})
)


def _write_claims(conn: Connection, claimed: tuple[Workload, ...]) -> None:
    if not claimed:
        return
    parameters = []
    for workload in claimed:
        assert workload.identity is not None  # noqa: S101 - claim gave it one
        parameters.append(
            {
                "its_id": workload.workload_id,
                "its_version": workload.version - 1,
                "new_hostname": workload.identity.hostname,
                "new_unixname": workload.identity.unixname,
                "new_pid": workload.identity.pid,
                **{f"new_{name}": getattr(workload, name) for name in _CLAIM_COLUMNS},
            }
        )
    if conn.execute(_CLAIM, parameters).rowcount != len(claimed):
        raise StaleWriter("a workload changed between being read and being claimed; claim again")


def renew_claim(conn: Connection, workload_id: WorkloadId, token: str) -> None:
    """The phase's sign of life. Raises StaleWriter: the claim was freed, end the phase."""
    _write(conn, _RENEWED, workload_id, token)


def record_parked(
    conn: Connection, workload_id: WorkloadId, token: str, step: StepPlan, now: datetime
) -> None:
    """PREPARING -> READY with its step; the claim is over and attempts count anew for the finish phase.

    Raises StaleWriter.
    """
    _write(conn, _PARKED, workload_id, token, new_step=json_of("step", step), new_ready_at=now)


def record_intent(conn: Connection, workload_id: WorkloadId, token: str, airflow_state: str) -> None:
    """Airflow is about to be told this state for the try; a sign of life as well. Raises StaleWriter."""
    _write(conn, _INTENT, workload_id, token, new_airflow_state=airflow_state)


def record_over(
    conn: Connection, workload_id: WorkloadId, token: str, airflow_state: str, now: datetime
) -> None:
    """Airflow has its state for this try, from either phase: FINISHED. Raises StaleWriter."""
    _write(conn, _OVER, workload_id, token, new_airflow_state=airflow_state, new_finished_at=now)


def record_retry(
    conn: Connection,
    workload_id: WorkloadId,
    token: str,
    not_before: datetime,
    note: str,
    *,
    now: datetime,
    spent: bool = True,
) -> None:
    """The phase must run again, not earlier than ``not_before``; ``note`` says why. Raises StaleWriter.

    spent: False gives the attempt back: an outage, which says nothing of the task, made it fail
    """
    statement = _TO_REPEAT if spent else _TO_REPEAT_UNSPENT
    _write(conn, statement, workload_id, token, new_not_before=not_before)
    append(conn, [_story(now, workload_id, "phase_retried", note)])


def record_gone(conn: Connection, workload_id: WorkloadId, token: str, reason: str, now: datetime) -> None:
    """The Execution API refuses the try; what that means is looked up in Airflow's row. Raises StaleWriter.

    Airflow has the state that was recorded as intent: FINISHED. It is about to hand the try over again: back
    to be claimed. Else it no longer wants it: CANCELLED where no step was made, or READY with target CANCEL.
    """
    # The row is locked before Airflow's is read: the scheduler sets QUEUED and takes the try over in one
    # transaction, so that what is read then is of one moment.
    held = conn.execute(_REFUSED, {"its_id": workload_id, "its_token": token}).one_or_none()
    if held is None:
        raise _lost(workload_id)
    state, is_restarting = state_of_try(conn, workload_id)
    match seen_in_refusal(intent=held.airflow_state, airflow_state=state, is_restarting=is_restarting):
        case WorkloadEvent.REPORTED:
            record_over(conn, workload_id, token, held.airflow_state, now)
            told = (
                f"Airflow has the try as {held.airflow_state}: "
                "it was told so before, and the answer was not heard"
            )
            append(conn, [_story(now, workload_id, "told_before", told)])
        case WorkloadEvent.TO_REPEAT:
            pause_s = doubled_s(_REFUSED_PAUSE_S, _REFUSED_PAUSE_MAX_S, failures=held.phase_attempts)
            note = f"Airflow took the try back (stuck in queued) and queues it again: {reason}"
            record_retry(conn, workload_id, token, now + timedelta(seconds=pause_s), note, now=now)
        case _:
            _write(conn, _UNWANTED, workload_id, token, new_cancel_reason=reason, new_finished_at=now)
            append(conn, [_story(now, workload_id, "no_longer_wanted", reason)])


_CLAIMS = select(WORKLOAD.c.workload_id, WORKLOAD.c.claim_token, WORKLOAD.c.claim_beat).where(
    WORKLOAD.c.state.in_(CLAIMED_FROM)
)


def claims(conn: Connection) -> tuple[tuple[WorkloadId, str, int], ...]:
    """(workload id, claim token, beat) of every phase that is claimed."""
    return tuple((row.workload_id, row.claim_token, row.claim_beat) for row in conn.execute(_CLAIMS))


def free_claim(
    conn: Connection, workload_id: WorkloadId, token: str, beat: int, not_before: datetime | None
) -> bool:
    """Give a phase back to be claimed again; False when it moved since (token, beat) was seen."""
    seen = {"its_id": workload_id, "its_token": token, "its_beat": beat}
    return bool(conn.execute(_FREED, {**seen, "new_not_before": not_before}).rowcount)


def _write(conn: Connection, statement: Update, workload_id: WorkloadId, token: str, **values: Any) -> None:
    if not conn.execute(statement, {"its_id": workload_id, "its_token": token, **values}).rowcount:
        raise _lost(workload_id)


def _lost(workload_id: WorkloadId) -> StaleWriter:
    return StaleWriter(
        f"the claim of workload {workload_id} is lost: its phase runs elsewhere, drop the result"
    )


def _story(at: datetime, workload_id: WorkloadId, event: str, text: str) -> HistoryEntry:
    return HistoryEntry(at=at, subject="workload", subject_id=workload_id, event=event, text=text)

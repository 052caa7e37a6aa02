"""Claims: each phase is one process's, and a process that lost its claim writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest
from sqlalchemy import Connection, Engine, select

from emr_executor.core.model import Identity, Workload
from emr_executor.core.states import WorkloadState, WorkloadTarget
from emr_executor.errors import StaleWriter
from emr_executor.store.phase_store import (
    claim,
    claims,
    free_claim,
    record_gone,
    record_over,
    record_parked,
    record_retry,
    renew_claim,
)
from emr_executor.store.schema import HISTORY
from tests.store.builders import ME, NOW, STEP, a_parked, a_workload, at, statements, store, stored

OTHER = Identity(hostname="host-b", unixname="airflow", pid=1)
PREPARING, FINISHING = WorkloadState.PREPARING, WorkloadState.FINISHING


def tokens() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"token-{next(numbers)}"


def claim_one(conn: Connection, kind: WorkloadState = PREPARING) -> Workload:
    (claimed,) = claim(conn, kind, 1, ME, now=NOW, new_token=tokens())
    return claimed


def story(conn: Connection) -> list[tuple[str, str]]:
    return [(row.event, row.text) for row in conn.execute(select(HISTORY))]


def test_claiming_writes_identity_start_and_a_token_of_its_own_for_each(conn: Connection) -> None:
    first, second = a_workload(accepted_at=at(-9)), a_workload(accepted_at=at(-8))
    store(conn, first, second)
    claimed = claim(conn, PREPARING, 5, ME, now=NOW, new_token=tokens())
    changes = {"state": PREPARING, "identity": ME, "started_at": NOW, "version": 1, "phase_attempts": 1}
    assert claimed == (
        replace(first, claim_token="token-1", **changes),
        replace(second, claim_token="token-2", **changes),
    )
    assert [stored(conn, w.workload_id) for w in claimed] == list(claimed)
    assert set(claims(conn)) == {(first.workload_id, "token-1", 0), (second.workload_id, "token-2", 0)}


def test_the_highest_priority_goes_first_then_the_longest_wait(conn: Connection) -> None:
    late, early = a_workload(accepted_at=at(2)), a_workload(accepted_at=at(1))
    urgent = a_workload(accepted_at=at(3), priority_weight=9)
    store(conn, late, early, urgent)
    turns = [claim_one(conn).workload_id for _ in range(3)]
    assert turns == [urgent.workload_id, early.workload_id, late.workload_id]


def test_nothing_is_claimed_before_its_time_or_without_a_reason(conn: Connection) -> None:
    store(conn, a_workload(not_before=at(1)), a_parked(), a_parked(state=WorkloadState.FINISHABLE))
    assert claim(conn, PREPARING, 5, ME, now=NOW, new_token=tokens()) == ()
    assert len(claim(conn, PREPARING, 5, ME, now=at(1), new_token=tokens())) == 1


def test_the_first_identity_stays_for_the_life_of_the_try(conn: Connection) -> None:
    workload = a_parked(state=WorkloadState.FINISHABLE, started_at=at(-60))
    store(conn, workload)
    (claimed,) = claim(conn, FINISHING, 5, OTHER, now=NOW, new_token=tokens())
    assert (claimed.identity, claimed.started_at) == (ME, at(-60))
    assert stored(conn, workload.workload_id) == claimed


def test_an_accepted_workload_that_is_unwanted_is_cancelled_instead_of_prepared(conn: Connection) -> None:
    workload = a_workload(target=WorkloadTarget.CANCEL)
    store(conn, workload)
    assert claim(conn, PREPARING, 5, ME, now=NOW, new_token=tokens()) == ()
    assert stored(conn, workload.workload_id) == replace(
        workload, state=WorkloadState.CANCELLED, finished_at=NOW, version=1
    )


def test_an_unwanted_finishable_workload_is_not_claimed(conn: Connection) -> None:
    store(conn, a_parked(state=WorkloadState.FINISHABLE, target=WorkloadTarget.CANCEL))
    assert claim(conn, FINISHING, 5, ME, now=NOW, new_token=tokens()) == ()


def test_a_claim_takes_few_statements_however_many_it_gets(conn: Connection) -> None:
    store(conn, *(a_workload() for _ in range(20)))
    with statements(conn) as seen:
        claim(conn, PREPARING, 20, ME, now=NOW, new_token=tokens())
    assert len(seen) == 3


def test_two_sessions_that_claim_at_once_get_different_workloads(postgres: Engine) -> None:
    workloads = [a_workload() for _ in range(4)]
    with postgres.begin() as conn:
        store(conn, *workloads)
    with postgres.begin() as one, postgres.begin() as two:
        first = claim(one, PREPARING, 2, ME, now=NOW, new_token=tokens())
        second = claim(two, PREPARING, 4, OTHER, now=NOW, new_token=tokens())
    ids = [w.workload_id for w in workloads]
    assert [w.workload_id for w in first] == ids[:2]
    assert [w.workload_id for w in second] == ids[2:]
    with postgres.begin() as conn:
        assert [stored(conn, i) for i in ids] == [*first, *second]


def test_a_renewed_claim_has_another_beat_and_the_same_version(conn: Connection) -> None:
    store(conn, a_workload())
    claimed = claim_one(conn)
    renew_claim(conn, claimed.workload_id, "token-1")
    assert stored(conn, claimed.workload_id) == replace(claimed, claim_beat=1)


def test_parking_stores_the_step_and_ends_the_claim(conn: Connection) -> None:
    store(conn, a_workload(not_before=at(-1)))
    claimed = claim_one(conn)
    record_parked(conn, claimed.workload_id, "token-1", STEP, at(2))
    assert stored(conn, claimed.workload_id) == replace(
        claimed,
        state=WorkloadState.READY,
        step=STEP,
        ready_at=at(2),
        claim_token=None,
        phase_attempts=0,
        not_before=None,
        version=2,
    )


def test_parking_again_keeps_the_first_come_place(conn: Connection) -> None:
    store(conn, a_workload(ready_at=at(-100)))
    claimed = claim_one(conn)
    record_parked(conn, claimed.workload_id, "token-1", STEP, at(2))
    assert stored(conn, claimed.workload_id).ready_at == at(-100)


@pytest.mark.parametrize(
    ("kind", "waiting"), [(PREPARING, WorkloadState.ACCEPTED), (FINISHING, WorkloadState.FINISHABLE)]
)
def test_either_phase_may_end_a_try(conn: Connection, kind: WorkloadState, waiting: WorkloadState) -> None:
    store(conn, a_workload(state=waiting))
    claimed = claim_one(conn, kind)
    record_over(conn, claimed.workload_id, "token-1", "up_for_retry", at(3))
    assert stored(conn, claimed.workload_id) == replace(
        claimed,
        state=WorkloadState.FINISHED,
        airflow_state="up_for_retry",
        finished_at=at(3),
        claim_token=None,
        version=2,
    )


@pytest.mark.parametrize(
    ("kind", "waiting"), [(PREPARING, WorkloadState.ACCEPTED), (FINISHING, WorkloadState.FINISHABLE)]
)
def test_a_phase_that_must_run_again_waits_and_says_why(
    conn: Connection, kind: WorkloadState, waiting: WorkloadState
) -> None:
    store(conn, a_workload(state=waiting))
    claimed = claim_one(conn, kind)
    record_retry(conn, claimed.workload_id, "token-1", at(30), "DAG not found", now=NOW)
    assert stored(conn, claimed.workload_id) == replace(
        claimed, state=waiting, not_before=at(30), claim_token=None, version=2
    )
    assert story(conn) == [("phase_retried", "DAG not found")]


def test_a_try_that_is_gone_before_it_had_a_step_is_cancelled(conn: Connection) -> None:
    store(conn, a_workload())
    claimed = claim_one(conn)
    record_gone(conn, claimed.workload_id, "token-1", "404 from Airflow", at(1))
    gone = stored(conn, claimed.workload_id)
    assert (gone.state, gone.target, gone.cancel_reason) == (
        WorkloadState.CANCELLED,
        WorkloadTarget.CANCEL,
        "404 from Airflow",
    )
    assert (gone.finished_at, gone.claim_token, gone.version) == (at(1), None, 2)
    assert story(conn) == [("no_longer_wanted", "404 from Airflow")]


def test_a_try_that_is_gone_with_a_step_is_left_to_the_steering_agent(conn: Connection) -> None:
    store(conn, a_parked(state=WorkloadState.FINISHABLE))
    claimed = claim_one(conn, FINISHING)
    record_gone(conn, claimed.workload_id, "token-1", "cleared", at(1))
    gone = stored(conn, claimed.workload_id)
    assert (gone.state, gone.target, gone.finished_at) == (WorkloadState.READY, WorkloadTarget.CANCEL, None)


@pytest.mark.parametrize(
    ("kind", "waiting"), [(PREPARING, WorkloadState.ACCEPTED), (FINISHING, WorkloadState.FINISHABLE)]
)
def test_a_claim_that_stood_still_is_freed(
    conn: Connection, kind: WorkloadState, waiting: WorkloadState
) -> None:
    store(conn, a_workload(state=waiting))
    claimed = claim_one(conn, kind)
    assert free_claim(conn, claimed.workload_id, "token-1", 0, at(5))
    assert stored(conn, claimed.workload_id) == replace(
        claimed, state=waiting, claim_token=None, not_before=at(5), version=2
    )
    assert claims(conn) == ()


def test_a_claim_that_moved_is_not_freed(conn: Connection) -> None:
    store(conn, a_workload())
    claimed = claim_one(conn)
    renew_claim(conn, claimed.workload_id, "token-1")
    assert not free_claim(conn, claimed.workload_id, "token-1", 0, None)
    assert not free_claim(conn, claimed.workload_id, "token-0", 1, None)
    assert stored(conn, claimed.workload_id).claim_token == "token-1"


WRITES = {
    "renew": renew_claim,
    "parked": lambda conn, i, token: record_parked(conn, i, token, STEP, NOW),
    "over": lambda conn, i, token: record_over(conn, i, token, "failed", NOW),
    "retry": lambda conn, i, token: record_retry(conn, i, token, NOW, "why", now=NOW),
    "gone": lambda conn, i, token: record_gone(conn, i, token, "why", NOW),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_process_that_lost_its_claim_writes_nothing(conn: Connection, write) -> None:
    store(conn, a_workload())
    claimed = claim_one(conn)
    free_claim(conn, claimed.workload_id, "token-1", 0, None)
    (again,) = claim(conn, PREPARING, 1, OTHER, now=NOW, new_token=lambda: "token-2")
    with pytest.raises(StaleWriter, match="runs elsewhere"):
        write(conn, claimed.workload_id, "token-1")
    assert stored(conn, claimed.workload_id) == again
    assert story(conn) == []


def test_a_finish_phase_cannot_park(conn: Connection) -> None:
    store(conn, a_parked(state=WorkloadState.FINISHABLE))
    claimed = claim_one(conn, FINISHING)
    with pytest.raises(StaleWriter):
        record_parked(conn, claimed.workload_id, "token-1", STEP, NOW)

"""Two who write at once on PostgreSQL: one waits and is told, nobody deadlocks; who fails leaves nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine

from emr_executor.core.states import WorkloadState
from emr_executor.errors import StaleWriter
from emr_executor.store.change_store import Change, apply
from emr_executor.store.lease_store import LeaseRow, hold_lease, read_lease, take_lease
from emr_executor.store.phase_store import claim
from emr_executor.store.scheduler_store import accept, ask_cancel, deployment_id, live
from emr_executor.store.schema import STEERING
from tests.store.builders import ME, NOW, a_parked, a_workload, store, stored
from tests.store.contract_builders import OTHER, placed


class Meanwhile:
    """``work`` in a transaction of another thread, and what it gave back or raised."""

    def __init__(self, engine: Engine, work: Callable[[Connection], Any]) -> None:
        self._engine, self._work = engine, work
        self.ends: list[Any] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with self._engine.begin() as conn:
                done = self._work(conn)
        except Exception as e:  # noqa: BLE001 - whatever it is, the test shows it
            done = e
        self.ends.append(done)

    def start(self) -> None:
        self._thread.start()

    def is_waiting(self) -> bool:
        self._thread.join(timeout=0.2)
        return self._thread.is_alive()

    def end(self) -> Any:
        self._thread.join(timeout=10)
        (done,) = self.ends
        return done


def steered(engine: Engine, *values: Any) -> int:
    with engine.begin() as conn:
        store(conn, *values)
        token = take_lease(conn, STEERING, "a", LeaseRow())
    assert token is not None
    return token


def test_a_takeover_waits_for_the_transaction_that_holds_the_lease(postgres: Engine) -> None:
    token = steered(postgres)
    successor = Meanwhile(postgres, lambda conn: take_lease(conn, STEERING, "b", read_lease(conn, STEERING)))
    with postgres.begin() as conn:
        hold_lease(conn, token)
        successor.start()
        assert successor.is_waiting()
    assert successor.end() == token + 1


def test_two_who_ask_for_the_deployment_id_at_once_get_the_same(postgres: Engine) -> None:
    other = Meanwhile(postgres, deployment_id)
    with postgres.begin() as conn:
        mine = deployment_id(conn)
        other.start()
        assert other.is_waiting()
    assert other.end() == mine


def test_of_two_sessions_that_apply_to_one_row_the_later_is_told(postgres: Engine) -> None:
    workload = a_parked()
    token = steered(postgres, workload)
    too_late = [Change(old=workload, new=replace(workload, not_before=NOW))]
    other = Meanwhile(postgres, lambda conn: apply(conn, token, too_late, []))
    with postgres.begin() as conn:
        apply(conn, token, [Change(old=workload, new=placed(workload))], [])
        other.start()
        assert other.is_waiting()
    refused = other.end()
    assert isinstance(refused, StaleWriter)
    assert workload.workload_id in str(refused)
    with postgres.begin() as conn:
        assert stored(conn, workload.workload_id) == replace(placed(workload), version=1)


def test_writers_of_the_same_rows_in_opposite_orders_do_not_deadlock(postgres: Engine) -> None:
    workloads = [a_parked() for _ in range(30)]
    token = steered(postgres, *workloads)
    start = threading.Barrier(2)

    def cancel_backwards(conn: Connection) -> None:
        start.wait(timeout=10)
        ask_cancel(conn, [w.workload_id for w in reversed(workloads)], "cleared")

    other = Meanwhile(postgres, cancel_backwards)
    other.start()
    start.wait(timeout=10)
    with suppress(StaleWriter), postgres.begin() as conn:
        apply(conn, token, [Change(old=w, new=placed(w)) for w in reversed(workloads)], [])
    assert other.end() is None
    with postgres.begin() as conn:
        assert {stored(conn, w.workload_id).target for w in workloads} == {"CANCEL"}


def test_two_sessions_that_claim_at_once_get_different_workloads(postgres: Engine) -> None:
    workloads = [a_workload() for _ in range(4)]
    with postgres.begin() as conn:
        store(conn, *workloads)
    with postgres.begin() as one, postgres.begin() as two:
        first = claim(one, WorkloadState.PREPARING, 2, ME, now=NOW, new_token=lambda: "t")
        second = claim(two, WorkloadState.PREPARING, 4, OTHER, now=NOW, new_token=lambda: "t")
    ids = [w.workload_id for w in workloads]
    assert [w.workload_id for w in first] == ids[:2]
    assert [w.workload_id for w in second] == ids[2:]
    with postgres.begin() as conn:
        assert [stored(conn, i) for i in ids] == [*first, *second]


def test_accept_leaves_nothing_when_the_scheduler_rolls_back(engine: Engine) -> None:
    workload = a_workload()
    with engine.connect() as conn:
        transaction = conn.begin()
        accept(conn, [workload])
        transaction.rollback()
    with engine.begin() as conn:
        assert live(conn, [workload.workload_id]) == set()

"""The scheduler queues a try again while somebody still acts on what Airflow said before. On PostgreSQL.

It sets QUEUED and takes the try over in one transaction; until that commits, others read SCHEDULED.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text, update

from emr_executor.core.model import Workload
from emr_executor.core.states import WorkloadState, WorkloadTarget
from emr_executor.store.phase_store import record_gone
from emr_executor.store.scheduler_store import accept, ask_cancel_unless_queued
from emr_executor.store.schema import TASK_INSTANCE
from tests.store.builders import ME, NOW, a_workload, put_task_instance, store, stored

Work = Callable[[Connection, Workload], Any]


def a_try(state: WorkloadState, **changes: Any) -> Workload:
    return a_workload(state=state, identity=ME, started_at=NOW, version=3, **changes)


def while_it_is_queued_again(engine: Engine, workload: Workload, before: str, work: Work) -> Workload:
    """``work`` begins while the scheduler's transaction is open, and ends after it; the row then."""
    with engine.begin() as conn:
        store(conn, workload)
        put_task_instance(conn, workload, before)
    failures: list[BaseException] = []

    def late() -> None:
        try:
            with engine.begin() as conn:
                work(conn, workload)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            failures.append(error)

    with engine.begin() as scheduler:
        scheduler.execute(update(TASK_INSTANCE).values(state="queued"))
        accept(scheduler, [replace(workload, state=WorkloadState.ACCEPTED, claim_token=None, version=0)])
        thread = threading.Thread(target=late)
        thread.start()
        _until_blocked(engine)
    thread.join(timeout=10)
    assert failures == []
    with engine.begin() as conn:
        return stored(conn, workload.workload_id)


def _until_blocked(engine: Engine) -> None:
    end = time.monotonic() + 10
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        while not conn.execute(waiting).scalar_one():
            assert time.monotonic() < end, "it did not wait for the row"
            time.sleep(0.01)


@pytest.mark.parametrize("before", ["scheduled", "restarting", None])
def test_a_cancel_that_met_the_new_hand_over_does_nothing(postgres: Engine, before: Any) -> None:
    def cancel(conn: Connection, workload: Workload) -> None:
        assert ask_cancel_unless_queued(conn, [workload.workload_id], "not wanted a moment ago") == 0

    row = while_it_is_queued_again(postgres, a_try(WorkloadState.ACCEPTED), before, cancel)
    assert (row.state, row.target) == (WorkloadState.ACCEPTED, WorkloadTarget.RUN)


def test_a_phase_that_was_refused_before_the_new_hand_over_runs_again(postgres: Engine) -> None:
    def gone(conn: Connection, workload: Workload) -> None:
        record_gone(conn, workload.workload_id, "mine", "409 invalid_state", NOW)

    refused = a_try(WorkloadState.PREPARING, claim_token="mine", phase_attempts=1)
    row = while_it_is_queued_again(postgres, refused, "failed", gone)
    assert (row.state, row.target, row.claim_token) == (WorkloadState.ACCEPTED, WorkloadTarget.RUN, None)

"""Guarded writes: all of a tick or nothing, and never over what another has written."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine, func, select

from emr_executor.core.model import HistoryEntry, Workload
from emr_executor.core.states import ClusterState, StepState, SubmissionState, WorkloadState
from emr_executor.errors import StaleWriter
from emr_executor.store.change_store import Change, apply
from emr_executor.store.lease_store import LeaseRow, take_lease
from emr_executor.store.rows import cluster_from, submission_from
from emr_executor.store.scheduler_store import accept, ask_cancel
from emr_executor.store.schema import CLUSTER, HISTORY, STEERING, SUBMISSION
from tests.store.builders import NOW, a_cluster, a_parked, a_submission, a_workload, statements, store, stored

LINE = HistoryEntry(at=NOW, subject="workload", subject_id="w", event="placed", text="on a cluster")


def steer(conn: Connection) -> int:
    token = take_lease(conn, STEERING, "me", LeaseRow())
    assert token is not None
    return token


def placed(workload: Workload) -> Workload:
    return replace(workload, state=WorkloadState.SUBMITTED, submissions=workload.submissions + 1)


def lines(conn: Connection) -> int:
    return conn.execute(select(func.count()).select_from(HISTORY)).scalar_one()


def test_a_tick_is_written_with_new_versions_in_the_order_given(conn: Connection) -> None:
    token, workload, cluster = steer(conn), a_parked(version=3), a_cluster()
    store(conn, workload, cluster)
    submission = a_submission(workload, cluster)
    idle = replace(cluster, state=ClusterState.WAITING, idle_since=NOW)
    changes = [
        Change(old=workload, new=placed(workload)),
        Change(old=None, new=submission),
        Change(old=cluster, new=idle),
    ]
    written = apply(conn, token, changes, [LINE])
    assert written == (replace(placed(workload), version=4), submission, replace(idle, version=1))
    assert stored(conn, workload.workload_id) == written[0]
    assert submission_from(conn.execute(select(SUBMISSION)).mappings().one()) == submission
    assert cluster_from(conn.execute(select(CLUSTER)).mappings().one()) == written[2]
    assert lines(conn) == 1


def test_columns_that_did_not_change_are_left_to_their_writers(conn: Connection) -> None:
    token, workload = steer(conn), a_parked()
    store(conn, workload)
    lean = replace(workload, workload={}, executor_config={})
    accept(conn, [replace(workload, scheduler_job_id=99, priority_weight=5)])
    apply(conn, token, [Change(old=lean, new=placed(lean))], [])
    assert stored(conn, workload.workload_id) == replace(
        placed(workload), version=1, scheduler_job_id=99, priority_weight=5
    )


def test_a_row_that_moved_on_is_named_and_nothing_is_written(engine: Engine) -> None:
    kept, cancelled = a_parked(), a_parked()
    with engine.begin() as conn:
        token = steer(conn)
        store(conn, kept, cancelled)
        ask_cancel(conn, [cancelled.workload_id], "cleared")
    changes = [Change(old=w, new=placed(w)) for w in (kept, cancelled)]
    named = f"{cancelled.workload_id} .read at version 0, now 1"
    with pytest.raises(StaleWriter, match=named) as stale, engine.begin() as conn:
        apply(conn, token, changes, [LINE])
    assert kept.workload_id not in str(stale.value)
    with engine.begin() as conn:
        assert stored(conn, kept.workload_id) == kept
        assert lines(conn) == 0


def test_a_row_that_was_deleted_is_named(conn: Connection) -> None:
    token, workload = steer(conn), a_parked()
    with pytest.raises(StaleWriter, match="now deleted"):
        apply(conn, token, [Change(old=workload, new=placed(workload))], [])


def test_a_row_that_exists_already_is_not_inserted_again(engine: Engine) -> None:
    submission = a_submission(a_workload(), a_cluster())
    with engine.begin() as conn:
        token = steer(conn)
        store(conn, submission)
    with pytest.raises(StaleWriter, match=submission.submission_id), engine.begin() as conn:
        apply(conn, token, [Change(old=None, new=submission)], [])


def test_without_the_lease_nothing_is_written(conn: Connection) -> None:
    token, workload = steer(conn), a_parked()
    store(conn, workload)
    with pytest.raises(StaleWriter, match="lease"):
        apply(conn, token + 1, [Change(old=workload, new=placed(workload))], [LINE])
    assert stored(conn, workload.workload_id) == workload


def test_a_change_of_nothing_writes_nothing(conn: Connection) -> None:
    token, workload = steer(conn), a_parked()
    store(conn, workload)
    with statements(conn) as seen:
        assert apply(conn, token, [Change(old=workload, new=workload)], []) == (workload,)
    assert len(seen) == 1


def test_two_changes_of_one_row_count_as_one(conn: Connection) -> None:
    token, workload = steer(conn), a_parked()
    store(conn, workload)
    between = placed(workload)
    last = replace(between, not_before=NOW)
    written = apply(conn, token, [Change(old=workload, new=between), Change(old=between, new=last)], [])
    assert written == (replace(last, version=1),) * 2
    assert stored(conn, workload.workload_id) == written[1]


def test_a_row_may_be_new_and_changed_at_once(conn: Connection) -> None:
    token, submission = steer(conn), a_submission(a_workload(), a_cluster())
    running = replace(submission, state=SubmissionState.RUNNING, step_state=StepState.RUNNING)
    written = apply(conn, token, [Change(old=None, new=submission), Change(old=submission, new=running)], [])
    assert written == (running, running)


def test_many_changes_of_one_shape_are_one_statement(conn: Connection) -> None:
    token, cluster = steer(conn), a_cluster()
    workloads = [a_parked() for _ in range(64)]
    store(conn, cluster, *workloads)
    changes = [Change(old=w, new=placed(w)) for w in workloads]
    changes += [Change(old=None, new=a_submission(w, cluster)) for w in workloads]
    with statements(conn) as seen:
        apply(conn, token, changes, [LINE] * 64)
    assert len(seen) == 5  # lease, submissions, lock of workloads, workloads, history


def test_of_two_sessions_that_apply_to_one_row_the_later_is_told(postgres: Engine) -> None:
    workload = a_parked()
    with postgres.begin() as conn:
        token = steer(conn)
        store(conn, workload)
    refused: list[str] = []

    def apply_too() -> None:
        try:
            with postgres.begin() as conn:
                apply(conn, token, [Change(old=workload, new=replace(workload, not_before=NOW))], [])
        except StaleWriter as e:
            refused.append(str(e))

    with postgres.begin() as conn:
        apply(conn, token, [Change(old=workload, new=placed(workload))], [])
        other = threading.Thread(target=apply_too)
        other.start()
        other.join(timeout=0.2)
        assert other.is_alive()
    other.join(timeout=10)
    assert len(refused) == 1
    assert workload.workload_id in refused[0]
    with postgres.begin() as conn:
        assert stored(conn, workload.workload_id) == replace(placed(workload), version=1)


def test_writers_of_the_same_rows_in_opposite_orders_do_not_deadlock(postgres: Engine) -> None:
    workloads = [a_parked() for _ in range(30)]
    with postgres.begin() as conn:
        token = steer(conn)
        store(conn, *workloads)
    start = threading.Barrier(2)
    failures: list[BaseException] = []

    def cancel_backwards() -> None:
        try:
            start.wait(timeout=10)
            with postgres.begin() as conn:
                ask_cancel(conn, [w.workload_id for w in reversed(workloads)], "cleared")
        except Exception as e:  # noqa: BLE001 - whatever it is, the test shows it
            failures.append(e)

    other = threading.Thread(target=cancel_backwards)
    other.start()
    start.wait(timeout=10)
    with suppress(StaleWriter), postgres.begin() as conn:
        apply(conn, token, [Change(old=w, new=placed(w)) for w in reversed(workloads)], [])
    other.join(timeout=10)
    assert failures == []
    with postgres.begin() as conn:
        assert {stored(conn, w.workload_id).target for w in workloads} == {"CANCEL"}

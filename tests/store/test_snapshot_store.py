"""What the steering agent sees: all that lives, nothing that is over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine, delete, event, update

from emr_executor.core.model import Snapshot
from emr_executor.core.states import ClusterState, SubmissionState, WorkloadState, WorkloadTarget
from emr_executor.store.runner import transact
from emr_executor.store.schema import WORKLOAD
from emr_executor.store.snapshot_store import Known, snapshot
from tests.store.builders import (
    NOW,
    STEP,
    a_cluster,
    a_parked,
    a_submission,
    a_workload,
    at,
    statements,
    store,
    what_is_read,
)

CANCEL = WorkloadTarget.CANCEL
LIVE = [s for s in WorkloadState if s not in {WorkloadState.FINISHED, WorkloadState.CANCELLED}]


def lean(workload):
    return replace(workload, workload={}, executor_config={})


def test_a_snapshot_holds_what_lives(conn: Connection) -> None:
    up, over = a_cluster(), a_cluster(state=ClusterState.TERMINATED)
    ready = a_parked(accepted_at=at(2), executor_config={"a": 1})
    submitted = a_parked(state=WorkloadState.SUBMITTED, accepted_at=at(1), submissions=2)
    dropped = a_parked(state=WorkloadState.FINISHABLE, target=CANCEL, accepted_at=at(3))
    elsewhere = [
        a_workload(),
        a_parked(state=WorkloadState.FINISHABLE),
        a_workload(state=WorkloadState.PREPARING),
    ]
    gone = [a_parked(state=WorkloadState.FINISHED), a_parked(state=WorkloadState.CANCELLED, target=CANCEL)]
    lost = a_submission(submitted, over, 1, state=SubmissionState.LOST)
    running = a_submission(submitted, up, 2, state=SubmissionState.RUNNING)
    store(conn, up, over, ready, submitted, dropped, *elsewhere, *gone, lost, running)
    with statements(conn) as seen:
        found = snapshot(conn, NOW, 100)
    assert found == Snapshot(
        now=NOW,
        clusters=(up,),
        submissions=(running,),
        workloads=(lean(ready), lean(submitted), lean(dropped)),
    )
    assert len(seen) == 8, "what lives of three tables, waiting and engaged, and its values"


@pytest.mark.parametrize(
    "change", ["nothing", "a version", "the owner", "the priority", "it ended", "it is new"]
)
def test_only_what_changed_is_read_again(conn: Connection, change: str) -> None:
    up, submitted = a_cluster(), a_parked(state=WorkloadState.SUBMITTED, submissions=1)
    parked = [a_parked(step=replace(STEP, command=("x" * 5_000,))) for _ in range(30)]
    store(conn, up, submitted, a_submission(submitted, up, 1, state=SubmissionState.RUNNING), *parked)
    known = Known()
    first = snapshot(conn, NOW, 100, known)
    changes = {
        "a version": {"losses": 1, "version": 1},
        "the owner": {"scheduler_job_id": 99},
        "the priority": {"priority_weight": 7},
        "it ended": {"state": WorkloadState.FINISHED, "version": 1},
    }
    its = WORKLOAD.c.workload_id == parked[3].workload_id
    if change in changes:
        conn.execute(update(WORKLOAD).where(its).values(changes[change]))
    elif change == "it is new":
        store(conn, a_parked())
    with what_is_read(conn) as read:
        again = snapshot(conn, NOW, 100, known)
    assert again == snapshot(conn, NOW, 100)
    assert (again == first) == (change == "nothing")
    rows, characters = read()
    is_one_read = change not in ("nothing", "it ended")
    assert rows == 4 + is_one_read, "one text for each statement"
    assert characters < 100 * len(again.workloads) + is_one_read * 7_000
    unchanged = {id(one) for one in first.workloads} & {id(one) for one in again.workloads}
    assert len(unchanged) >= len(first.workloads) - 1


def test_a_row_that_goes_while_its_value_is_read_is_left_out(conn: Connection) -> None:
    """Where a reading transaction is not of one moment, as on the connection of a test."""
    store(conn, *(a_parked() for _ in range(3)))
    seen: list[str] = []

    def interfere(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if not seen and "workload_id IN" in statement:
            seen.append(statement)
            conn.execute(update(WORKLOAD).values(version=WORKLOAD.c.version + 1))
            conn.execute(delete(WORKLOAD).where(WORKLOAD.c.workload_id == gone.workload_id))

    gone = snapshot(conn, NOW, 100).workloads[0]
    event.listen(conn.engine, "before_cursor_execute", interfere)
    try:
        found = snapshot(conn, NOW, 100)
    finally:
        event.remove(conn.engine, "before_cursor_execute", interfere)
    assert found.workloads == snapshot(conn, NOW, 100).workloads
    assert len(found.workloads) == 2


def test_what_was_known_a_minute_ago_is_not_trusted(conn: Connection) -> None:
    """A row that is purged and handed over again may be counted as before."""
    store(conn, parked := a_parked())
    known = Known()
    snapshot(conn, NOW, 100, known)
    conn.execute(update(WORKLOAD).values(queue="another"))
    assert snapshot(conn, at(60), 100, known).workloads == (lean(parked),)
    assert snapshot(conn, at(121), 100, known).workloads[0].queue == "another"


def test_an_empty_store_gives_an_empty_snapshot(conn: Connection) -> None:
    assert snapshot(conn, NOW, 100) == Snapshot(now=NOW, clusters=(), submissions=(), workloads=())


def test_ready_workloads_come_by_turn_up_to_the_bound_and_the_rest_is_counted(conn: Connection) -> None:
    late, early = a_parked(accepted_at=at(2)), a_parked(accepted_at=at(1))
    urgent = a_parked(accepted_at=at(3), priority_weight=7)
    store(conn, late, early, urgent)
    found = snapshot(conn, NOW, 2)
    assert found.workloads == (lean(urgent), lean(early))
    assert found.ready_beyond == 1


def test_a_snapshot_that_a_runner_reads_is_of_one_moment(engine: Engine) -> None:
    workload = a_parked()

    def look_write_elsewhere_and_look_again(conn: Connection) -> list[Snapshot]:
        before = snapshot(conn, NOW, 10)
        transact(engine, store, workload)
        return [before, snapshot(conn, NOW, 10)]

    before, after = transact(engine, look_write_elsewhere_and_look_again, read_only=True)
    assert before.workloads == after.workloads == ()
    assert transact(engine, snapshot, NOW, 10, read_only=True).workloads == (lean(workload),)


def test_a_reading_transaction_leaves_its_connection_able_to_write(engine: Engine) -> None:
    transact(engine, snapshot, NOW, 10, read_only=True)
    transact(engine, store, a_parked())
    assert len(transact(engine, snapshot, NOW, 10, read_only=True).workloads) == 1

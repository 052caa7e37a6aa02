"""What the scheduler's process may rely on."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine, func, select

from emr_executor.core.model import StepOutcome, WorkloadId
from emr_executor.core.states import Verdict, WorkloadState, WorkloadTarget
from emr_executor.store import scheduler_store
from emr_executor.store.scheduler_store import Reported, accept, adopt, ask_cancel, live, take_outcomes
from emr_executor.store.schema import WORKLOAD
from tests.store.builders import (
    ME,
    NOW,
    SCHEDULER,
    STEP,
    a_parked,
    a_workload,
    put_task_instance,
    reported,
    set_task_state,
    statements,
    store,
    stored,
)

UNKNOWN = WorkloadId(str(uuid.uuid4()))
OUTCOME = StepOutcome(verdict=Verdict.SUCCEEDED, started_at=NOW, ended_at=NOW, submissions=1)


def a_finished(**changes):
    return a_parked(
        **{
            "state": WorkloadState.FINISHED,
            "airflow_state": "success",
            "finished_at": NOW,
            "submissions": 2,
            "version": 7,
            "outcome": OUTCOME,
            **changes,
        }
    )


def a_cancelled(**changes):
    return a_finished(
        **{
            "state": WorkloadState.CANCELLED,
            "target": WorkloadTarget.CANCEL,
            "airflow_state": None,
            "cancel_reason": "cleared",
            **changes,
        }
    )


def test_deployment_id_is_made_once(engine: Engine) -> None:
    with engine.begin() as conn:
        first = scheduler_store.deployment_id(conn)
    with engine.begin() as conn, statements(conn) as seen:
        assert scheduler_store.deployment_id(conn) == first
    assert uuid.UUID(first)
    assert len(seen) == 1


def test_accepted_workloads_are_stored_as_given_in_one_statement(conn: Connection) -> None:
    workloads = [a_workload(executor_config={"pod": 1}, log_path="dag/1.log") for _ in range(20)]
    with statements(conn) as seen:
        accept(conn, workloads)
    assert len(seen) == 1
    assert [stored(conn, w.workload_id) for w in workloads] == workloads


def test_a_workload_named_twice_in_one_hand_over_is_stored_once(conn: Connection) -> None:
    first = a_workload()
    accept(conn, [first, replace(first, priority_weight=5)])
    assert stored(conn, first.workload_id).priority_weight == 5


def test_a_thousand_workloads_fit(conn: Connection) -> None:
    accept(conn, [a_workload() for _ in range(1001)])
    assert conn.execute(select(func.count()).select_from(WORKLOAD)).scalar_one() == 1001


def test_accept_leaves_nothing_when_the_scheduler_rolls_back(engine: Engine) -> None:
    workload = a_workload()
    with engine.connect() as conn:
        transaction = conn.begin()
        accept(conn, [workload])
        transaction.rollback()
    with engine.begin() as conn:
        assert live(conn, [workload.workload_id]) == set()


@pytest.mark.parametrize(
    "state", [s for s in WorkloadState if s not in {WorkloadState.FINISHED, WorkloadState.CANCELLED}]
)
def test_a_live_workload_handed_over_again_goes_on_where_it_stands(
    conn: Connection, state: WorkloadState
) -> None:
    old = a_parked(state=state, version=4, submissions=1, outcome=OUTCOME, claim_token="c", claim_beat=3)
    store(conn, old)
    accept(
        conn,
        [
            a_workload(
                workload_id=old.workload_id, key=old.key, scheduler_job_id=99, priority_weight=8, queue="x"
            )
        ],
    )
    assert stored(conn, old.workload_id) == replace(old, scheduler_job_id=99, priority_weight=8)


def test_a_live_workload_handed_over_again_is_wanted_again(conn: Connection) -> None:
    old = a_parked(version=4, target=WorkloadTarget.CANCEL, cancel_reason="stuck in queued")
    store(conn, old)
    accept(conn, [a_workload(workload_id=old.workload_id, key=old.key)])
    wanted = stored(conn, old.workload_id)
    assert (wanted.target, wanted.cancel_reason, wanted.version) == (WorkloadTarget.RUN, None, 5)
    assert wanted.state is WorkloadState.READY


@pytest.mark.parametrize("over", [a_finished, a_cancelled])
def test_an_over_workload_handed_over_again_starts_anew_and_keeps_counting_submissions(
    conn: Connection, over
) -> None:
    old = over()
    store(conn, old)
    take_outcomes(conn, SCHEDULER, 10)
    again = a_workload(workload_id=old.workload_id, key=old.key, scheduler_job_id=12)
    accept(conn, [again])
    assert stored(conn, old.workload_id) == replace(again, submissions=2, version=8)
    assert reported(conn, old.workload_id) == 0


def test_outcomes_are_taken_once_with_two_statements_whatever_is_parked(conn: Connection) -> None:
    over = [a_finished(), a_finished(airflow_state="failed")]
    store(conn, *over, *(a_parked() for _ in range(50)), a_finished(scheduler_job_id=SCHEDULER + 1))
    with statements(conn) as seen:
        taken = take_outcomes(conn, SCHEDULER, 10)
    assert taken == [
        Reported(workload_id=w.workload_id, key=w.key, airflow_state=w.airflow_state, state=w.state)
        for w in over
    ]
    assert len(seen) == 2
    with statements(conn) as seen:
        assert take_outcomes(conn, SCHEDULER, 10) == []
    assert len(seen) == 1


def test_outcomes_beyond_the_limit_come_next_time(conn: Connection) -> None:
    store(conn, *(a_finished() for _ in range(5)))
    sizes = [len(take_outcomes(conn, SCHEDULER, 2)) for _ in range(4)]
    assert sizes == [2, 2, 1, 0]


def test_a_cancelled_workload_is_offered_until_airflow_let_go_of_it(conn: Connection) -> None:
    workload = a_cancelled()
    store(conn, workload)
    put_task_instance(conn, workload, "restarting", ti_id=UNKNOWN)
    offers = []
    for _ in range(3):
        with statements(conn) as seen:
            offers.append([o.workload_id for o in take_outcomes(conn, SCHEDULER, 10)])
        assert len(seen) <= 2
    assert offers == [[workload.workload_id]] * 3
    set_task_state(conn, workload, None)
    assert take_outcomes(conn, SCHEDULER, 10) == []
    set_task_state(conn, workload, "restarting")
    assert take_outcomes(conn, SCHEDULER, 10) == []


@pytest.mark.parametrize("task_state", ["success", "running", None])
def test_a_cancelled_workload_that_airflow_does_not_restart_is_offered_once(
    conn: Connection, task_state: str | None
) -> None:
    workload = a_cancelled()
    store(conn, workload)
    put_task_instance(conn, workload, task_state)
    assert [o.state for o in take_outcomes(conn, SCHEDULER, 10)] == [WorkloadState.CANCELLED]
    assert take_outcomes(conn, SCHEDULER, 10) == []


def test_a_later_try_being_restarted_does_not_repeat_an_earlier_one(conn: Connection) -> None:
    old = a_cancelled()
    store(conn, old)
    put_task_instance(conn, replace(old, key=replace(old.key, try_number=2)), "restarting", ti_id=UNKNOWN)
    assert len(take_outcomes(conn, SCHEDULER, 10)) == 1
    assert take_outcomes(conn, SCHEDULER, 10) == []


def test_repeated_offers_do_not_starve_new_outcomes(conn: Connection) -> None:
    repeated = [a_cancelled() for _ in range(3)]
    store(conn, *repeated)
    for n, workload in enumerate(repeated):
        put_task_instance(conn, workload, "restarting", ti_id=str(uuid.UUID(int=2**100 + n)))
    take_outcomes(conn, SCHEDULER, 3)
    fresh = a_finished()
    store(conn, fresh)
    assert take_outcomes(conn, SCHEDULER, 3)[0].workload_id == fresh.workload_id


def test_adopt_takes_what_is_known_and_not_over_in_one_statement(conn: Connection) -> None:
    parked, over = a_parked(), a_finished()
    store(conn, parked, over)
    with statements(conn) as seen:
        adopted = adopt(conn, [parked.workload_id, over.workload_id, UNKNOWN], 77)
    assert adopted == {parked.workload_id}
    assert len(seen) == 1
    assert stored(conn, parked.workload_id) == replace(parked, scheduler_job_id=77)
    assert stored(conn, over.workload_id).scheduler_job_id == SCHEDULER
    assert adopt(conn, [], 77) == set()


def test_ask_cancel_changes_target_and_version_once(conn: Connection) -> None:
    parked, over = a_parked(identity=ME, step=STEP), a_finished()
    store(conn, parked, over)
    ids = [parked.workload_id, over.workload_id, UNKNOWN]
    with statements(conn) as seen:
        assert ask_cancel(conn, ids, "cleared\x00 by a person") == 1
    assert len(seen) == 1
    assert ask_cancel(conn, ids, "again") == 0
    assert stored(conn, parked.workload_id) == replace(
        parked, target=WorkloadTarget.CANCEL, cancel_reason="cleared\ufffd by a person", version=1
    )
    assert stored(conn, over.workload_id) == over


def test_live_says_what_is_known_and_not_over(conn: Connection) -> None:
    parked, over = a_parked(), a_finished()
    store(conn, parked, over)
    assert live(conn, [parked.workload_id, over.workload_id, UNKNOWN]) == {parked.workload_id}


def test_two_who_ask_for_the_deployment_id_at_once_get_the_same(postgres: Engine) -> None:
    found: list[str] = []

    def ask() -> None:
        with postgres.begin() as conn:
            found.append(scheduler_store.deployment_id(conn))

    with postgres.begin() as conn:
        mine = scheduler_store.deployment_id(conn)
        other = threading.Thread(target=ask)
        other.start()
        other.join(timeout=0.2)
        assert found == []
    other.join(timeout=10)
    assert found == [mine]

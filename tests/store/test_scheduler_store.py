"""What schedulers may rely on, and what is read of Airflow."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from emr_executor.core.states import WorkloadState, WorkloadTarget
from emr_executor.store.schema import ReportState
from tests.store.builders import ME, NOW, SCHEDULER, a_parked, a_workload, at
from tests.store.contract_builders import LIVE, OUTCOME, OVER, UNKNOWN, an_over, told
from tests.store.whole_store import Store


async def test_what_is_accepted_is_stored_as_given_and_once(store: Store) -> None:
    first = a_workload(executor_config={"pod": 1}, log_path="dag/1.log")
    second = a_workload()
    await store.scheduler.accept([])
    await store.scheduler.accept([first, second, replace(second, priority_weight=5)])
    assert store.rows().workloads == ((first, ReportState.UNREAD), (replace(second, priority_weight=5), 0))


async def test_a_thousand_and_one_are_accepted_at_once(store: Store) -> None:
    given = [a_workload() for _ in range(1001)]
    await store.scheduler.accept(given)
    assert [w for w, _ in store.rows().workloads] == given


@pytest.mark.parametrize("target", WorkloadTarget)
@pytest.mark.parametrize("state", LIVE)
async def test_a_live_one_accepted_again_goes_on_and_is_wanted(
    store: Store, state: WorkloadState, target: WorkloadTarget
) -> None:
    cancelled = target is WorkloadTarget.CANCEL
    old = a_parked(
        state=state,
        target=target,
        cancel_reason="stuck" if cancelled else None,
        version=4,
        submissions=1,
        outcome=OUTCOME,
        claim_token="c",
        claim_beat=3,
    )
    await store.put(old)
    again = a_workload(
        workload_id=old.workload_id, key=old.key, scheduler_job_id=99, priority_weight=8, queue="x"
    )
    await store.scheduler.accept([again])
    assert store.workload(old.workload_id) == replace(
        old,
        scheduler_job_id=99,
        priority_weight=8,
        target=WorkloadTarget.RUN,
        cancel_reason=None,
        version=5 if cancelled else 4,
    )


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("state", OVER)
async def test_an_over_one_accepted_again_starts_anew_and_uses_no_submission_id_twice(
    store: Store, state: WorkloadState, read: bool
) -> None:
    old = an_over(state, submissions=2, outcome=OUTCOME, workload={"old": 1}, quarantine="why")
    await store.put(old)
    if read:
        await store.scheduler.take_outcomes(SCHEDULER, 10)
    again = a_workload(
        workload_id=old.workload_id, key=replace(old.key, try_number=2), scheduler_job_id=12, submissions=0
    )
    await store.scheduler.accept([again])
    assert store.rows().workloads == ((replace(again, submissions=2, version=8), ReportState.UNREAD),)
    assert await store.scheduler.take_outcomes(SCHEDULER, 10) == []
    await store.agent.claim(WorkloadState.PREPARING, 1, ME, now=NOW, new_token=lambda: "t")
    await store.phase.record_over(old.workload_id, "t", "failed", at(9))
    (outcome,) = await store.scheduler.take_outcomes(12, 10)
    assert (outcome.airflow_state, outcome.key.try_number) == ("failed", 2)


@pytest.mark.parametrize("state", WorkloadState)
async def test_cancelling_is_asked_once_and_never_of_what_is_over(store: Store, state: WorkloadState) -> None:
    workload = an_over(state) if state in OVER else a_parked(state=state, version=7)
    await store.put(workload)
    ids = [workload.workload_id, workload.workload_id, UNKNOWN]
    asked = [
        await store.agent.ask_cancel(ids, "cleared\x00 by a person"),
        await store.scheduler.ask_cancel(ids, "again", SCHEDULER),
    ]
    if state in OVER:
        assert asked == [0, 0]
        assert store.workload(workload.workload_id) == workload
    else:
        assert asked == [1, 0]
        assert store.workload(workload.workload_id) == replace(
            workload, target=WorkloadTarget.CANCEL, cancel_reason="cleared\ufffd by a person", version=8
        )
    assert await store.agent.ask_cancel([], "none") == 0


async def test_a_scheduler_cancels_what_it_owns_whatever_airflow_says(store: Store) -> None:
    """Its word comes a loop late: meanwhile another scheduler may have taken the same try over."""
    mine, theirs, nobodys = a_parked(), a_parked(scheduler_job_id=12), a_parked(scheduler_job_id=None)
    await store.put(mine, theirs, nobodys)
    store.task_instances.put(mine.workload_id, mine.key, "queued")
    ids = [w.workload_id for w in (mine, theirs, nobodys)]
    assert await store.scheduler.ask_cancel(ids, "purged", SCHEDULER) == 1
    assert store.workload(mine.workload_id).cancel_reason == "purged"
    assert [store.workload(w.workload_id) for w in (theirs, nobodys)] == [theirs, nobodys]


@pytest.mark.parametrize("ti_state", ["scheduled", "queued", "running", "restarting", "failed", None])
async def test_an_agent_does_not_cancel_what_airflow_hands_over_again(store: Store, ti_state: Any) -> None:
    """It learnt before that the try is not wanted; between that and its word the same id was queued again."""
    parked = a_parked()
    await store.put(parked)
    store.task_instances.put(parked.workload_id, parked.key, ti_state)
    again = ti_state in {"scheduled", "queued"}
    assert await store.agent.ask_cancel([parked.workload_id], "not_running") == (0 if again else 1)
    target = WorkloadTarget.RUN if again else WorkloadTarget.CANCEL
    assert store.workload(parked.workload_id).target is target


async def test_adopting_takes_what_is_known_and_not_over(store: Store) -> None:
    parked, ended = a_parked(), an_over()
    await store.put(parked, ended)
    ids = [parked.workload_id, ended.workload_id, UNKNOWN]
    assert await store.scheduler.live(ids) == {parked.workload_id}
    assert await store.scheduler.adopt(ids, 77) == {parked.workload_id}
    assert store.workload(parked.workload_id) == replace(parked, scheduler_job_id=77)
    assert store.workload(ended.workload_id) == ended
    assert await store.scheduler.adopt([], 77) == set()
    assert await store.scheduler.live([]) == set()


async def test_outcomes_are_read_once_by_their_scheduler_the_first_end_first(store: Store) -> None:
    last, first = an_over(finished_at=at(5)), an_over(WorkloadState.CANCELLED, finished_at=at(-5))
    theirs, nobodys = an_over(scheduler_job_id=12), an_over(scheduler_job_id=None)
    await store.put(last, first, theirs, nobodys, a_parked())
    assert await store.scheduler.take_outcomes(SCHEDULER, 1) == [told(first)]
    assert await store.scheduler.take_outcomes(SCHEDULER, 10) == [told(last)]
    assert await store.scheduler.take_outcomes(SCHEDULER, 10) == []
    assert await store.scheduler.take_outcomes(12, 10) == [told(theirs)]
    assert {reported for w, reported in store.rows().workloads if w.state in OVER} == {0, 2}


async def test_a_cancelled_one_is_offered_until_airflow_let_go_of_it(store: Store) -> None:
    workload, fresh = an_over(WorkloadState.CANCELLED), an_over(finished_at=at(9))
    await store.put(workload)
    # Clearing gave the task instance another id.
    store.task_instances.put(UNKNOWN, workload.key, "restarting")
    for _ in range(2):
        assert await store.scheduler.take_outcomes(SCHEDULER, 10) == [told(workload)]
    await store.put(fresh)
    assert await store.scheduler.take_outcomes(SCHEDULER, 10) == [told(fresh), told(workload)]
    store.task_instances.put(UNKNOWN, workload.key, None)
    assert await store.scheduler.take_outcomes(SCHEDULER, 10) == []
    store.task_instances.put(UNKNOWN, workload.key, "restarting")
    assert await store.scheduler.take_outcomes(SCHEDULER, 10) == []


@pytest.mark.parametrize("ti_state", ["success", "running", None])
async def test_a_cancelled_one_that_airflow_does_not_restart_is_offered_once(
    store: Store, ti_state: str | None
) -> None:
    workload = an_over(WorkloadState.CANCELLED)
    await store.put(workload)
    store.task_instances.put(workload.workload_id, workload.key, ti_state)
    assert await store.scheduler.take_outcomes(SCHEDULER, 10) == [told(workload)]
    assert await store.scheduler.take_outcomes(SCHEDULER, 10) == []


async def test_repeated_offers_do_not_starve_new_outcomes(store: Store) -> None:
    repeated = [an_over(WorkloadState.CANCELLED) for _ in range(3)]
    await store.put(*repeated)
    for n, workload in enumerate(repeated):
        store.task_instances.put(str(uuid.UUID(int=2**100 + n)), workload.key, "restarting")
    assert len(await store.scheduler.take_outcomes(SCHEDULER, 3)) == 3
    fresh = an_over(finished_at=at(9))
    await store.put(fresh)
    assert await store.scheduler.take_outcomes(SCHEDULER, 2) == [told(fresh), told(repeated[0])]


@pytest.mark.parametrize("change", [{"try_number": 2}, {"map_index": 4}, {"run_id": "other"}])
async def test_another_try_being_restarted_repeats_nothing(store: Store, change: dict[str, Any]) -> None:
    workload = an_over(WorkloadState.CANCELLED)
    finished = an_over()
    await store.put(workload, finished)
    store.task_instances.put(UNKNOWN, replace(workload.key, **change), "restarting")
    store.task_instances.put(finished.workload_id, finished.key, "restarting")
    assert len(await store.scheduler.take_outcomes(SCHEDULER, 10)) == 2
    assert await store.scheduler.take_outcomes(SCHEDULER, 10) == []


@pytest.mark.parametrize(
    "ti_state", ["scheduled", "queued", "running", "restarting", "up_for_retry", "success", None]
)
async def test_airflow_no_longer_wants_what_is_neither_to_be_queued_nor_running(
    store: Store, ti_state: Any
) -> None:
    parked = a_parked()
    await store.put(parked)
    store.task_instances.put(parked.workload_id, parked.key, "running")
    assert await store.agent.unwanted() == ()
    store.task_instances.put(parked.workload_id, parked.key, ti_state)
    wanted = ti_state in {"scheduled", "queued", "running"}
    assert await store.agent.unwanted() == (() if wanted else ((parked.workload_id, ti_state),))


async def test_a_try_whose_task_instance_is_gone_is_unwanted(store: Store) -> None:
    deleted, cleared = a_parked(), a_parked()
    await store.put(deleted, cleared)
    for workload in (deleted, cleared):
        store.task_instances.put(workload.workload_id, workload.key, "running")
    store.task_instances.remove(deleted.workload_id)
    store.task_instances.remove(UNKNOWN)
    store.task_instances.put(UNKNOWN, replace(cleared.key, try_number=2), "running")
    assert set(await store.agent.unwanted()) == {(deleted.workload_id, None), (cleared.workload_id, None)}


@pytest.mark.parametrize("ti_state", ["scheduled", "queued", "running", "success", None])
async def test_a_try_that_waits_to_be_prepared_again_is_spoken_for_while_airflow_runs_it(
    store: Store, ti_state: str | None
) -> None:
    again, fresh = a_parked(state=WorkloadState.ACCEPTED), a_workload()
    await store.put(again, fresh)
    for workload in (again, fresh):
        store.task_instances.put(workload.workload_id, workload.key, ti_state)
    wanted = ((again.workload_id, ME),) if ti_state == "running" else ()
    assert await store.agent.heartbeat_targets() == wanted


@pytest.mark.parametrize("state", WorkloadState)
async def test_only_what_parked_and_wanted_is_spoken_for(store: Store, state: WorkloadState) -> None:
    one = an_over(state) if state in OVER else a_parked(state=state)
    cancelled = replace(a_parked(), state=state, target=WorkloadTarget.CANCEL)
    nobody = a_parked(state=state, identity=None)
    await store.put(one, cancelled, nobody)
    parked = state in {WorkloadState.READY, WorkloadState.SUBMITTED, WorkloadState.FINISHABLE}
    assert await store.agent.heartbeat_targets() == (((one.workload_id, ME),) if parked else ())
    asked = parked or state is WorkloadState.ACCEPTED
    assert await store.agent.unwanted() == (((one.workload_id, None),) if asked else ())

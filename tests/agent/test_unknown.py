"""What nobody can know at once: lost answers, late and doubled calls, stale reads, clocks that differ."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from emr_executor.aws.step import submission_of_step_name
from emr_executor.core.model import ClusterId, ObservedStep, StepId, SubmissionId
from emr_executor.core.states import ClusterState, RecordPhase, StepState, SubmissionState, WorkloadState
from emr_executor.errors import StaleWriter
from emr_executor.store.schema import CLUSTER
from tests.agent.fakes import SETTINGS, World, ready


def hide(world: World, cluster_id: str) -> None:
    """EMR does not show the cluster for now."""
    key = ClusterId(cluster_id)
    world.hidden[key] = world.emr.clusters.pop(key)


def show(world: World, cluster_id: str) -> None:
    world.emr.clusters[ClusterId(cluster_id)] = world.hidden.pop(ClusterId(cluster_id))


async def test_a_launch_that_shows_up_after_it_was_given_up_is_ended(world: World) -> None:
    world.emr.lose_answers = {"run_job_flow"}
    await world.begin(ready())
    await world.tick()
    hide(world, "j-1")
    world.emr.lose_answers = set()
    await world.tick(times=40)
    assert list(world.emr.clusters) == ["j-1"], "given up after launch_unknown, another is launched"
    late = world.hidden.popitem()[1]
    world.emr.clusters[ClusterId("j-late")] = replace(late, cluster_id=ClusterId("j-late"))
    await world.tick(times=10)
    assert world.emr.clusters[ClusterId("j-late")].state is ClusterState.TERMINATED
    assert world.emr.clusters[ClusterId("j-1")].state is ClusterState.STARTING


async def test_a_late_launch_is_found_although_nothing_of_ours_lives(world: World) -> None:
    world.emr.lose_answers = {"run_job_flow"}
    await world.begin(ready())
    await world.tick()
    hide(world, "j-1")
    await world.store.ask_cancel([ready().workload_id], "cleared")
    await world.tick(times=40)
    show(world, "j-1")
    await world.tick(seconds=100, times=5)
    assert world.emr.clusters[ClusterId("j-1")].state is ClusterState.TERMINATED


async def test_a_cluster_without_a_row_is_told_once_and_never_ended(world: World) -> None:
    await world.begin(ready())
    await world.tick()
    stray = replace(
        world.emr.clusters[ClusterId("j-1")], cluster_id=ClusterId("j-x"), name="airflow-emr/dep/default/lost"
    )
    world.emr.clusters[stray.cluster_id] = stray
    await world.tick(times=10)
    assert world.emr.clusters[stray.cluster_id] == stray
    assert [event for event in world.events() if event == "without_a_row"] == ["without_a_row"]


async def test_a_doubled_launch_leaves_one_cluster(world: World) -> None:
    await world.placed("w1")
    twin = replace(world.emr.clusters[ClusterId("j-1")], cluster_id=ClusterId("j-twin"))
    world.emr.clusters[twin.cluster_id] = twin
    await world.tick()
    assert world.emr.clusters[twin.cluster_id].state is ClusterState.TERMINATED
    assert world.emr.clusters[ClusterId("j-1")].state is ClusterState.STARTING


@pytest.mark.parametrize("winner", ["s-1", "s-twin"])
@pytest.mark.parametrize("end", [StepState.COMPLETED, StepState.CANCELLED])
async def test_of_a_doubled_step_the_one_that_does_the_work_counts(
    world: World, winner: str, end: StepState
) -> None:
    await world.placed("w1")
    world.emr.set_cluster("j-1", ClusterState.RUNNING)
    (own,) = world.emr.steps[ClusterId("j-1")]
    world.emr.steps[ClusterId("j-1")].insert(0, replace(own, step_id=StepId("s-twin")))
    # Both were started; one found the submission claimed.
    loser = StepId("s-1" if winner == "s-twin" else "s-twin")
    world.emr.set_step(loser, StepState.FAILED)
    world.emr.set_step(StepId(winner), StepState.RUNNING)
    await world.tick(seconds=40, times=20)
    (submission,) = world.submissions("w1")
    assert submission.is_live
    assert (submission.step_id, submission.step_state) == (winner, StepState.RUNNING)
    assert world.emr.calls.count("cancel_steps") == 0
    world.emr.set_step(StepId(winner), end)
    await world.tick(seconds=40, times=20)
    ended = SubmissionState.COMPLETED if end is StepState.COMPLETED else SubmissionState.CANCELLED
    assert [one.state for one in world.submissions("w1")] == [ended]


async def test_a_step_that_completed_before_its_cluster_was_lost_does_not_run_again(
    world: World,
) -> None:
    await world.placed("w1")
    world.emr.set_cluster("j-1", ClusterState.RUNNING)
    await world.tick(times=2)
    world.emr.set_cluster("j-1", ClusterState.TERMINATED_WITH_ERRORS, "INSTANCE_FAILURE")
    await world.tick(times=5)
    assert world.submissions("w1")[0].is_live, "nothing is said before the last look"
    world.emr.set_step(StepId("s-1"), StepState.COMPLETED)
    await world.tick(times=20)
    assert world.submissions("w1")[0].state is SubmissionState.COMPLETED
    assert world.workload("w1").state is WorkloadState.FINISHABLE
    assert world.emr.submissions() == ["w1-1"]


async def test_a_known_cluster_that_a_stale_read_does_not_show_is_not_given_up(world: World) -> None:
    await world.placed("w1")
    hide(world, "j-1")
    await world.tick(times=200)
    assert world.submissions("w1")[0].is_live
    show(world, "j-1")
    world.emr.set_cluster("j-1", ClusterState.RUNNING)
    await world.tick(times=2)
    assert len(world.emr.requests) == 1


async def test_a_cluster_that_emr_forgot_for_good_is_over(world: World) -> None:
    await world.placed("w1")
    hide(world, "j-1")
    del world.emr.steps[ClusterId("j-1")]
    await world.tick(seconds=20, times=40)
    assert world.submissions("w1")[0].state is SubmissionState.LOST
    assert world.emr.submissions() == ["w1-2"]


async def test_many_clusters_that_are_lost_at_once_are_found_with_one_token_at_a_time(
    engine: Engine, tmp_path: Path
) -> None:
    """ListClusters tells that they live no more, and in another call that they are over."""
    pool = SETTINGS.cluster_pools[0].model_copy(update={"max_clusters": 8})
    world = World(engine, tmp_path, settings=SETTINGS.model_copy(update={"cluster_pools": (pool,)}))
    await world.begin(*(ready(f"w{n}") for n in range(16)))
    await world.tick(times=4)
    lost = list(world.emr.clusters)
    assert len(lost) == 8
    for cluster_id in lost:
        world.emr.set_cluster(cluster_id, ClusterState.TERMINATED_WITH_ERRORS, "INSTANCE_FAILURE")
    for _ in range(4):
        world.emr.lists_left = 1
        await world.tick()
    with engine.connect() as connection:
        states = set(connection.scalars(select(CLUSTER.c.state).where(CLUSTER.c.cluster_id.in_(lost))))
    assert states == {ClusterState.TERMINATED_WITH_ERRORS}


async def test_a_cluster_in_a_state_that_is_new_to_us_hides_no_other(world: World) -> None:
    slots = [ready(f"w{i}") for i in range(1, 6)]
    await world.begin(*slots)
    await world.tick(times=2)
    assert list(world.emr.clusters) == ["j-1", "j-2"]
    world.emr.set_cluster("j-1", None)
    world.emr.set_cluster("j-2", ClusterState.TERMINATED_WITH_ERRORS, "INSTANCE_FAILURE")
    await world.tick(times=100)
    states = {s.submission_id: s.state for one in slots for s in world.submissions(one.workload_id)}
    assert SubmissionState.LOST in states.values(), "those of the other cluster are heard of"
    on_it = {submission_of_step_name(step.name) for step in world.emr.steps[ClusterId("j-1")]}
    assert {states[one] for one in on_it if one} == {SubmissionState.PENDING}


async def test_a_step_in_a_state_that_is_new_to_us_is_not_added_again(world: World) -> None:
    world.emr.lose_answers = {"add_steps"}
    await world.placed("w1")
    world.emr.set_step(StepId("s-1"), None)
    await world.tick(times=100)
    assert world.emr.submissions() == ["w1-1"]
    assert world.submissions("w1")[0].step_id == "s-1"


@pytest.mark.parametrize("skew", [timedelta(hours=-2), timedelta(hours=2)])
async def test_a_successor_whose_clock_differs_adds_the_same_submission(
    world: World, skew: timedelta
) -> None:
    world.emr.lose_answers = {"add_steps"}
    await world.placed("w1")
    added: list[ObservedStep] = world.emr.steps[ClusterId("j-1")]
    world.emr.steps[ClusterId("j-1")] = []
    world.clock.skew = skew
    await world.restart()
    await world.tick(times=1)
    assert world.submissions("w1")[0].state is SubmissionState.INTENDED
    await world.tick(times=10)
    world.emr.steps[ClusterId("j-1")] += added
    await world.tick(times=5)
    assert world.submissions("w1")[0].step_id is not None
    assert world.emr.submissions() == ["w1-1", "w1-1"], "it is added again under its own name alone"


@pytest.mark.parametrize("step_state", [StepState.PENDING, None])
async def test_a_cluster_that_starts_none_of_its_steps_is_replaced(
    world: World, step_state: StepState | None
) -> None:
    """Also when EMR has a new word for waiting."""
    world.records.unclaimed.add(SubmissionId("w1-1"))
    await world.placed("w1")
    world.emr.set_cluster("j-1", ClusterState.WAITING)
    world.emr.set_step(StepId("s-1"), step_state)
    await world.tick(seconds=20, times=14)
    assert world.emr.submissions() == ["w1-1"], "it may start them yet"
    await world.tick(seconds=20, times=6)
    first, second = world.submissions("w1")
    assert (first.state, second.cluster_uuid) == (SubmissionState.CANCELLED, "uuid-2")
    assert world.emr.clusters[ClusterId("j-1")].state is ClusterState.TERMINATED
    assert world.workload("w1").losses == 0


async def test_a_step_in_a_new_state_that_its_wrapper_says_runs_does_not_stall_its_cluster(
    world: World,
) -> None:
    await world.placed("w1")
    world.emr.set_cluster("j-1", ClusterState.WAITING)
    world.emr.set_step(StepId("s-1"), None)
    world.records.write(world.last("w1"), RecordPhase.RUNNING)
    await world.tick(seconds=20, times=20)
    assert world.last("w1").state is SubmissionState.RUNNING
    assert world.emr.calls.count("run_job_flow") == 1


async def test_a_cluster_that_never_came_up_gives_its_steps_back_at_once(world: World) -> None:
    await world.placed("w1")
    world.emr.set_cluster("j-1", ClusterState.TERMINATED_WITH_ERRORS, "BOOTSTRAP_FAILURE")
    await world.tick(times=2)
    assert world.submissions("w1")[0].state is SubmissionState.LOST


async def test_an_act_that_was_held_up_for_too_long_is_not_begun(world: World) -> None:
    await world.begin(ready())
    await world.tick()
    world.runner.delay_s = 11.0
    await world.tick()
    assert (world.emr.calls.count("add_steps"), world.emr.submissions()) == (1, [])
    assert world.workload("w1").state is WorkloadState.READY
    world.runner.delay_s = 0.0
    await world.tick()
    assert world.emr.submissions() == ["w1-2"]


async def test_a_last_poll_at_a_cluster_that_was_not_saved_is_taken_again(world: World) -> None:
    await world.running("w1")
    world.emr.set_cluster("j-1", ClusterState.TERMINATED_WITH_ERRORS, "INSTANCE_FAILURE")
    world.show("w1", StepState.COMPLETED)
    await world.tick(times=2)
    assert world.last("w1").is_live
    world.clock.passed_s += 60
    with pytest.raises(StaleWriter):
        await world.steering.tick(world.token + 1)
    await world.tick(times=3)
    assert world.last("w1").state is SubmissionState.COMPLETED
    assert world.emr.submissions() == ["w1-1"]


async def test_a_step_that_completed_and_that_no_page_shows_is_not_lost_with_its_cluster(
    world: World,
) -> None:
    await world.running("w1")
    world.emr.visible_steps = 0
    world.show("w1", StepState.COMPLETED)
    world.emr.set_cluster("j-1", ClusterState.TERMINATED_WITH_ERRORS, "INSTANCE_FAILURE")
    await world.tick(seconds=10, times=12)
    assert world.last("w1").state is SubmissionState.COMPLETED
    assert world.emr.submissions() == ["w1-1"]

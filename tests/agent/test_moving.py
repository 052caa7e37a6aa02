"""A step behind others moves to a slot that is free elsewhere; what began meanwhile is never run twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from emr_executor.core.fact_ages import STALE_READ_S
from emr_executor.core.model import ClusterId, StepId, SubmissionId
from emr_executor.core.states import ClusterState, RecordPhase, StepState, SubmissionState, WorkloadState
from tests.agent.fakes import World, ready
from tests.builders import NOW, ago


@pytest.fixture
async def world(world: World) -> World:
    """Two clusters with two slots each, full, and w5 behind the steps of j-1."""
    names = [f"w{i}" for i in range(1, 6)]
    await world.begin(*(ready(name, accepted_at=ago(60 - i)) for i, name in enumerate(names)))
    await world.tick(times=2)
    for cluster_id in ("j-1", "j-2"):
        world.emr.set_cluster(cluster_id, ClusterState.RUNNING)
    await world.tick(times=2)
    for name in names[:4]:
        begin(world, name)
    await world.tick(seconds=10, times=3)
    assert [world.last(name).state for name in names] == ["RUNNING"] * 4 + ["PENDING"]
    return world


def begin(world: World, name: str) -> None:
    world.show(name, StepState.RUNNING)
    world.records.write(world.last(name), RecordPhase.RUNNING)


def end(world: World, name: str) -> None:
    world.show(name, StepState.COMPLETED)
    world.end(name)


def free_the_other(world: World) -> str:
    """The cluster on which w5 waits; the other one's steps end."""
    where = world.last("w5").cluster_uuid
    for name in ("w1", "w2", "w3", "w4"):
        if world.last(name).cluster_uuid != where:
            end(world, name)
    return where


def show_twin(world: World) -> None:
    """EMR shows the other step that a doubled call made of w5, and it runs."""
    steps = world.emr.steps[ClusterId("j-1")]
    own = next(one for one in steps if "w5-1" in one.name)
    steps.insert(0, replace(own, step_id=StepId("s-twin"), state=StepState.RUNNING, started_at=NOW))


async def test_a_step_behind_others_runs_where_a_slot_is_free(world: World) -> None:
    world.records.unclaimed.add(SubmissionId("w5-1"))
    where = free_the_other(world)
    await world.tick(times=4)
    first, second = world.submissions("w5")
    assert (first.state, first.started_at) == (SubmissionState.CANCELLED, None)
    assert (second.state, second.cluster_uuid != where) == (SubmissionState.PENDING, True)
    assert world.emr.calls.count("cancel_steps") == 1
    assert world.workload("w5").losses == 0
    log = world.log("w5.log")
    assert f"moving step {first.step_id} from j-1: a slot is free on j-2" in log
    assert f"step {first.step_id} on j-1 was cancelled before it began (a slot is free on j-2)" in log
    begin(world, "w5")
    await world.tick(seconds=30, times=10)
    assert world.emr.calls.count("cancel_steps") == 1, "it does not go back"


async def test_a_step_that_has_begun_since_the_last_look_is_not_cancelled(world: World) -> None:
    """Its wrapper is silent; EMR is asked before it is taken back."""
    free_the_other(world)
    world.show("w5", StepState.RUNNING)
    await world.tick(times=6)
    assert "cancel_steps" not in world.emr.calls
    assert world.last("w5").state is SubmissionState.RUNNING


async def test_a_step_that_begins_as_it_is_cancelled_runs_on_when_emr_lets_it(world: World) -> None:
    async def too_late(cluster_id: ClusterId, step_ids: Sequence[StepId]) -> None:
        world.emr.calls.append("cancel_steps")
        begin(world, "w5")

    world.emr.cancel_steps = too_late  # type: ignore[method-assign]
    free_the_other(world)
    await world.tick(times=60)
    (only,) = world.submissions("w5")
    assert (only.state, only.cancel_asked_at) == (SubmissionState.RUNNING, None)
    assert world.emr.calls.count("cancel_steps") == 1
    assert world.log("w5.log").count("had begun before it was cancelled: it runs on") == 1
    end(world, "w5")
    await world.tick(times=2)
    assert (world.workload("w5").state, len(world.submissions("w5"))) == (WorkloadState.FINISHABLE, 1)


async def test_a_step_that_was_hit_as_it_began_starts_again_and_costs_no_submission(world: World) -> None:
    async def hits(cluster_id: ClusterId, step_ids: Sequence[StepId]) -> None:
        world.emr.calls.append("cancel_steps")
        for steps in world.emr.steps.values():
            steps[:] = [
                replace(one, state=StepState.CANCELLED, started_at=NOW) if one.step_id in step_ids else one
                for one in steps
            ]
        world.end("w5", exit_code=143, reason="terminated")

    world.emr.cancel_steps = hits  # type: ignore[method-assign]
    free_the_other(world)
    await world.tick(times=6)
    first, second = world.submissions("w5")
    assert (first.state, second.state) == (SubmissionState.CANCELLED, SubmissionState.PENDING)
    assert world.workload("w5").losses == 0
    text = "had begun when it was cancelled (a slot is free on j-2); it starts again at no cost"
    assert text in world.log("w5.log")


@pytest.mark.parametrize("begins", [False, True])
async def test_a_cancel_that_was_never_made_is_made_again_unless_the_step_began(
    world: World, begins: bool
) -> None:
    free_the_other(world)
    world.clock.passed_s += 2
    await world.tick_and_die()
    assert world.last("w5").cancel_asked_at is not None
    if begins:
        begin(world, "w5")
    await world.restart()
    await world.tick(seconds=10, times=20)
    first = world.submissions("w5")[0]
    if begins:
        assert (first.state, first.cancel_asked_at) == (SubmissionState.RUNNING, None)
        assert "cancel_steps" not in world.emr.calls
    else:
        assert (first.state, len(world.submissions("w5"))) == (SubmissionState.CANCELLED, 2)


async def test_pending_steps_of_a_lost_cluster_do_not_wait_for_its_end(world: World) -> None:
    """EMR shows them over before the cluster is: nothing of them ever ran."""
    where = world.last("w5").cluster_uuid
    world.records.unclaimed.add(SubmissionId("w5-1"))
    cluster_id = "j-1" if where == "uuid-1" else "j-2"
    launches = world.emr.calls.count("run_job_flow")
    world.emr.set_cluster(cluster_id, ClusterState.TERMINATING, "INSTANCE_FAILURE")
    world.show("w5", StepState.CANCELLED)
    await world.tick(times=1)
    assert world.emr.calls.count("run_job_flow") == launches + 1, "its replacement starts while it dies"
    await world.tick(times=4)
    first, second = world.submissions("w5")
    assert (first.state, second.cluster_uuid) == (SubmissionState.LOST, "uuid-3")
    assert world.workload("w5").losses == 0
    on_it = [name for name in ("w1", "w2", "w3", "w4") if world.last(name).cluster_uuid == where]
    assert [world.last(name).is_live for name in on_it] == [True] * 2, "those that ran wait for its end"


async def test_a_step_that_was_taken_back_waits_for_the_other_one_of_a_doubled_call(world: World) -> None:
    """EMR has w5 twice: the one that we know is cancelled, and the other does the work."""
    free_the_other(world)
    await world.tick()
    assert world.emr.calls.count("cancel_steps") == 1
    await world.tick()
    assert world.last("w5").is_live, "its claim is held"
    show_twin(world)
    await world.tick(times=3)
    (only,) = world.submissions("w5")
    assert (only.step_id, only.state) == ("s-twin", SubmissionState.RUNNING)
    end(world, "w5")
    await world.tick(times=2)
    assert (world.workload("w5").state, len(world.submissions("w5"))) == (WorkloadState.FINISHABLE, 1)


async def test_a_cleared_step_may_have_another_of_a_doubled_call_until_its_claim_is_taken(
    world: World,
) -> None:
    """S3 is away when EMR shows w5 cancelled: its try is over, and the next may begin, only after that."""
    world.records.unclaimed.add(SubmissionId("w5-1"))
    world.records.claims_away = True
    await world.store.ask_cancel([world.workload("w5").workload_id], "cleared")
    await world.tick(times=4)
    assert world.last("w5").step_state is StepState.CANCELLED
    assert world.last("w5").is_live
    world.records.claims_away = False
    await world.tick()
    assert world.last("w5").state is SubmissionState.CANCELLED
    assert world.workload("w5").state is WorkloadState.CANCELLED


async def test_a_cleared_step_whose_other_one_began_is_over_when_that_is(world: World) -> None:
    await world.store.ask_cancel([world.workload("w5").workload_id], "cleared")
    await world.tick(times=4)
    assert world.last("w5").step_state is StepState.CANCELLED
    assert world.last("w5").is_live, "EMR's reads may not show the other one yet"
    show_twin(world)
    await world.tick(seconds=STALE_READ_S, times=2)
    assert (world.last("w5").step_id, world.last("w5").is_live) == ("s-twin", True)
    world.emr.set_step(StepId("s-twin"), StepState.CANCELLED)
    await world.tick(seconds=STALE_READ_S, times=3)
    assert world.last("w5").state is SubmissionState.CANCELLED
    assert world.workload("w5").state is WorkloadState.CANCELLED

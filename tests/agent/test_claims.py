"""Of the steps of a doubled call the one that holds the claim tells how it goes, whatever EMR lists."""

from __future__ import annotations

from dataclasses import replace

import pytest

from emr_executor.agent.claims import UNSEEN_S3_HOLD_S
from emr_executor.core.model import ClusterId, StepId, SubmissionId
from emr_executor.core.states import ClusterState, RecordPhase, StepState, SubmissionState
from tests.agent.fakes import World, ready
from tests.builders import NOW

J1, FIRST, TWIN = ClusterId("j-1"), StepId("s-1"), StepId("s-TWIN")


@pytest.fixture
async def world(world: World) -> World:
    """The step that is known runs; EMR has its twin, which holds the claim, and lists neither any more."""
    await world.running("w1")
    (first,) = world.emr.steps[J1]
    world.emr.steps[J1].append(replace(first, step_id=TWIN, started_at=NOW))
    world.records.claims[SubmissionId("w1-1")] = TWIN
    world.emr.visible_steps = 0
    return world


@pytest.mark.parametrize("told", ["by EMR alone", "by a record that says it runs"])
@pytest.mark.parametrize("cluster", [ClusterState.RUNNING, ClusterState.TERMINATED])
async def test_the_twin_that_completed_is_found_by_its_claim(
    world: World, cluster: ClusterState, told: str
) -> None:
    if told != "by EMR alone":
        world.records.write(world.submissions("w1")[0], RecordPhase.RUNNING)
    world.emr.set_step(FIRST, StepState.FAILED)
    world.emr.set_step(TWIN, StepState.COMPLETED)
    world.emr.set_cluster(J1, cluster, "USER_REQUEST")
    await world.tick(seconds=10, times=20)
    (only,) = world.submissions("w1")
    assert (only.state, only.step_id, only.cause) == (SubmissionState.COMPLETED, TWIN, "")


async def test_while_the_twin_runs_the_step_runs(world: World) -> None:
    world.emr.set_step(FIRST, StepState.FAILED)
    await world.tick(seconds=10, times=60)
    (only,) = world.submissions("w1")
    assert (only.state, only.step_id, only.step_state) == (SubmissionState.RUNNING, TWIN, StepState.RUNNING)
    world.emr.set_step(TWIN, StepState.FAILED)
    await world.tick(seconds=10, times=20)
    assert [one.state for one in world.submissions("w1")] == [SubmissionState.FAILED]


async def test_a_claim_that_cannot_be_read_holds_the_end_for_a_while(world: World) -> None:
    world.records.claims_away = True
    world.emr.set_cluster(J1, ClusterState.TERMINATED, "USER_REQUEST")
    await world.tick(seconds=10, times=60)
    assert world.submissions("w1")[0].is_live
    await world.tick(seconds=10, times=int(UNSEEN_S3_HOLD_S / 10))
    assert world.submissions("w1")[0].state is SubmissionState.LOST


async def test_an_id_that_emr_refuses_keeps_no_other_from_being_asked_for(world: World) -> None:
    """As one that a job under the cluster's instance profile forged."""
    world.emr.set_step(FIRST, StepState.FAILED)
    world.records.claims[SubmissionId("w1-1")] = StepId("s-FORGED")
    world.emr.refused_ids.add(StepId("s-FORGED"))
    await world.begin(ready("w2"))
    await world.tick(seconds=10, times=20)
    world.show("w2", StepState.COMPLETED)
    await world.tick(seconds=10, times=20)
    assert world.submissions("w2")[0].state is SubmissionState.COMPLETED
    world.emr.set_cluster(J1, ClusterState.TERMINATED, "USER_REQUEST")
    await world.tick(seconds=10, times=20)
    assert world.submissions("w1")[0].state is SubmissionState.LOST

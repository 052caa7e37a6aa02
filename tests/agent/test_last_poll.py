"""The last poll at a cluster that is over counts for the tick that takes it, and for no other."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from emr_executor.core.model import StepId
from emr_executor.core.states import ClusterState, StepState, SubmissionState
from emr_executor.errors import StaleWriter
from tests.agent.fakes import World
from tests.builders import NOW, make_workload


async def test_a_last_poll_that_was_not_saved_is_taken_again(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = World(engine, tmp_path_factory.mktemp("logs"))
    await world.begin(make_workload("w1", accepted_at=NOW, ready_at=NOW))
    await world.tick(times=2)
    world.emr.set_cluster("j-1", ClusterState.RUNNING)
    world.emr.set_step(StepId("s-1"), StepState.RUNNING)
    await world.tick(times=5)
    world.emr.set_cluster("j-1", ClusterState.TERMINATED_WITH_ERRORS, "INSTANCE_FAILURE")
    world.emr.set_step(StepId("s-1"), StepState.COMPLETED)
    await world.tick(times=2)
    assert world.submissions("w1")[0].is_live
    world.clock.passed_s += 60
    with pytest.raises(StaleWriter):
        await world.steering.tick(world.token + 1)
    await world.tick(times=3)
    assert world.submissions("w1")[0].state is SubmissionState.COMPLETED
    assert world.emr.submissions() == ["w1-1"]


async def test_a_step_that_completed_and_that_no_page_shows_is_not_lost_with_its_cluster(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = World(engine, tmp_path_factory.mktemp("logs"))
    await world.begin(make_workload("w1", accepted_at=NOW, ready_at=NOW))
    await world.tick(times=2)
    world.emr.set_cluster("j-1", ClusterState.RUNNING)
    world.emr.set_step(StepId("s-1"), StepState.RUNNING)
    await world.tick(times=5)
    world.emr.visible_steps = 0
    world.emr.set_step(StepId("s-1"), StepState.COMPLETED)
    world.emr.set_cluster("j-1", ClusterState.TERMINATED_WITH_ERRORS, "INSTANCE_FAILURE")
    await world.tick(seconds=10, times=12)
    assert world.submissions("w1")[0].state is SubmissionState.COMPLETED
    assert world.emr.submissions() == ["w1-1"]

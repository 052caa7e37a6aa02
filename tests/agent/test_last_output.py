"""The output of a step is read to its end before the step is settled, and what cannot be read is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Engine, update

from emr_executor.agent.record_poll import REST_OF_OUTPUT_S
from emr_executor.core.model import StepId, StepPlan, Submission
from emr_executor.core.states import ClusterState, RecordPhase, StepState, SubmissionState
from emr_executor.errors import AwsUnavailable
from emr_executor.store.rows import json_of
from emr_executor.store.schema import WORKLOAD
from tests.agent.fakes import World
from tests.builders import NOW, OLD_WRAPPER, make_workload


@pytest.fixture
async def world(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> World:
    """One step runs, and its wrapper told of one chunk."""
    world = World(engine, tmp_path_factory.mktemp("logs"))
    await world.begin(make_workload("w1", accepted_at=NOW, ready_at=NOW, log_path="w1.log"))
    await world.tick(times=2)
    world.emr.set_cluster("j-1", ClusterState.RUNNING)
    world.emr.set_step(StepId("s-1"), StepState.RUNNING)
    own = submission(world)
    world.records.chunks[own.submission_id, 1] = b"one\n"
    world.records.write(own, RecordPhase.RUNNING, chunks=1)
    await world.tick(times=3)
    return world


def submission(world: World) -> Submission:
    (own,) = world.submissions("w1")
    return own


def log_of(world: World) -> str:
    return (world.log_folder / "w1.log").read_text()


async def ends_between_records_and_steps(world: World, *, is_told: bool) -> None:
    """ListSteps shows the end of a step whose last record was not listed in the same look."""
    own = submission(world)
    listed = world.records.changed
    world.emr.set_step(own.step_id or StepId(""), StepState.COMPLETED)

    async def before_the_end(known: object) -> tuple[()]:
        world.records.chunks[own.submission_id, 2] = b"two\n"
        if is_told:
            world.records.write(own, RecordPhase.ENDED, exit_code=0, chunks=2)
        world.records.changed = listed  # type: ignore[method-assign]
        return ()

    world.records.changed = before_the_end  # type: ignore[method-assign,assignment]
    await world.tick(seconds=1)


@pytest.mark.parametrize("is_told", [True, False], ids=["last record", "silent wrapper"])
async def test_a_completed_step_is_settled_when_its_output_was_read(world: World, *, is_told: bool) -> None:
    await ends_between_records_and_steps(world, is_told=is_told)
    assert submission(world).is_live
    await world.tick(seconds=0)
    assert submission(world).state is SubmissionState.COMPLETED
    assert log_of(world).count('"two"') == 1
    assert world.records.consumed == [submission(world).submission_id]


@pytest.mark.parametrize("is_told", [True, False], ids=["last record", "silent wrapper"])
async def test_output_that_stays_unreadable_is_told_and_holds_nothing_for_ever(
    world: World, *, is_told: bool
) -> None:
    own = submission(world)
    world.records.unreadable.add((own.submission_id, 2))
    await ends_between_records_and_steps(world, is_told=is_told)
    await world.tick(seconds=1, times=int(REST_OF_OUTPUT_S) - 5)
    assert submission(world).is_live
    await world.tick(seconds=1, times=10)
    assert submission(world).state is SubmissionState.COMPLETED
    where = f"s3://bucket/emr/dep/output/{own.cluster_uuid}/{own.submission_id}/"
    assert log_of(world).count(f"4 bytes of the driver's output could not be read; they are in {where}") == 1


async def test_the_place_of_unread_output_of_an_old_release_is_told(world: World) -> None:
    step = replace(world.workload("w1").step or StepPlan(command=()), wrapper_uri=OLD_WRAPPER)
    with world.engine.begin() as connection:
        connection.execute(
            update(WORKLOAD).values(step=json_of("step", step), version=WORKLOAD.c.version + 1)
        )
    own = submission(world)
    world.records.unreadable.add((own.submission_id, 2))
    await ends_between_records_and_steps(world, is_told=True)
    await world.tick(seconds=1, times=int(REST_OF_OUTPUT_S) + 5)
    assert f"they are in s3://bucket/emr/dep/output/{own.submission_id}/" in log_of(world)


async def test_an_s3_that_cannot_be_listed_holds_nothing_for_ever(world: World) -> None:
    world.emr.set_step(StepId("s-1"), StepState.COMPLETED)

    async def away(known: object) -> tuple[()]:
        raise AwsUnavailable("ListBucket: SlowDown")

    world.records.changed = away  # type: ignore[method-assign,assignment]
    await world.tick(seconds=1, times=int(REST_OF_OUTPUT_S) - 5)
    assert submission(world).is_live
    await world.tick(seconds=1, times=10)
    assert submission(world).state is SubmissionState.COMPLETED

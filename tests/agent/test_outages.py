"""EMR and S3 away for minutes: nothing is begun in vain, nothing declared over, and all goes on by itself."""

from __future__ import annotations

import pytest

from emr_executor.agent.launch_backoff import FIRST_HOLD_S
from emr_executor.core.states import ClusterState, StepState, SubmissionState, Verdict, WorkloadState
from emr_executor.errors import AwsUnavailable
from emr_executor.store import scheduler_store
from tests.agent.fake_records import FakeRecords
from tests.agent.fakes import World, ready

OPERATIONS = ("run_job_flow", "add_steps", "list_steps", "list_clusters", "describe_cluster", "cancel_steps")
MINUTES = 150
"""Ticks of two seconds."""


def emr_goes(world: World) -> None:
    world.emr.refuse = {operation: AwsUnavailable("no answer from EMR") for operation in OPERATIONS}
    world.emr.calls.clear()


def emr_returns(world: World) -> None:
    world.emr.refuse = {}


async def test_with_no_cluster_launches_are_tried_now_and_then_and_soon_when_emr_is_back(
    world: World,
) -> None:
    await world.begin(ready())
    emr_goes(world)
    await world.tick(times=MINUTES)
    assert 5 <= world.emr.calls.count("run_job_flow") <= 2 * MINUTES / FIRST_HOLD_S
    emr_returns(world)
    await world.tick(times=12)
    assert len(world.emr.clusters) == 1
    assert world.workload("w1").state is WorkloadState.SUBMITTED


async def test_no_step_is_placed_in_vain_while_emr_is_away(world: World) -> None:
    await world.running("w1")
    emr_goes(world)
    await world.tick()
    with world.engine.begin() as connection:
        scheduler_store.accept(connection, [ready("w2")])
    await world.tick(times=MINUTES)
    assert "add_steps" not in world.emr.calls
    assert world.submissions("w2") == ()
    assert "waiting: Amazon EMR is away" in world.log("w2.log")
    emr_returns(world)
    await world.tick(times=3)
    (submission,) = world.submissions("w2")
    assert submission.state is SubmissionState.PENDING


async def test_an_emr_that_is_away_ends_no_cluster_and_no_step(world: World) -> None:
    await world.running("w1")
    emr_goes(world)
    await world.tick(times=MINUTES)
    assert world.submissions("w1")[0].state is SubmissionState.RUNNING
    emr_returns(world)
    world.end("w1")
    await world.tick(times=2)
    assert world.workload("w1").state is WorkloadState.FINISHABLE
    assert len(world.emr.submissions()) == 1


async def test_a_loss_is_told_from_a_failure_though_emr_was_away_in_between(world: World) -> None:
    await world.running("w1")
    world.show("w1", StepState.FAILED)
    await world.tick(times=2)
    emr_goes(world)
    world.emr.set_cluster("j-1", ClusterState.TERMINATED_WITH_ERRORS, "INSTANCE_FAILURE")
    await world.tick(times=MINUTES)
    assert world.workload("w1").outcome is None
    emr_returns(world)
    await world.tick(times=20)
    lost, _again = world.submissions("w1")
    assert lost.state is SubmissionState.LOST


async def away(*_: object) -> None:
    raise AwsUnavailable("no answer from S3")


async def test_a_final_record_in_s3_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.running("w1")
    monkeypatch.setattr(FakeRecords, "changed", away)
    world.end("w1", exit_code=7, tail="ValueError: no such column\n")
    world.show("w1", StepState.FAILED)
    await world.tick(times=60)
    assert world.workload("w1").outcome is None
    monkeypatch.undo()
    await world.tick(times=2)
    outcome = world.workload("w1").outcome
    assert outcome is not None
    assert (outcome.verdict, outcome.cause) == (Verdict.FAILED, "ValueError: no such column")


async def test_a_step_that_ended_well_waits_a_minute_for_s3_and_no_longer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.running("w1")
    monkeypatch.setattr(FakeRecords, "changed", away)
    world.show("w1", StepState.COMPLETED)
    await world.tick(times=25)
    assert world.workload("w1").state is WorkloadState.SUBMITTED, "its output may still be read"
    await world.tick(times=10)
    assert world.workload("w1").state is WorkloadState.FINISHABLE

"""A step that failed before its command began is not the task's failure: it runs again elsewhere, bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emr_executor.aws.layout import _CLAIMS_NOTHING
from emr_executor.core.model import ClusterId, StepPlan, SubmissionId
from emr_executor.core.states import ClusterState, StepState, SubmissionState, WorkloadState
from tests.agent.fakes import World, ready
from tests.builders import NOW


async def pending(world: World, **step: Any) -> None:
    """Its step is on a cluster that is up."""
    workload = ready()
    plan = workload.step or StepPlan(command=("x",))
    await world.begin(replace(workload, step=replace(plan, **step)))
    await world.tick(times=2)
    world.emr.set_cluster("j-1", ClusterState.RUNNING)
    await world.tick(times=2)


def fail(world: World, step: str) -> None:
    """EMR shows it as begun and failed."""
    steps = world.emr.steps[ClusterId("j-1")]
    steps[:] = [
        replace(one, state=StepState.FAILED, started_at=NOW) if one.step_id == step else one for one in steps
    ]


async def test_no_claim_and_no_record_run_again_at_the_next_look(world: World) -> None:
    await pending(world)
    fail(world, "s-1")
    world.records.unclaimed.add(SubmissionId("w1-1"))
    await world.tick(seconds=30, times=4)
    assert world.submissions("w1")[0].state is SubmissionState.LOST
    assert len(world.submissions("w1")) == 2
    assert world.workload("w1").losses == 1


async def test_what_never_began_has_not_reached_its_timeout(world: World) -> None:
    """EMR shows its end only when the agent has cancelled it, since it seemed to run for too long."""
    await pending(world, execution_timeout_s=60.0)
    world.show("w1", StepState.RUNNING)
    world.records.unclaimed.add(SubmissionId("w1-1"))
    for _ in range(20):
        await world.tick(seconds=10)
        if world.submissions("w1")[0].timed_out:
            break
    assert world.submissions("w1")[0].timed_out
    fail(world, "s-1")
    await world.tick(seconds=30, times=4)
    assert world.submissions("w1")[0].state is SubmissionState.LOST
    assert len(world.submissions("w1")) == 2


OLDER = {"wrapper_uri": f"s3://b/wrapper/2026-01-03/{_CLAIMS_NOTHING}/w.py"}


@pytest.mark.parametrize(
    ("step", "unclaimed"),
    [
        pytest.param({}, set(), id="a claim without a record"),
        pytest.param(OLDER, {SubmissionId("w1-1")}, id="an older wrapper, which claims nothing"),
    ],
)
async def test_a_step_that_may_have_begun_is_the_tasks_failure_after_the_hold(
    world: World, step: dict[str, Any], unclaimed: set[SubmissionId]
) -> None:
    await pending(world, **step)
    fail(world, "s-1")
    world.records.unclaimed |= unclaimed
    await world.tick(seconds=60, times=6)
    assert [one.state for one in world.submissions("w1")] == [SubmissionState.FAILED]


async def test_a_wrapper_that_tells_so_is_believed_at_once(world: World) -> None:
    await pending(world)
    world.end("w1", exit_code=125, reason="not_begun", tail="S3: HTTP 503")
    await world.tick(times=3)
    assert world.submissions("w1")[0].state is SubmissionState.LOST
    assert "the step will run again elsewhere (loss 1 of " in world.log("w1.log")


async def test_that_is_bounded(world: World) -> None:
    await pending(world)
    for attempt in range(1, 6):
        world.records.unclaimed.add(SubmissionId(f"w1-{attempt}"))
        fail(world, f"s-{attempt}")
        await world.tick(seconds=30, times=4)
    assert world.workload("w1").state is WorkloadState.FINISHABLE
    assert "its command never began" in world.log("w1.log").splitlines()[-1]

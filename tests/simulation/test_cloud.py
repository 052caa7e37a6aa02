"""Steps in virtual time: they live by their scripts, write as the wrapper does, and die as EMR lets them."""

from __future__ import annotations

import asyncio

import pytest

from emr_executor.core.states import StepState
from emr_executor.local.entities import ModelOptions
from emr_executor.local.requests import EmrApiError
from emr_executor.wrapper.emr_step_wrapper import LIFE_SIGN_S
from tests.simulation.cloud_world import CLUSTER, CloudWorld, in_world, sim_step
from tests.simulator.cloud import StepScript
from tests.simulator.fault_profile import FaultProfile
from tests.simulator.step_process import CLOSING_S, GRACE_S

SLOW = ModelOptions(start_delay_s=60, bootstrap_delay_s=60, terminate_delay_s=20)


@in_world(SLOW)
async def test_a_step_lives_as_long_as_its_script_says_and_writes_before_emr_knows(world: CloudWorld) -> None:
    cluster_id = world.launch()
    assert world.cluster_state(cluster_id) == "STARTING"
    await asyncio.sleep(121)
    assert world.cluster_state(cluster_id) == "WAITING"
    step_id = world.add(cluster_id, "w-1", StepScript(duration_s=30))
    # Written within AddJobFlowSteps: it may be read before the call's answer is.
    assert await world.told("w-1") == ("RUNNING", None, "")
    await asyncio.sleep(29.9)
    assert world.step_state(cluster_id, step_id) == "RUNNING"
    await asyncio.sleep(0.1001)
    assert await world.told("w-1") == ("ENDED", 0, "")
    await asyncio.sleep(CLOSING_S)
    assert world.step_state(cluster_id, step_id) == "COMPLETED"
    assert world.cloud.ended_well == {step_id}


@pytest.mark.parametrize(
    ("script", "told", "state"),
    [
        (StepScript(duration_s=5, exit_code=3), ("ENDED", 3, ""), "FAILED"),
        (StepScript(duration_s=50, timeout_s=5), ("ENDED", 124, "timeout"), "FAILED"),
        (StepScript(duration_s=4, timeout_s=5), ("ENDED", 0, ""), "COMPLETED"),
        (StepScript(duration_s=1, exit_code=125, reason="no_spec"), ("ENDED", 125, "no_spec"), "FAILED"),
    ],
)
@in_world()
async def test_how_a_step_ends_by_itself(
    world: CloudWorld, script: StepScript, told: tuple[str, int, str], state: str
) -> None:
    cluster_id = world.launch()
    step_id = world.add(cluster_id, "w-1", script)
    await asyncio.sleep(10)
    assert await world.told("w-1") == told
    assert world.step_state(cluster_id, step_id) == state


@in_world()
async def test_of_two_steps_with_one_submission_one_does_the_work(world: CloudWorld) -> None:
    cluster_id = world.launch(slots=1)
    first = world.add(cluster_id, "w-1", StepScript(duration_s=5))
    second = world.add(cluster_id, "w-1")
    await asyncio.sleep(5 + CLOSING_S)
    record = await world.record("w-1")
    assert world.step_state(cluster_id, first) == "COMPLETED"
    assert world.step_state(cluster_id, second) == "FAILED"
    assert world.cloud.stood_back == {second}
    assert record is not None
    assert (record.exit_code, record.mark.partition("/")[0]) == (0, first)


@in_world()
async def test_output_comes_in_chunks_that_are_there_before_the_record_counts_them(world: CloudWorld) -> None:
    cluster_id = world.launch()
    step_id = world.add(cluster_id, "w-1", StepScript(duration_s=40, chunks=3))
    counts = []
    for _ in range(5):
        record = await world.record("w-1")
        assert record is not None
        counts.append(record.chunks)
        for number in range(1, record.chunks + 1):
            chunk = await world.records.output(CLUSTER, record.submission_id, number)
            assert chunk == f"{step_id}: line {number}\n".encode()
        await asyncio.sleep(10.01)
    assert counts == [0, 1, 2, 3, 3]
    assert await world.told("w-1") == ("ENDED", 0, "")


@in_world()
async def test_a_long_step_gives_signs_of_life(world: CloudWorld) -> None:
    cluster_id = world.launch()
    world.add(cluster_id, "w-1", StepScript(duration_s=3600))
    seen = set()
    for _ in range(10):
        record = await world.record("w-1")
        assert record is not None
        seen.add(record.mark)
        await asyncio.sleep(LIFE_SIGN_S)
    assert len(seen) == 10


@in_world()
async def test_a_cancelled_step_says_so_while_its_process_is_still_there(world: CloudWorld) -> None:
    cluster_id = world.launch(slots=1)
    step_id = world.add(cluster_id, "w-1", StepScript(duration_s=500, dies_slowly_s=8))
    waiting = world.add(cluster_id, "w-2", StepScript(duration_s=500))
    await asyncio.sleep(5)
    world.cloud.call("CancelSteps", {"ClusterId": cluster_id, "StepIds": [step_id, waiting]})
    assert world.step_state(cluster_id, waiting) == "CANCELLED"
    assert await world.told("w-2") is None
    for _ in range(1000):
        if await world.told("w-1") == ("ENDED", 143, "terminated"):
            break
        assert world.step_state(cluster_id, step_id) == "CANCEL_PENDING"
        await asyncio.sleep(0.02)
    assert world.step_state(cluster_id, step_id) == "CANCEL_PENDING"
    await asyncio.sleep(CLOSING_S)
    assert world.step_state(cluster_id, step_id) == "CANCELLED"
    (end,) = world.events("process_ended")
    (kill,) = world.events("kill_sent")
    assert end.at - kill.at <= GRACE_S + CLOSING_S


@in_world()
async def test_a_lost_cluster_takes_its_steps_along_without_a_final_record(world: CloudWorld) -> None:
    cluster_id = world.launch()
    step_id = world.add(cluster_id, "w-1", StepScript(duration_s=500, chunks=4))
    await asyncio.sleep(5)
    world.cloud.do(
        lambda model, now: model.lose_cluster(
            cluster_id, now, notice_after_s=120, steps_after_s=60, steps_become=StepState.FAILED
        )
    )
    (end,) = world.events("process_ended")
    assert (end.at, (end.detail or {})["exit_code"]) == (world.cloud.now_s, -9)
    assert world.step_state(cluster_id, step_id) == "RUNNING"
    await asyncio.sleep(61)
    assert (world.step_state(cluster_id, step_id), world.cluster_state(cluster_id)) == (
        "FAILED",
        "RUNNING",
    )
    await asyncio.sleep(600)
    assert world.cluster_state(cluster_id) == "TERMINATED_WITH_ERRORS"
    assert await world.told("w-1") == ("RUNNING", None, "")


@in_world()
async def test_a_cluster_that_is_ended_lets_its_wrappers_speak(world: CloudWorld) -> None:
    cluster_id = world.launch()
    for n in range(4):
        world.add(cluster_id, f"w-{n}", StepScript(duration_s=500, dies_slowly_s=5))
    await asyncio.sleep(5)
    world.cloud.call("TerminateJobFlows", {"JobFlowIds": [cluster_id]})
    await asyncio.sleep(GRACE_S + CLOSING_S)
    assert world.cluster_state(cluster_id) == "TERMINATED"
    assert {await world.told(f"w-{n}") for n in range(4)} == {("ENDED", 143, "terminated")}


@in_world()
async def test_a_lost_node_fails_a_step_and_the_cluster_stays(world: CloudWorld) -> None:
    cluster_id = world.launch(Instances={"InstanceCount": 3})
    failing = world.add(cluster_id, "w-1", StepScript(duration_s=60))
    going_on = world.add(cluster_id, "w-2", StepScript(duration_s=60))
    assert world.cloud.running_steps(cluster_id) == [failing, going_on]
    await asyncio.sleep(5)
    assert world.cloud.do(lambda model, now: model.lose_node(cluster_id, now)) is not None
    world.cloud.fail_step(failing, -100)
    assert await world.told("w-1") == ("ENDED", 228, "")
    await asyncio.sleep(70)
    assert world.step_state(cluster_id, failing) == "FAILED"
    assert world.step_state(cluster_id, going_on) == "COMPLETED"
    assert world.cluster_state(cluster_id) == "WAITING"


@in_world(ModelOptions(running_steps_are_busy=False))
async def test_emrs_own_idea_of_idleness_is_kept_from_busy_clusters_by_the_wrapper(world: CloudWorld) -> None:
    cluster_id = world.launch(AutoTerminationPolicy={"IdleTimeout": 60})
    step_id = world.add(cluster_id, "w-1", StepScript(duration_s=600))
    await asyncio.sleep(610)
    assert world.step_state(cluster_id, step_id) == "COMPLETED"
    await asyncio.sleep(70)
    assert world.cluster_state(cluster_id) == "TERMINATED"


@in_world(profile=FaultProfile(records_silent=1.0))
async def test_a_silent_wrapper_writes_nothing_and_its_step_goes_on(world: CloudWorld) -> None:
    cluster_id = world.launch()
    step_id = world.add(cluster_id, "w-1", StepScript(duration_s=10, chunks=2))
    await asyncio.sleep(20)
    assert world.step_state(cluster_id, step_id) == "COMPLETED"
    assert await world.records.changed({}) == ()
    assert world.cloud.ended_well == {step_id}


@in_world()
async def test_a_call_with_a_step_that_emr_refuses_adds_none(world: CloudWorld) -> None:
    cluster_id = world.launch()
    world.refused.add("bad-1")
    steps = [sim_step("good-1"), sim_step("bad-1")]
    with pytest.raises(EmrApiError, match="not what it should be"):
        world.cloud.call("AddJobFlowSteps", {"JobFlowId": cluster_id, "Steps": steps})
    assert world.cloud.call("ListSteps", {"ClusterId": cluster_id})["Steps"] == []


@in_world()
async def test_a_thousand_steps_leave_no_process_and_no_timer_behind(world: CloudWorld) -> None:
    cluster_id = world.launch(slots=64)
    for n in range(1000):
        world.add(cluster_id, f"w-{n}", StepScript(duration_s=5 + n % 4))
        await asyncio.sleep(0.2)
    await asyncio.sleep(60)
    assert len(world.events("process_ended")) == 1000
    assert world.cloud.model.live_processes == 0
    assert world.cloud._processes == {}

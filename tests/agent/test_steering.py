"""The steering agent over a real store: launches, steps, losses, lost answers, restarts."""

from __future__ import annotations

import pytest

from emr_executor.core.model import Cluster, StepId, SubmissionId
from emr_executor.core.states import (
    ClusterState,
    RecordPhase,
    StepState,
    SubmissionState,
    Verdict,
    WorkloadState,
)
from emr_executor.errors import LaunchRefused, StaleWriter
from tests.agent.fakes import World, ready


async def pending(world: World) -> None:
    """The step of w1 is PENDING on a cluster that is up."""
    await world.placed("w1")
    world.emr.set_cluster("j-1", ClusterState.WAITING)
    await world.tick(times=2)


async def clusters_of(world: World) -> tuple[Cluster, ...]:
    return (await world.store.snapshot(world.clock.now(), 10)).clusters


async def test_a_step_runs_from_ready_to_its_outcome(world: World) -> None:
    await world.placed("w1")
    assert world.emr.calls.count("run_job_flow") == 1
    assert world.workload("w1").state is WorkloadState.SUBMITTED
    (submission,) = world.submissions("w1")
    assert (submission.state, submission.step_id) == (SubmissionState.PENDING, "s-1")
    world.emr.set_cluster("j-1", ClusterState.WAITING)
    await world.tick(times=2)
    world.records.chunks[submission.submission_id, 1] = b"hello from the driver\n"
    world.records.write(submission, RecordPhase.RUNNING, chunks=1)
    await world.tick()
    assert world.submissions("w1")[0].state is SubmissionState.RUNNING
    world.records.write(submission, RecordPhase.ENDED, exit_code=0, chunks=1)
    await world.tick()
    outcome = world.workload("w1").outcome
    assert world.workload("w1").state is WorkloadState.FINISHABLE
    assert outcome is not None
    assert (outcome.verdict, outcome.cluster_id, outcome.step_id) == (Verdict.SUCCEEDED, "j-1", "s-1")
    assert world.records.consumed == [submission.submission_id]
    log = world.log("w1.log")
    said = [
        "waiting: no cluster",
        "queued on j-1 as step s-1",
        "running as step s-1 on j-1",
        "hello from the driver",
        "completed",
    ]
    assert [log.count(text) for text in said] == [1] * 5
    assert sorted(said, key=log.index) == said


async def test_a_cluster_carries_its_identity_and_a_dead_mans_switch(world: World) -> None:
    await world.begin(ready())
    await world.tick()
    (request,) = world.emr.requests
    assert request["Name"] == "airflow-emr/dep/default/uuid-1"
    assert request["Instances"]["KeepJobFlowAliveWhenNoSteps"] is True
    assert request["AutoTerminationPolicy"]["IdleTimeout"] == 3600
    assert {tag["Key"]: tag["Value"] for tag in request["Tags"]}["airflow-emr:deployment"] == "dep"


async def test_a_failed_command_fails_the_task_with_its_own_words(world: World) -> None:
    await world.placed("w1")
    (submission,) = world.submissions("w1")
    tail = "Traceback (most recent call last):\nValueError: no such column\n"
    world.records.write(submission, RecordPhase.ENDED, exit_code=1, tail=tail)
    await world.tick()
    outcome = world.workload("w1").outcome
    assert outcome is not None
    assert (outcome.verdict, outcome.cause) == (Verdict.FAILED, "ValueError: no such column")


async def test_a_lost_cluster_runs_its_step_elsewhere_and_not_before_it_is_over(world: World) -> None:
    await pending(world)
    world.emr.set_step(StepId("s-1"), StepState.RUNNING)
    await world.tick(times=5)
    world.emr.set_cluster("j-1", ClusterState.TERMINATING, "INSTANCE_FAILURE")
    world.show("w1", StepState.CANCELLED)
    await world.tick(times=20)
    assert len(world.emr.submissions()) == 1
    world.emr.set_cluster("j-1", ClusterState.TERMINATED_WITH_ERRORS, "INSTANCE_FAILURE")
    await world.tick(times=20)
    assert sorted(world.emr.submissions(), key=str) == ["w1-1", "w1-2"]
    first, second = world.submissions("w1")
    assert (first.state, second.cluster_uuid) == (SubmissionState.LOST, "uuid-2")
    assert "will run again elsewhere (loss 1 of 2)" in world.log("w1.log")


async def test_clusters_that_never_come_up_cost_a_task_nothing(world: World) -> None:
    await world.begin(ready())
    for number in range(1, 6):
        await world.tick(seconds=100, times=12)
        world.emr.set_cluster(f"j-{number}", ClusterState.TERMINATED_WITH_ERRORS, "INTERNAL_ERROR")
    await world.tick(seconds=100, times=12)
    assert (world.workload("w1").losses, world.workload("w1").outcome) == (0, None)
    assert len(world.emr.submissions()) == 6


@pytest.mark.parametrize("restart", [False, True])
async def test_a_lost_answer_of_add_steps_does_not_add_the_step_twice(world: World, restart: bool) -> None:
    world.emr.lose_answers = {"add_steps"}
    await world.placed("w1")
    assert world.submissions("w1")[0].state is SubmissionState.INTENDED
    if restart:
        await world.restart()
    await world.tick(times=5)
    assert world.emr.submissions() == ["w1-1"]
    assert world.submissions("w1")[0].step_id == "s-1"


@pytest.mark.parametrize("restart", [False, True])
async def test_a_lost_answer_of_run_job_flow_does_not_launch_twice(world: World, restart: bool) -> None:
    world.emr.lose_answers = {"run_job_flow"}
    await world.begin(ready())
    await world.tick()
    if restart:
        await world.restart()
    await world.tick(times=5)
    assert list(world.emr.clusters) == ["j-1"]
    assert world.emr.submissions() == ["w1-1"]


async def test_an_intent_that_never_became_a_call_is_looked_for_and_becomes_one(world: World) -> None:
    await world.begin(ready())
    await world.tick()
    await world.tick_and_die()
    assert world.submissions("w1")[0].state is SubmissionState.INTENDED
    await world.restart()
    await world.tick(times=2)
    assert world.emr.submissions() == ["w1-1"]
    assert (world.workload("w1").losses, world.submissions("w1")[0].state) == (0, SubmissionState.PENDING)


async def test_a_refused_template_is_held_back_and_not_asked_in_every_tick(world: World) -> None:
    world.emr.refuse = {"run_job_flow": LaunchRefused("ServiceRole is invalid")}
    await world.begin(ready())
    await world.tick(times=60)
    assert world.emr.calls.count("run_job_flow") <= 5
    world.emr.refuse = {}
    await world.tick(seconds=30, times=30)
    assert world.emr.submissions() == ["w1-1"]


async def test_a_cancelled_workload_cancels_its_step_and_ends(world: World) -> None:
    await pending(world)
    world.records.unclaimed.add(SubmissionId("w1-1"))
    await world.store.ask_cancel([world.workload("w1").workload_id], "cleared")
    await world.tick(times=4)
    assert world.emr.calls.count("cancel_steps") == 1
    assert world.workload("w1").state is WorkloadState.CANCELLED
    assert world.submissions("w1")[0].state is SubmissionState.CANCELLED


async def test_a_successor_cancels_at_once_what_its_predecessor_may_not_have_cancelled(world: World) -> None:
    await pending(world)
    world.records.unclaimed.add(SubmissionId("w1-1"))
    await world.store.ask_cancel([world.workload("w1").workload_id], "cleared")
    await world.tick_and_die()
    assert world.submissions("w1")[0].cancel_asked_at is not None
    assert "cancel_steps" not in world.emr.calls
    await world.restart()
    await world.tick(times=4)
    assert world.emr.calls.count("cancel_steps") == 1
    assert world.workload("w1").state is WorkloadState.CANCELLED


async def test_a_successor_ends_at_once_the_cluster_that_its_predecessor_may_not_have_ended(
    world: World,
) -> None:
    await pending(world)
    world.end("w1")
    while not any(cluster.end_asked_at for cluster in await clusters_of(world)):
        world.clock.passed_s += 10.0
        await world.tick_and_die()
    assert "terminate_clusters" not in world.emr.calls
    await world.restart()
    await world.tick(times=2)
    assert world.emr.calls.count("terminate_clusters") == 1


async def test_what_terminate_job_flows_answers_is_kept_until_it_ends_the_cluster(world: World) -> None:
    await pending(world)
    world.end("w1")
    world.emr.refuse["terminate_clusters"] = LaunchRefused("the cluster is termination protected")
    await world.tick(seconds=60, times=12)
    assert world.emr.calls.count("terminate_clusters") > 1
    assert world.steering.told_holds.not_ended == {"j-1": "the cluster is termination protected"}
    del world.emr.refuse["terminate_clusters"]
    await world.tick(seconds=60, times=4)
    assert world.steering.told_holds.not_ended == {}


async def test_a_step_cancelled_by_a_person_fails_the_task(world: World) -> None:
    await pending(world)
    world.show("w1", StepState.CANCELLED)
    await world.tick(times=30)
    outcome = world.workload("w1").outcome
    assert outcome is not None
    assert outcome.verdict is Verdict.CANCELLED
    assert "by someone else" in outcome.cause


async def test_the_pool_never_exceeds_its_cap_and_ends_when_idle(world: World) -> None:
    await world.begin(*[ready(f"w{i}") for i in range(20)])
    await world.tick(times=6)
    assert len(world.emr.clusters) == 2
    for _ in range(30):
        for submission in [s for i in range(20) for s in world.submissions(f"w{i}") if s.is_live]:
            world.records.write(submission, RecordPhase.ENDED, exit_code=0)
        for cluster_id in world.emr.clusters:
            world.emr.set_cluster(cluster_id, ClusterState.WAITING)
        await world.tick()
    assert {world.workload(f"w{i}").state for i in range(20)} == {WorkloadState.FINISHABLE}
    assert sorted(world.emr.submissions(), key=str) == sorted(f"w{i}-1" for i in range(20))
    await world.tick(times=60)
    assert {c.state for c in world.emr.clusters.values()} == {ClusterState.TERMINATED}


async def test_many_steps_go_in_one_call(world: World) -> None:
    await world.placed("w1", "w2")
    assert world.emr.calls.count("add_steps") == 1
    assert len(world.emr.submissions()) == 2


async def test_an_agent_that_lost_the_lease_writes_nothing(world: World) -> None:
    await world.begin(ready())
    old = world.token
    await world.restart()
    with pytest.raises(StaleWriter):
        await world.steering.tick(old)
    assert world.emr.calls == ["list_clusters"]


async def test_secrets_of_the_try_are_masked_in_driver_output(world: World) -> None:
    await world.placed("w1")
    (submission,) = world.submissions("w1")
    world.masks[submission.workload_id] = ("hunter2",)
    world.records.chunks[submission.submission_id, 1] = b"password is hunter2\n"
    world.records.write(submission, RecordPhase.RUNNING, chunks=1)
    await world.tick()
    assert "password is ***" in world.log("w1.log")
    assert "hunter2" not in world.log("w1.log")

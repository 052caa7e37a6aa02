"""Poison control: one impossible row is put in quarantine, and all others go on in the same tick.

What a quarantine means for safety is tested for each kind of row: nothing is decided on it, what it may
hide counts as alive, and none of them stays for ever.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select
from structlog.testing import capture_logs

from emr_executor.core.model import SubmissionId
from emr_executor.core.states import ClusterState, ClusterTarget, StepState, SubmissionState, WorkloadState
from emr_executor.store.schema import CLUSTER, HISTORY, SUBMISSION, WORKLOAD
from tests.agent.fakes import World, ready
from tests.agent.impossible import cluster, plant, poison
from tests.store.builders import ME

# -- the story, and who is told


async def test_a_quarantine_is_logged_once_with_the_story_and_told_to_its_task(world: World) -> None:
    await world.running("w1")
    plant(world, WORKLOAD, "w1", state=WorkloadState.READY)
    with capture_logs() as logs:
        await world.tick(times=4)
    (told,) = [line for line in logs if line["event"] == "quarantined"]
    why = "workload w1 is READY and its submission w1-1 is RUNNING"
    assert (told["log_level"], told["entity"], told["row"], told["why"]) == ("error", "workload", "w1", why)
    reason, *story = (world.workload("w1").quarantine or "").split("\n")
    assert (reason, story) == (why, told["story"])
    assert [line.split(" ", 2)[2] for line in story] == ["placed: submission 1 on j-1"]
    assert world.events().count("quarantined") == 1
    assert world.log("w1.log").count("is in quarantine") == 1


async def test_an_unexpected_error_keeps_its_traceback(world: World) -> None:
    await world.running("w1")
    poison(world, "w1")
    with capture_logs() as logs:
        await world.tick()
    (told,) = [line for line in logs if line["event"] == "quarantined"]
    assert told["why"].startswith("AttributeError: ")
    assert isinstance(told["exc_info"], AttributeError)


# -- workloads


async def test_a_workload_that_cannot_take_the_end_of_its_step_is_to_blame_and_not_the_step(
    world: World,
) -> None:
    await world.running("w1", "w2")
    plant(world, WORKLOAD, "w1", state=WorkloadState.READY)
    world.end("w1")
    world.end("w2")
    await world.tick()
    assert (world.workload("w1").quarantine or "").startswith(
        "workload w1: no edge from READY on step_completed"
    )
    assert world.last("w1").state is SubmissionState.COMPLETED
    assert world.workload("w2").state is WorkloadState.FINISHABLE
    await world.tick(times=10)
    assert len(world.submissions("w1")) == 1
    assert world.workload("w1").state is WorkloadState.READY


async def test_a_quarantined_workload_is_kept_alive_in_airflow_and_no_phase_of_it_starts(
    world: World,
) -> None:
    await world.begin(ready("w1", identity=ME, quarantine="why"))
    await world.tick(times=5)
    assert world.submissions("w1") == ()
    assert world.emr.calls.count("run_job_flow") == 0
    assert await world.store.heartbeat_targets() == (("w1", ME),)
    plant(world, WORKLOAD, "w1", state=WorkloadState.FINISHABLE)
    claimed = await world.store.claim(
        WorkloadState.FINISHING, 1, ME, now=world.clock.now(), new_token=lambda: "t"
    )
    assert claimed == ()
    assert await world.store.heartbeat_targets() == (("w1", ME),)


async def test_clearing_a_quarantined_workload_cancels_its_live_step_and_then_the_workload(
    world: World,
) -> None:
    await world.running("w1")
    plant(world, WORKLOAD, "w1", state=WorkloadState.READY)
    await world.tick()
    await world.store.ask_cancel([world.workload("w1").workload_id], "cleared")
    await world.tick(seconds=1)
    assert world.workload("w1").state is WorkloadState.READY
    await world.tick(times=6)
    assert world.emr.calls.count("cancel_steps") == 1
    assert world.last("w1").state is SubmissionState.CANCELLED
    assert (world.workload("w1").state, len(world.submissions("w1"))) == (WorkloadState.CANCELLED, 1)


async def test_clearing_ends_a_quarantined_workload_whose_step_is_long_over(world: World) -> None:
    await world.running("w1")
    plant(world, WORKLOAD, "w1", quarantine="why")
    world.end("w1")
    await world.tick(times=3)
    assert (world.workload("w1").state, world.last("w1").state) == (
        WorkloadState.SUBMITTED,
        SubmissionState.COMPLETED,
    )
    await world.store.ask_cancel([world.workload("w1").workload_id], "marked success")
    await world.tick()
    assert world.workload("w1").state is WorkloadState.CANCELLED


async def test_a_workload_submitted_without_a_submission_does_not_hang_unseen(world: World) -> None:
    await world.begin(ready("w1"))
    plant(world, WORKLOAD, "w1", state=WorkloadState.SUBMITTED)
    await world.tick()
    assert world.workload("w1").quarantine == "workload w1 is SUBMITTED and has no live submission"
    await world.store.ask_cancel([world.workload("w1").workload_id], "cleared")
    await world.tick()
    assert world.workload("w1").state is WorkloadState.CANCELLED


# -- submissions


async def test_a_poisoned_submission_is_quarantined_while_others_go_on(world: World) -> None:
    await world.running("w1", "w2")
    poison(world, "w1")
    world.end("w2")
    await world.tick(times=3)
    held = world.last("w1")
    assert (held.quarantine or "").startswith("AttributeError")
    assert held.state is SubmissionState.RUNNING
    assert world.workload("w1").quarantine is None
    assert world.workload("w2").state is WorkloadState.FINISHABLE


async def test_a_quarantined_submission_holds_its_workload_until_its_cluster_is_over(world: World) -> None:
    await world.running("w1")
    poison(world, "w1")
    await world.tick(times=60)
    assert (len(world.submissions("w1")), world.last("w1").is_live) == (1, True)
    world.emr.set_cluster("j-1", ClusterState.TERMINATED)
    await world.tick(times=40)
    first, second = world.submissions("w1")
    assert (first.state, second.cluster_uuid) == (SubmissionState.LOST, "uuid-2")
    assert world.workload("w1").losses == 1


async def test_a_quarantined_submission_is_not_cancelled_and_blocks_the_next_try(world: World) -> None:
    await world.running("w1")
    poison(world, "w1")
    await world.tick()
    await world.store.ask_cancel([world.workload("w1").workload_id], "cleared")
    again = replace(ready("w9"), key=replace(world.workload("w1").key, try_number=2))
    await world.begin(again)
    await world.tick(times=20)
    assert world.emr.calls.count("cancel_steps") == 0
    assert world.submissions("w9") == ()
    world.emr.set_cluster("j-1", ClusterState.TERMINATED)
    await world.tick(times=40)
    assert world.workload("w1").state is WorkloadState.CANCELLED
    assert len(world.submissions("w9")) == 1


async def test_its_cluster_takes_no_more_steps_and_ends_when_emr_shows_the_step_over(world: World) -> None:
    await world.running("w1")
    poison(world, "w1")
    await world.tick()
    assert cluster(world, "j-1").target is ClusterTarget.DRAIN
    await world.begin(ready("w2"))
    await world.tick(times=5)
    assert world.last("w2").cluster_uuid == "uuid-2"
    assert world.emr.clusters["j-1"].state is ClusterState.RUNNING  # type: ignore[index]
    world.show("w1", StepState.FAILED)
    await world.tick(times=60)
    assert world.emr.clusters["j-1"].state is ClusterState.TERMINATED  # type: ignore[index]
    assert world.submissions("w1")[0].state is SubmissionState.LOST


async def test_what_ended_well_is_not_run_again_for_a_quarantine(world: World) -> None:
    await world.running("w1")
    poison(world, "w1")
    await world.tick()
    world.show("w1", StepState.COMPLETED)
    await world.tick(times=60)
    assert [s.state for s in world.submissions("w1")] == [SubmissionState.COMPLETED]
    assert world.workload("w1").state is WorkloadState.FINISHABLE


async def test_an_end_without_an_edge_is_a_quarantine_and_then_a_loss(world: World) -> None:
    world.emr.lose_answers = {"add_steps"}
    await world.begin(ready("w1"))
    await world.tick()
    await world.tick_and_die()
    await world.restart()
    world.records.unclaimed.add(SubmissionId("w1-1"))
    plant(world, SUBMISSION, "w1-1", cancel_asked_at=world.clock.now(), step_state=StepState.CANCELLED)
    with capture_logs() as logs:
        await world.tick()
        world.emr.set_cluster("j-1", ClusterState.TERMINATED)
        await world.tick(times=30)
    (told,) = [line for line in logs if line["event"] == "quarantined"]
    assert told["why"] == "submission w1-1: no edge from INTENDED on cancelled_by_us"
    assert world.submissions("w1")[0].state is SubmissionState.LOST
    assert world.last("w1").n == 2


async def test_a_row_that_no_plan_can_be_made_of_stops_no_other(world: World) -> None:
    await world.begin(ready("w1"), ready("w2"), ready("w3"))
    plant(world, WORKLOAD, "w2", priority_weight="x")
    with capture_logs() as logs:
        await world.tick(times=3)
    (told,) = [line for line in logs if line["event"] == "quarantined"]
    assert (told["row"], told["why"].partition(":")[0]) == ("w2", "TypeError")
    states = [world.workload(name).state for name in ("w1", "w2", "w3")]
    assert states == [WorkloadState.SUBMITTED, WorkloadState.READY, WorkloadState.SUBMITTED]


# -- clusters


async def test_an_impossible_cluster_is_quarantined_while_others_go_on(world: World) -> None:
    await world.running("w1")
    world.emr.set_cluster("j-1", ClusterState.NEVER_LAUNCHED)
    await world.begin(ready("w2"))
    await world.tick(times=6)
    reason = (cluster(world, "j-1").quarantine or "").split("\n")[0]
    assert reason == "cluster uuid-1: no edge from RUNNING on shown_NEVER_LAUNCHED"
    assert world.last("w2").cluster_uuid == "uuid-2"
    world.end("w1")
    await world.tick(times=2)
    assert world.workload("w1").state is WorkloadState.FINISHABLE


async def test_a_quarantined_cluster_counts_against_the_cap_and_is_left_to_its_auto_termination(
    world: World,
) -> None:
    await world.running("w1")
    plant(world, CLUSTER, "uuid-1", quarantine="why")
    await world.begin(*(ready(f"x{i}") for i in range(9)))
    await world.tick(times=10)
    assert len(world.emr.clusters) == 2
    assert [step.name for step in world.emr.steps["j-1"]] == ["airflow-emr/w1-1/d.w1"]  # type: ignore[index]
    world.end("w1")
    await world.tick(times=100)
    assert world.emr.clusters["j-1"].state is ClusterState.RUNNING  # type: ignore[index]
    assert world.emr.requests[0]["AutoTerminationPolicy"]["IdleTimeout"] == 3600
    world.emr.set_cluster("j-1", ClusterState.TERMINATED, "ALL_STEPS_COMPLETED")
    await world.tick(times=6)
    assert cluster(world, "j-1").state is ClusterState.TERMINATED
    assert len(world.emr.clusters) == 3


async def test_steps_of_a_quarantined_cluster_run_elsewhere_once_it_is_over(world: World) -> None:
    await world.running("w1")
    plant(world, CLUSTER, "uuid-1", quarantine="why")
    world.emr.set_cluster("j-1", ClusterState.TERMINATED_WITH_ERRORS, "INSTANCE_FAILURE")
    await world.tick(times=40)
    assert world.submissions("w1")[0].state is SubmissionState.LOST
    assert world.last("w1").cluster_uuid == "uuid-2"


async def test_the_history_tells_of_each_kind_of_row(world: World) -> None:
    await world.running("w1", "w2", "w3")
    plant(world, WORKLOAD, "w1", state=WorkloadState.READY)
    poison(world, "w2")
    world.emr.set_cluster("j-1", ClusterState.NEVER_LAUNCHED)
    await world.tick(times=2)
    with world.engine.connect() as conn:
        told = conn.execute(select(HISTORY.c.subject).where(HISTORY.c.event == "quarantined")).scalars()
        assert sorted(told) == ["cluster", "submission", "workload"]

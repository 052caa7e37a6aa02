"""Losses, refused capacity and the fates of calls, all in the hands of the caller."""

from __future__ import annotations

import pytest

from emr_executor.core.states import StepState
from emr_executor.local.behaviour import ApiFaults, LaunchFailureKind
from emr_executor.local.ledger import most_clusters_at_once, overlapping_steps, step_intervals
from tests.local.world import EPOCH, SLOW, START_S, World, step_config


def test_a_lost_cluster_cancels_its_steps_and_kills_their_processes_at_once() -> None:
    world = World()
    cluster_id = world.launch(StepConcurrencyLevel=2)
    ids = world.add(cluster_id, *(step_config(f"s{n}") for n in range(3)))
    world.lose(cluster_id)
    world.wait(1)
    assert [(kill.step_id, kill.force) for kill in world.kills] == [(ids[0], True), (ids[1], True)]
    assert world.step_states(cluster_id) == ["CANCELLED"] * 3
    status = world.cluster(cluster_id)["Status"]
    assert status["State"] == "TERMINATED_WITH_ERRORS"
    assert status["StateChangeReason"] == {
        "Code": "INSTANCE_FAILURE",
        "Message": "All instances in the job flow are terminated",
    }


def test_emr_notices_a_loss_later_than_it_happens() -> None:
    world = World()
    cluster_id = world.launch(Instances={"InstanceCount": 3})
    ids = world.add(cluster_id, step_config("a"), step_config("b"))
    world.lose(cluster_id, notice_after_s=90)
    world.wait(89)
    # The API still shows life; the processes are gone, and nothing starts on a machine that is not there.
    assert (world.cluster_state(cluster_id), world.step_states(cluster_id)) == (
        "RUNNING",
        ["RUNNING", "PENDING"],
    )
    assert (world.model.live_processes, world.started) == (0, ids[:1])
    world.wait(2)
    reason = world.cluster(cluster_id)["Status"]["StateChangeReason"]
    assert reason["Message"] == "The master node was terminated"
    assert world.step_states(cluster_id) == ["CANCELLED", "CANCELLED"]


@pytest.mark.parametrize("state", [StepState.FAILED, StepState.INTERRUPTED])
def test_the_state_of_lost_steps_can_be_chosen(state: StepState) -> None:
    world = World()
    cluster_id = world.launch()
    world.add(cluster_id, step_config())
    world.lose(cluster_id, steps_become=state, reason=("INTERNAL_ERROR", "spot"))
    world.wait(1)
    assert world.step_states(cluster_id) == [state]
    assert world.cluster(cluster_id)["Status"]["StateChangeReason"]["Code"] == "INTERNAL_ERROR"
    with pytest.raises(ValueError, match="CANCELLED, FAILED or INTERRUPTED"):
        world.lose(cluster_id, steps_become=StepState.COMPLETED)


def test_a_cluster_that_is_terminated_before_its_loss_is_noticed_ends_whole() -> None:
    world = World()
    cluster_id = world.launch()
    world.add(cluster_id, step_config("a"), step_config("b"))
    world.lose(cluster_id, notice_after_s=60)
    world.call("TerminateJobFlows", JobFlowIds=[cluster_id])
    world.wait(120)
    assert (world.cluster_state(cluster_id), world.step_states(cluster_id)) == (
        "TERMINATED",
        ["CANCELLED"] * 2,
    )


def test_a_cluster_lost_while_it_starts_never_becomes_ready() -> None:
    world = World(SLOW)
    cluster_id = world.launch()
    world.add(cluster_id, step_config())
    world.lose(cluster_id)
    world.wait(3600)
    assert world.cluster_state(cluster_id) == "TERMINATED_WITH_ERRORS"
    assert "ReadyDateTime" not in world.cluster(cluster_id)["Status"]["Timeline"]
    assert world.started == []


def test_a_lost_node_is_replaced_and_told_by_list_instances() -> None:
    world = World()
    cluster_id = world.launch(Instances={"InstanceCount": 3})
    lost = world.model.lose_node(cluster_id, world.now)
    over = world.call("ListInstances", ClusterId=cluster_id, InstanceStates=["TERMINATED"])["Instances"]
    assert [(each["Ec2InstanceId"], each["Status"]["StateChangeReason"]["Code"]) for each in over] == [
        (lost, "INSTANCE_FAILURE")
    ]
    assert (
        len(world.call("ListInstances", ClusterId=cluster_id, InstanceStates=["RUNNING"])["Instances"]) == 3
    )
    single = world.launch()
    assert world.model.lose_node(single, world.now) is None


@pytest.mark.parametrize(
    ("kind", "code", "error_code", "last_state_before"),
    [
        ("CAPACITY", "INTERNAL_ERROR", "INTERNAL_ERROR_EC2_INSUFFICIENT_CAPACITY_AZ", "STARTING"),
        ("SPOT_CAPACITY", "INTERNAL_ERROR", "INTERNAL_ERROR_SPOT_NO_CAPACITY_PRIMARY", "STARTING"),
        ("VALIDATION", "VALIDATION_ERROR", "VALIDATION_ERROR_INSTANCE_TYPE_NOT_SUPPORTED", "STARTING"),
        ("BOOTSTRAP", "BOOTSTRAP_FAILURE", "BOOTSTRAP_FAILURE_PRIMARY_WITH_NON_ZERO_CODE", "BOOTSTRAPPING"),
        ("FLEET_TIMEOUT", "INSTANCE_FLEET_TIMEOUT", None, "STARTING"),
    ],
)
def test_launches_fail_as_asked_and_only_so_many(
    kind: str, code: str, error_code: str | None, last_state_before: str
) -> None:
    world = World(SLOW)
    world.model.fail_launches(1, LaunchFailureKind(kind))
    failing, fine = world.launch(), world.launch()
    world.add(failing, step_config())
    world.wait(3600)
    status = world.cluster(failing)["Status"]
    assert (status["State"], status["StateChangeReason"]["Code"]) == ("TERMINATED_WITH_ERRORS", code)
    assert [detail["ErrorCode"] for detail in status.get("ErrorDetails", ())] == (
        [error_code] if error_code else []
    )
    states = [entry.state for entry in world.events("cluster_state") if entry.cluster_id == failing]
    assert states[states.index("TERMINATING") - 1] == last_state_before
    assert (world.step_states(failing), world.cluster_state(fine)) == (["CANCELLED"], "WAITING")


def test_provisioning_can_be_held_released_and_skipped() -> None:
    world = World(SLOW)
    world.model.hold_provisioning(world.now)
    held, skipped = world.launch(), world.launch()
    world.wait(3600)
    assert (world.cluster_state(held), world.cluster_state(skipped)) == ("STARTING", "STARTING")
    world.model.finish_provisioning(skipped, world.now)
    assert (world.cluster_state(held), world.cluster_state(skipped)) == ("STARTING", "WAITING")
    world.model.release_provisioning(world.now)
    assert world.cluster_state(held) == "BOOTSTRAPPING"


def test_the_same_inputs_give_the_same_world() -> None:
    def story() -> list[dict[str, object]]:
        world = World(SLOW)
        cluster_id = world.launch(StepConcurrencyLevel=2)
        world.add(cluster_id, step_config("a"), step_config("b"))
        world.wait(1000)
        world.lose(cluster_id, notice_after_s=5)
        world.wait(1000)
        return [entry.as_dict() for entry in world.model.ledger]

    assert story() == story()


def test_the_ledger_tells_two_lives_of_one_workload_from_one_after_the_other() -> None:
    world = World(SLOW)
    first, second = world.launch(), world.launch()
    world.add(first, step_config("w1-1"))
    world.wait(1000)
    world.kills_work = False
    world.lose(first)
    # A submission elsewhere while the first process still lives is the fault that the ledger is for.
    world.add(second, step_config("w1-2"))
    pairs = overlapping_steps(world.model.ledger, lambda name: name.rpartition("-")[0])
    assert [(one.name, other.name) for one, other in pairs] == [("w1-1", "w1-2")]
    assert most_clusters_at_once(world.model.ledger) == 2
    lives = step_intervals(world.model.ledger)
    assert [(life.name, life.since - EPOCH, life.until) for life in lives] == [
        ("w1-1", START_S + 120.0, None),
        ("w1-2", 1000.0, None),
    ]


def test_one_after_the_other_is_no_overlap() -> None:
    world = World()
    cluster_id = world.launch()
    one, _ = world.add(cluster_id, step_config("w1-1"), step_config("w1-2"))
    world.wait(10)
    world.end(cluster_id, one)
    assert overlapping_steps(world.model.ledger, lambda name: name.rpartition("-")[0]) == ()


def test_counted_faults_are_used_up_by_their_operation_or_by_any() -> None:
    faults = ApiFaults()
    faults.throttle_next("RunJobFlow", 2)
    faults.drop_next("*", 1, when="before")
    faults.slow("ListSteps", 0.5, 1)
    faults.fail_next("ListSteps", code="InternalServerException", message="oops", status=500)
    fates = [faults.decide("RunJobFlow", EPOCH) for _ in range(4)]
    assert [fate.throttled for fate in fates] == [True, True, False, False]
    assert [fate.dropped for fate in fates] == ["no", "no", "before", "no"]
    failed, fine = (faults.decide("ListSteps", EPOCH) for _ in range(2))
    assert (failed.delay_s, failed.error) == (0.5, ("InternalServerException", "oops", 500))
    assert (fine.delay_s, fine.error) == (0.0, None)


def test_token_buckets_refill_by_the_second_and_the_account_has_one_too() -> None:
    faults = ApiFaults()
    faults.use_buckets(EPOCH)
    served = sum(not faults.decide("AddJobFlowSteps", EPOCH).throttled for _ in range(30))
    assert served == 10
    assert faults.decide("AddJobFlowSteps", EPOCH + 1).throttled
    assert not faults.decide("AddJobFlowSteps", EPOCH + 2).throttled
    everything = sum(not faults.decide("GetAutoTerminationPolicy", EPOCH + 1000).throttled for _ in range(30))
    assert everything == 25
    faults.clear()
    assert not faults.decide("AddJobFlowSteps", EPOCH + 1000).throttled

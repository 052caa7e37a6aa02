"""Clusters come up, idle, drain and end as EMR's do, by the clock that the caller passes."""

from __future__ import annotations

import pytest

from emr_executor.local.behaviour import EmrApiError, ModelOptions
from tests.local.world import (
    BOOTSTRAP_S,
    EPOCH,
    SLOW,
    START_S,
    TERMINATE_S,
    World,
    launch_request,
    step_config,
)


def test_a_cluster_walks_up_and_says_when_it_was_ready() -> None:
    world = World(SLOW)
    cluster_id = world.launch()
    assert world.cluster_state(cluster_id) == "STARTING"
    world.wait(START_S)
    assert world.cluster_state(cluster_id) == "BOOTSTRAPPING"
    world.wait(BOOTSTRAP_S)
    status = world.cluster(cluster_id)["Status"]
    assert status == {
        "State": "WAITING",
        "StateChangeReason": {"Message": "Waiting for steps to run"},
        "Timeline": {"CreationDateTime": EPOCH, "ReadyDateTime": EPOCH + START_S + BOOTSTRAP_S},
    }


def test_a_late_advance_records_the_times_at_which_things_were_due() -> None:
    world = World(SLOW)
    cluster_id = world.launch()
    world.model.advance(EPOCH + 10_000)
    assert [entry.at - EPOCH for entry in world.events("cluster_state")] == [
        0,
        START_S,
        START_S + BOOTSTRAP_S,
    ]
    assert world.model.live_cluster_ids == (cluster_id,)


def test_a_terminated_cluster_is_terminating_first() -> None:
    world = World(SLOW)
    cluster_id = world.launch()
    world.wait(START_S + BOOTSTRAP_S)
    world.call("TerminateJobFlows", JobFlowIds=[cluster_id])
    assert world.cluster_state(cluster_id) == "TERMINATING"
    world.wait(TERMINATE_S)
    status = world.cluster(cluster_id)["Status"]
    assert status["State"] == "TERMINATED"
    assert status["StateChangeReason"] == {"Code": "USER_REQUEST", "Message": "Terminated by user request"}
    assert status["Timeline"]["EndDateTime"] == EPOCH + START_S + BOOTSTRAP_S + TERMINATE_S


def test_termination_waits_for_processes_that_do_not_die() -> None:
    world = World()
    cluster_id = world.launch()
    (step_id,) = world.add(cluster_id, step_config())
    world.kills_work = False
    world.call("TerminateJobFlows", JobFlowIds=[cluster_id])
    world.wait(3600)
    assert (world.cluster_state(cluster_id), world.step_states(cluster_id)) == ("TERMINATING", ["RUNNING"])
    world.end(cluster_id, step_id, -9)
    assert (world.cluster_state(cluster_id), world.step_states(cluster_id)) == ("TERMINATED", ["CANCELLED"])


def test_a_hanging_termination_leaves_steps_alive_until_released() -> None:
    world = World()
    cluster_id = world.launch()
    world.add(cluster_id, step_config())
    world.model.hang_termination(cluster_id)
    world.call("TerminateJobFlows", JobFlowIds=[cluster_id])
    world.wait(3600)
    assert (world.cluster_state(cluster_id), world.kills) == ("TERMINATING", [])
    world.model.release_termination(cluster_id, world.now)
    world.settle()
    world.wait(1)
    assert world.cluster_state(cluster_id) == "TERMINATED"


def test_termination_protection_refuses_and_can_be_lifted() -> None:
    world = World()
    kept, ended = world.launch(Instances={"TerminationProtected": True}), world.launch()
    with pytest.raises(EmrApiError) as refused:
        world.call("TerminateJobFlows", JobFlowIds=[kept, ended])
    assert refused.value.code == "ValidationException"
    assert refused.value.message == (
        "Could not shut down one or more job flows since they are termination protected."
    )
    world.wait(1)
    assert (world.cluster_state(kept), world.cluster_state(ended)) == ("WAITING", "TERMINATED")
    world.call("SetTerminationProtection", JobFlowIds=[kept], TerminationProtected=False)
    world.call("TerminateJobFlows", JobFlowIds=[kept])
    world.wait(1)
    assert world.cluster_state(kept) == "TERMINATED"


def test_a_cluster_that_is_not_kept_alive_ends_with_its_last_step() -> None:
    world = World()
    cluster_id = world.launch(
        Instances={"KeepJobFlowAliveWhenNoSteps": False}, Steps=[step_config("a"), step_config("b")]
    )
    for step_id in list(world.started):
        world.end(cluster_id, step_id)
    assert world.cluster_state(cluster_id) == "RUNNING"
    world.end(cluster_id, world.started[-1])
    world.wait(1)
    status = world.cluster(cluster_id)["Status"]
    assert (status["State"], status["StateChangeReason"]["Code"]) == ("TERMINATED", "ALL_STEPS_COMPLETED")


def test_a_drained_cluster_runs_what_is_added_meanwhile_and_then_ends() -> None:
    world = World()
    cluster_id = world.launch()
    (first,) = world.add(cluster_id, step_config("a"))
    world.call("SetKeepJobFlowAliveWhenNoSteps", JobFlowIds=[cluster_id], KeepJobFlowAliveWhenNoSteps=False)
    (second,) = world.add(cluster_id, step_config("b"))
    world.end(cluster_id, first)
    assert world.step_states(cluster_id) == ["COMPLETED", "RUNNING"]
    world.end(cluster_id, second)
    world.wait(1)
    assert world.cluster_state(cluster_id) == "TERMINATED"


def test_auto_termination_counts_from_the_last_step() -> None:
    world = World()
    cluster_id = world.launch(AutoTerminationPolicy={"IdleTimeout": 600})
    world.wait(500)
    (step_id,) = world.add(cluster_id, step_config())
    world.wait(5000)
    world.end(cluster_id, step_id)
    world.wait(599)
    assert world.cluster_state(cluster_id) == "WAITING"
    world.wait(2)
    assert world.cluster_state(cluster_id) == "TERMINATED"


def test_auto_termination_does_not_see_steps_when_it_is_taken_at_its_word() -> None:
    world = World(ModelOptions(running_steps_are_busy=False))
    cluster_id = world.launch(AutoTerminationPolicy={"IdleTimeout": 600})
    world.add(cluster_id, step_config())
    world.wait(500)
    world.model.mark_busy(cluster_id, world.now)
    world.wait(500)
    assert world.cluster_state(cluster_id) == "RUNNING"
    world.wait(101)
    assert (world.cluster_state(cluster_id), world.step_states(cluster_id)) == ("TERMINATED", ["CANCELLED"])


def test_auto_termination_can_be_set_read_changed_and_removed() -> None:
    world = World()
    cluster_id = world.launch()
    assert world.call("GetAutoTerminationPolicy", ClusterId=cluster_id) == {}
    world.call("PutAutoTerminationPolicy", ClusterId=cluster_id, AutoTerminationPolicy={"IdleTimeout": 60})
    policy = world.call("GetAutoTerminationPolicy", ClusterId=cluster_id)
    assert policy == {"AutoTerminationPolicy": {"IdleTimeout": 60}}
    world.call("RemoveAutoTerminationPolicy", ClusterId=cluster_id)
    world.wait(3600)
    assert world.cluster_state(cluster_id) == "WAITING"
    world.call("PutAutoTerminationPolicy", ClusterId=cluster_id)
    world.wait(1)
    assert world.cluster_state(cluster_id) == "TERMINATED"


@pytest.mark.parametrize("timeout_s", [59, 604_801])
def test_an_idle_timeout_out_of_range_is_refused(timeout_s: int) -> None:
    world = World()
    with pytest.raises(EmrApiError, match="between 60 and 604800 seconds"):
        world.launch(AutoTerminationPolicy={"IdleTimeout": timeout_s})
    assert world.model.ledger == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"Name": "a|b"}, "cluster name may not contain"),
        ({"JobFlowRole": None}, "InstanceProfile is required for creating cluster."),
        ({"ServiceRole": None}, "ServiceRole is required for creating cluster."),
        ({"StepConcurrencyLevel": 0}, "Invalid step concurrency level. Allowed level is from 1 to 256"),
        ({"StepConcurrencyLevel": 257}, "Invalid step concurrency level. Allowed level is from 1 to 256"),
        (
            {"StepConcurrencyLevel": 2, "Steps": [step_config(action="CANCEL_AND_WAIT")]},
            "Action on failure 'CANCEL_AND_WAIT' is invalid.",
        ),
        ({"BootstrapActions": [{}] * 17}, "No more than 16 bootstrap actions"),
        (
            {"Instances": {"InstanceGroups": [{}], "InstanceFleets": [{}]}},
            "Instance groups and instance fleets are mutually exclusive.",
        ),
        ({"Instances": {"MasterInstanceType": None}}, "InstanceGroups, InstanceFleets or MasterInstanceType"),
        (
            {"Instances": {"InstanceGroups": [{"InstanceRole": "CORE"}]}},
            "exactly one MASTER instance group or fleet",
        ),
        ({"Instances": {"InstanceCount": 2_000_000_000}}, "InstanceCount is 2000000000: EMR takes 1 to 2000"),
        ({"Tags": [{"Value": "of nothing"}]}, "Tag key is required"),
        (
            {"Instances": {"Ec2SubnetId": "subnet-1", "Placement": {"AvailabilityZone": "us-east-1a"}}},
            "exclude each other: a subnet is in one zone",
        ),
    ],
)
def test_what_emr_would_not_launch_is_refused_and_leaves_nothing(
    changes: dict[str, object], text: str
) -> None:
    world = World()
    with pytest.raises(EmrApiError, match=text) as refused:
        world.call("RunJobFlow", **launch_request(**changes))
    assert refused.value.code == "ValidationException"
    assert world.model.ledger == []


def test_tags_are_merged_and_refused_once_the_cluster_is_over() -> None:
    world = World()
    cluster_id = world.launch(Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    world.call("AddTags", ResourceId=cluster_id, Tags=[{"Key": "b", "Value": "3"}, {"Key": "c"}])
    world.call("RemoveTags", ResourceId=cluster_id, TagKeys=["a", "never"])
    assert world.cluster(cluster_id)["Tags"] == [{"Key": "b", "Value": "3"}, {"Key": "c", "Value": ""}]
    world.call("TerminateJobFlows", JobFlowIds=[cluster_id])
    world.wait(1)
    with pytest.raises(EmrApiError, match=r"Tags cannot be modified on terminated clusters."):
        world.call("AddTags", ResourceId=cluster_id, Tags=[{"Key": "d"}])


def test_clusters_are_listed_by_state_and_creation_in_pages_of_fifty() -> None:
    world = World()
    ids = []
    for _ in range(53):
        ids.append(world.launch())
        world.wait(1)
    first = world.call("ListClusters")
    world.launch()  # shifts nothing
    second = world.call("ListClusters", Marker=first["Marker"])
    listed = [cluster["Id"] for page in (first, second) for cluster in page["Clusters"]]
    assert (len(first["Clusters"]), "Marker" in second) == (50, False)
    assert listed == list(reversed(ids))
    world.call("TerminateJobFlows", JobFlowIds=ids[:2])
    world.wait(1)
    over = world.call("ListClusters", ClusterStates=["TERMINATED"], CreatedAfter=EPOCH)["Clusters"]
    assert [cluster["Id"] for cluster in over] == [ids[1]]


def test_instances_follow_groups_and_fleets() -> None:
    world = World(SLOW)
    groups = [
        {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1},
        {"InstanceRole": "CORE", "InstanceType": "r5.xlarge", "InstanceCount": 2, "Market": "SPOT"},
    ]
    fleets = [
        {
            "InstanceFleetType": "MASTER",
            "TargetOnDemandCapacity": 1,
            "InstanceTypeConfigs": [{"InstanceType": "m5.xlarge"}],
        },
        {
            "InstanceFleetType": "TASK",
            "TargetSpotCapacity": 10,
            "InstanceTypeConfigs": [{"InstanceType": "c5.xlarge", "WeightedCapacity": 4}],
        },
    ]
    with_groups = world.launch(Instances={"InstanceGroups": groups})
    with_fleets = world.launch(Instances={"InstanceFleets": fleets})
    world.wait(START_S + BOOTSTRAP_S)
    core = world.call("ListInstances", ClusterId=with_groups, InstanceGroupTypes=["CORE"])["Instances"]
    assert [(each["InstanceType"], each["Market"], each["Status"]["State"]) for each in core] == [
        ("r5.xlarge", "SPOT", "RUNNING")
    ] * 2
    listed = world.call("ListInstanceGroups", ClusterId=with_groups)["InstanceGroups"]
    assert [group["RunningInstanceCount"] for group in listed] == [1, 2]
    fleet = world.call("ListInstanceFleets", ClusterId=with_fleets)["InstanceFleets"][1]
    assert (fleet["InstanceFleetType"], fleet["ProvisionedSpotCapacity"]) == ("TASK", 3)
    assert world.cluster(with_fleets)["InstanceCollectionType"] == "INSTANCE_FLEET"
    with pytest.raises(EmrApiError, match="mutually exclusive") as refused:
        world.call("ListInstanceGroups", ClusterId=with_fleets)
    assert refused.value.code == "InvalidRequestException"

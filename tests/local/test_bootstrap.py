"""Bootstrap actions in virtual time: a cluster is ready after the last one, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from emr_executor.local.behaviour import ModelOptions
from tests.local.world import World, step_config


def actions(count: int) -> list[dict[str, Any]]:
    return [
        {"Name": f"b{n}", "ScriptBootstrapAction": {"Path": f"s3://b/{n}", "Args": [str(n)]}}
        for n in range(1, count + 1)
    ]


@pytest.fixture
def world() -> World:
    return World(ModelOptions(bootstrap_timeout_s=600.0))


def test_they_run_one_after_the_other_and_steps_wait_for_the_last(world: World) -> None:
    cluster_id = world.launch(BootstrapActions=actions(2), Steps=[step_config()])
    first, second = (f"{cluster_id}-bootstrap-{n}" for n in (1, 2))
    assert (world.started, world.cluster_state(cluster_id)) == ([first], "BOOTSTRAPPING")
    world.end(cluster_id, first)
    assert (world.started, world.cluster_state(cluster_id)) == ([first, second], "BOOTSTRAPPING")
    world.end(cluster_id, second)
    assert (world.step_states(cluster_id), world.cluster_state(cluster_id)) == (["RUNNING"], "RUNNING")


@pytest.mark.parametrize("fails", [1, 2])
def test_one_that_fails_ends_the_cluster_with_emrs_words(world: World, fails: int) -> None:
    cluster_id = world.launch(BootstrapActions=actions(2), Steps=[step_config()])
    for n in range(1, fails + 1):
        world.end(cluster_id, f"{cluster_id}-bootstrap-{n}", 1 if n == fails else 0)
    cluster = world.cluster(cluster_id)
    instance_id = world.call("ListInstances", ClusterId=cluster_id)["Instances"][0]["Ec2InstanceId"]
    assert cluster["Status"]["State"] == "TERMINATED_WITH_ERRORS"
    assert cluster["Status"]["StateChangeReason"] == {
        "Code": "BOOTSTRAP_FAILURE",
        "Message": (
            f"On the master instance ({instance_id}), "
            f"bootstrap action {fails} returned a non-zero return code"
        ),
    }
    (detail,) = cluster["Status"]["ErrorDetails"]
    assert detail["ErrorCode"] == "BOOTSTRAP_FAILURE_PRIMARY_WITH_NON_ZERO_CODE"
    assert world.step_states(cluster_id) == ["CANCELLED"]
    assert len(world.started) == fails


def test_one_that_takes_too_long_is_killed_and_ends_the_cluster(world: World) -> None:
    cluster_id = world.launch(BootstrapActions=actions(1))
    world.wait(599)
    assert world.cluster_state(cluster_id) == "BOOTSTRAPPING"
    world.wait(2)
    status = world.cluster(cluster_id)["Status"]
    assert (status["State"], status["StateChangeReason"]["Code"]) == (
        "TERMINATED_WITH_ERRORS",
        "BOOTSTRAP_FAILURE",
    )
    assert status["StateChangeReason"]["Message"].endswith("bootstrap action 1 timed out executing")
    assert [kill.step_id for kill in world.kills] == [f"{cluster_id}-bootstrap-1"]


@pytest.mark.parametrize("how", ["terminate", "lose"])
def test_the_end_of_a_cluster_waits_for_the_one_that_runs(world: World, how: str) -> None:
    world.kills_work = False
    cluster_id = world.launch(BootstrapActions=actions(2))
    if how == "terminate":
        world.call("TerminateJobFlows", JobFlowIds=[cluster_id])
    else:
        world.lose(cluster_id)
    assert [kill.step_id for kill in world.kills][:1] == [f"{cluster_id}-bootstrap-1"]
    assert world.cluster_state(cluster_id) == "TERMINATING"
    world.end(cluster_id, f"{cluster_id}-bootstrap-1", -9)
    assert world.cluster_state(cluster_id).startswith("TERMINATED")
    assert len(world.started) == 1

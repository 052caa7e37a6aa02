"""What EMR promises, asked in the same words of the model in virtual time, of emr-local, and of Amazon EMR.

Every test works on the one cluster of its door, in the order of this file: the last ones end it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.local.contract_doors import DOORS, Door, Refused, launched, opened, step

ACTIVE = ("PENDING", "CANCEL_PENDING", "RUNNING")
LIFE = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING", "TERMINATING", "TERMINATED"]
LIMIT_TEXT = (
    "Maximum number of active steps(State = 'Running', 'Pending' or 'Cancel_Pending') for cluster exceeded."
)
SHUTTING_DOWN = "A job flow that is shutting down, terminated, or finished may not be modified."


@pytest.fixture(scope="module", params=DOORS)
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(request.param, tmp_path_factory.mktemp("contract")) as door:
        yield door


@pytest.fixture(scope="module")
def cluster_id(door: Door) -> Iterator[str]:
    with launched(door) as cluster_id:
        yield cluster_id


@pytest.fixture
def up(door: Door, cluster_id: str) -> Iterator[str]:
    """The cluster when it takes steps and has none that is active, before and after."""
    door.until(lambda: state_of(door, cluster_id) in ("RUNNING", "WAITING"), "a cluster that is up")
    yield cluster_id
    cancel_all(door, cluster_id)


def cluster_of(door: Door, cluster_id: str) -> dict[str, Any]:
    return dict(door.call("DescribeCluster", ClusterId=cluster_id)["Cluster"])


def state_of(door: Door, cluster_id: str) -> str:
    return str(cluster_of(door, cluster_id)["Status"]["State"])


def add(door: Door, cluster_id: str, *steps: dict[str, Any]) -> list[str]:
    return list(door.call("AddJobFlowSteps", JobFlowId=cluster_id, Steps=list(steps))["StepIds"])


def steps_of(door: Door, cluster_id: str, **request: Any) -> list[dict[str, Any]]:
    """Steps of all pages, as they come."""
    steps: list[dict[str, Any]] = []
    while True:
        page = door.call("ListSteps", ClusterId=cluster_id, **request)
        steps += page["Steps"]
        if "Marker" not in page:
            return steps
        request["Marker"] = page["Marker"]


def states_of(door: Door, cluster_id: str, step_ids: list[str]) -> list[str]:
    """States of up to ten steps, in the order of the ids."""
    return [s["Status"]["State"] for s in steps_of(door, cluster_id, StepIds=step_ids)]


def active(door: Door, cluster_id: str) -> list[str]:
    return [s["Id"] for s in steps_of(door, cluster_id, StepStates=list(ACTIVE))]


def cancel_all(door: Door, cluster_id: str) -> None:
    if step_ids := active(door, cluster_id):
        door.call("CancelSteps", ClusterId=cluster_id, StepIds=step_ids)
    door.until(lambda: not active(door, cluster_id), "a cluster without active steps")


def refusal(door: Door, operation: str, **request: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        door.call(operation, **request)
    return refused.value.code, refused.value.message


# -- clusters up -----------------------------------------------------------------------------------------


def test_a_cluster_comes_up_in_order_and_keeps_what_it_was_given(door: Door, cluster_id: str) -> None:
    seen: list[str] = []

    def is_up() -> bool:
        seen.append(state_of(door, cluster_id))
        return seen[-1] in ("RUNNING", "WAITING")

    door.until(is_up, "a cluster that is up")
    assert seen == sorted(seen, key=LIFE.index)
    assert seen[0] == "STARTING"
    cluster = cluster_of(door, cluster_id)
    assert cluster["Name"].startswith("emr-executor-contract/")
    assert {"Key": "purpose", "Value": "contract"} in cluster["Tags"]
    assert (cluster["StepConcurrencyLevel"], cluster["AutoTerminate"]) == (2, False)
    timeline = cluster["Status"]["Timeline"]
    assert timeline["CreationDateTime"] < timeline["ReadyDateTime"]


def test_the_auto_termination_policy_of_the_launch_holds(door: Door, cluster_id: str) -> None:
    policy = door.call("GetAutoTerminationPolicy", ClusterId=cluster_id)["AutoTerminationPolicy"]
    assert policy == {"IdleTimeout": 600}


def test_clusters_are_listed_by_state_and_time(door: Door, up: str) -> None:
    # botocore sends whole seconds.
    after = cluster_of(door, up)["Status"]["Timeline"]["CreationDateTime"] + timedelta(seconds=1)
    living = door.call("ListClusters", ClusterStates=["RUNNING", "WAITING"])["Clusters"]
    assert up in [cluster["Id"] for cluster in living]
    later = door.call("ListClusters", ClusterStates=["RUNNING", "WAITING"], CreatedAfter=after)["Clusters"]
    assert up not in [cluster["Id"] for cluster in later]
    over = door.call("ListClusters", ClusterStates=["TERMINATED"])["Clusters"]
    assert up not in [cluster["Id"] for cluster in over]


# -- steps -----------------------------------------------------------------------------------------------


def test_steps_start_in_the_order_they_were_added_two_at_once(door: Door, up: str) -> None:
    ids = add(door, up, *(step("short", str(n)) for n in range(5)))
    door.until(lambda: set(states_of(door, up, ids)) == {"COMPLETED"}, "five steps that are done")
    times = [s["Status"]["Timeline"] for s in steps_of(door, up, StepIds=ids)]
    starts = [each["StartDateTime"] for each in times]
    assert starts == sorted(starts)
    for position in range(2, 5):
        over = sum(each["EndDateTime"] <= starts[position] for each in times[:position])
        assert position - over <= 1, "a third step ran beside two"


def test_a_step_that_fails_leaves_the_cluster_as_it_is(door: Door, up: str) -> None:
    failing, quick = add(door, up, step("fails"), step("quick"))
    door.until(lambda: states_of(door, up, [failing, quick]) == ["FAILED", "COMPLETED"], "both ends")
    assert state_of(door, up) in ("RUNNING", "WAITING")


def test_pending_and_running_steps_can_be_cancelled(door: Door, up: str) -> None:
    ids = add(door, up, *(step("long", str(n)) for n in range(4)))
    door.until(lambda: states_of(door, up, ids[:2]) == ["RUNNING", "RUNNING"], "two running steps")
    assert states_of(door, up, ids[2:]) == ["PENDING", "PENDING"]
    assert state_of(door, up) == "RUNNING"
    answer = door.call("CancelSteps", ClusterId=up, StepIds=[ids[0], ids[3]])["CancelStepsInfoList"]
    assert [(info["StepId"], info["Status"]) for info in answer] == [
        (ids[0], "SUBMITTED"),
        (ids[3], "SUBMITTED"),
    ]
    door.until(lambda: states_of(door, up, [ids[0], ids[3]]) == ["CANCELLED"] * 2, "two cancelled steps")
    assert states_of(door, up, ids[1:2]) == ["RUNNING"]
    (info,) = door.call("CancelSteps", ClusterId=up, StepIds=ids[:1])["CancelStepsInfoList"]
    assert info["Status"] == "FAILED"


def test_a_cluster_takes_256_active_steps_and_a_call_all_or_nothing(door: Door, up: str) -> None:
    add(door, up, *(step("long", str(n)) for n in range(255)))
    two = {"JobFlowId": up, "Steps": [step("quick"), step("quick")]}
    assert refusal(door, "AddJobFlowSteps", **two) == ("ValidationException", LIMIT_TEXT)
    assert len(active(door, up)) == 255
    add(door, up, step("long"))
    cancel_all(door, up)
    add(door, up, step("quick"))


def test_the_strings_of_a_step_hold_10240_characters(door: Door, up: str) -> None:
    def of_length(characters: int) -> dict[str, Any]:
        config = step("quick")
        config["HadoopJarStep"]["Args"] = ["true", "x" * 5000]
        used = sum(map(len, [config["HadoopJarStep"]["Jar"], *config["HadoopJarStep"]["Args"]]))
        config["HadoopJarStep"]["Args"].append("y" * (characters - used))
        return config

    code, text = refusal(door, "AddJobFlowSteps", JobFlowId=up, Steps=[of_length(10_241)])
    assert code == "ValidationException"
    assert "10240" in text.replace(",", "")
    (step_id,) = add(door, up, of_length(10_240))
    door.until(lambda: states_of(door, up, [step_id]) == ["COMPLETED"], "a long step's end")


def test_parallel_steps_must_continue_on_failure(door: Door, up: str) -> None:
    steps = [step("quick", action="CANCEL_AND_WAIT")]
    assert refusal(door, "AddJobFlowSteps", JobFlowId=up, Steps=steps) == (
        "ValidationException",
        "Action on failure 'CANCEL_AND_WAIT' is invalid.",
    )


def test_steps_are_listed_newest_first_by_fifty(door: Door, up: str) -> None:
    ids = add(door, up, *(step("long", str(n)) for n in range(60)))
    first = door.call("ListSteps", ClusterId=up)
    assert len(first["Steps"]) == 50
    second = door.call("ListSteps", ClusterId=up, Marker=first["Marker"])
    listed = [s["Id"] for s in first["Steps"] + second["Steps"]]
    assert listed[:60] == list(reversed(ids))
    assert first["Steps"][0]["Name"].endswith("/59")
    assert first["Steps"][0]["Config"]["Args"] == ["sleep", "900"]
    door.until(lambda: states_of(door, up, ids[:2]) == ["RUNNING", "RUNNING"], "two running steps")
    running = steps_of(door, up, StepStates=["RUNNING"])
    assert [s["Id"] for s in running] == [ids[1], ids[0]]


def test_steps_are_listed_by_id_in_the_order_asked_for(door: Door, up: str) -> None:
    ids = add(door, up, *(step("quick", str(n)) for n in range(11)))
    asked = [ids[3], ids[1], ids[2]]
    assert [s["Id"] for s in steps_of(door, up, StepIds=asked)] == asked
    assert refusal(door, "ListSteps", ClusterId=up, StepIds=["s-0000000000000"]) == (
        "InvalidRequestException",
        "Step id 's-0000000000000' is not valid.",
    )
    assert refusal(door, "ListSteps", ClusterId=up, StepIds=ids[:1], StepStates=["RUNNING"]) == (
        "InvalidRequestException",
        "Cannot specify both StepIds and StepStates.",
    )
    assert refusal(door, "ListSteps", ClusterId=up, StepIds=ids)[0] in (
        "InvalidRequestException",
        "ValidationException",
    )


def test_unknown_ids_are_refused_in_the_words_of_the_operation(door: Door, up: str) -> None:
    unknown = "j-0000000000000"
    not_valid = ("InvalidRequestException", f"Cluster id '{unknown}' is not valid.")
    assert refusal(door, "DescribeCluster", ClusterId=unknown) == not_valid
    assert refusal(door, "ListSteps", ClusterId=unknown) == not_valid
    assert refusal(door, "CancelSteps", ClusterId=unknown, StepIds=["s-0000000000000"])[0] == not_valid[0]
    assert refusal(door, "DescribeStep", ClusterId=up, StepId="s-0000000000000") == (
        "InvalidRequestException",
        "Step id 's-0000000000000' is not valid.",
    )
    assert refusal(door, "AddJobFlowSteps", JobFlowId=unknown, Steps=[step("quick")]) == (
        "ValidationException",
        "Specified job flow ID not valid",
    )


# -- the end of the cluster ------------------------------------------------------------------------------


def test_a_termination_that_names_an_unknown_cluster_ends_none(door: Door, up: str) -> None:
    code, text = refusal(door, "TerminateJobFlows", JobFlowIds=[up, "j-0000000000000"])
    assert (code, text) == ("ValidationException", "Specified job flow ID does not exist")
    assert refusal(door, "TerminateJobFlows", JobFlowIds=[])[0] == "ValidationException"
    eleven = [f"j-000000000000{n:X}" for n in range(11)]
    assert refusal(door, "TerminateJobFlows", JobFlowIds=eleven)[0] == "ValidationException"
    assert state_of(door, up) in ("RUNNING", "WAITING")


def test_a_terminated_cluster_ends_its_steps_and_takes_no_more(door: Door, cluster_id: str) -> None:
    door.until(lambda: state_of(door, cluster_id) in ("RUNNING", "WAITING"), "a cluster that is up")
    ids = add(door, cluster_id, *(step("long", str(n)) for n in range(3)))
    door.until(lambda: states_of(door, cluster_id, ids[:1]) == ["RUNNING"], "a running step")
    for _ in range(2):
        door.call("TerminateJobFlows", JobFlowIds=[cluster_id])
        assert state_of(door, cluster_id) == "TERMINATING"
        late = {"JobFlowId": cluster_id, "Steps": [step("quick")]}
        assert refusal(door, "AddJobFlowSteps", **late) == ("ValidationException", SHUTTING_DOWN)
    door.until(lambda: state_of(door, cluster_id) == "TERMINATED", "the cluster's end")
    assert set(states_of(door, cluster_id, ids)) <= {"CANCELLED", "INTERRUPTED"}
    assert refusal(door, "AddJobFlowSteps", **late) == ("ValidationException", SHUTTING_DOWN)


def test_a_cluster_that_is_over_is_still_described(door: Door, cluster_id: str) -> None:
    door.call("TerminateJobFlows", JobFlowIds=[cluster_id])
    door.until(lambda: state_of(door, cluster_id) == "TERMINATED", "the cluster's end")
    cluster = cluster_of(door, cluster_id)
    assert cluster["Name"].startswith("emr-executor-contract/")
    assert {"Key": "purpose", "Value": "contract"} in cluster["Tags"]
    assert cluster["Status"]["StateChangeReason"]["Code"] == "USER_REQUEST"
    assert "EndDateTime" in cluster["Status"]["Timeline"]
    over = door.call("ListClusters", ClusterStates=["TERMINATED"])["Clusters"]
    assert cluster_id in [each["Id"] for each in over]
    living = door.call("ListClusters", ClusterStates=["RUNNING", "WAITING", "TERMINATING"])["Clusters"]
    assert cluster_id not in [each["Id"] for each in living]

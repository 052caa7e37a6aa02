"""EMR's wire protocol, as boto3 and aiobotocore speak it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from aiobotocore.session import get_session
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.airflow_stack.emr_local_process import ReadyInfo
from tests.local.world import launch_request, step_config

ONCE = Config(retries={"total_max_attempts": 1})


@pytest.fixture
def emr(ready: ReadyInfo) -> Any:
    return boto3.client("emr", **ready.client_args(), config=ONCE)


@pytest.fixture
def cluster_id(emr: Any) -> str:
    return str(emr.run_job_flow(**launch_request(StepConcurrencyLevel=2))["JobFlowId"])


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_every_implemented_operation_answers_in_botocores_shape(emr: Any, cluster_id: str) -> None:
    emr.get_waiter("cluster_running").wait(ClusterId=cluster_id, WaiterConfig={"Delay": 1, "MaxAttempts": 5})
    assert emr.modify_cluster(ClusterId=cluster_id, StepConcurrencyLevel=3)["StepConcurrencyLevel"] == 3
    emr.set_termination_protection(JobFlowIds=[cluster_id], TerminationProtected=True)
    with pytest.raises(ClientError, match="termination protected"):
        emr.terminate_job_flows(JobFlowIds=[cluster_id])
    emr.set_keep_job_flow_alive_when_no_steps(JobFlowIds=[cluster_id], KeepJobFlowAliveWhenNoSteps=True)
    assert "AutoTerminationPolicy" not in emr.get_auto_termination_policy(ClusterId=cluster_id)
    emr.put_auto_termination_policy(ClusterId=cluster_id, AutoTerminationPolicy={"IdleTimeout": 60})
    emr.remove_auto_termination_policy(ClusterId=cluster_id)
    emr.add_tags(ResourceId=cluster_id, Tags=[{"Key": "a", "Value": "b"}])
    emr.remove_tags(ResourceId=cluster_id, TagKeys=["a"])
    assert [
        group["InstanceGroupType"]
        for group in emr.list_instance_groups(ClusterId=cluster_id)["InstanceGroups"]
    ] == ["MASTER"]
    assert len(emr.list_instances(ClusterId=cluster_id)["Instances"]) == 1
    assert emr.list_bootstrap_actions(ClusterId=cluster_id)["BootstrapActions"] == []
    assert emr.list_steps(ClusterId=cluster_id)["Steps"] == []
    with pytest.raises(ClientError, match="only supports clusters with instance fleets"):
        emr.list_instance_fleets(ClusterId=cluster_id)


def test_timestamps_are_numbers_that_botocore_reads(emr: Any, cluster_id: str) -> None:
    created = emr.describe_cluster(ClusterId=cluster_id)["Cluster"]["Status"]["Timeline"]["CreationDateTime"]
    assert abs(created.timestamp() - time.time()) < 60
    none = emr.list_clusters(CreatedBefore=datetime(2020, 1, 1, tzinfo=UTC))
    assert none["Clusters"] == []


def test_operations_that_are_not_implemented_are_4xx(emr: Any) -> None:
    with pytest.raises(ClientError) as refused:
        emr.list_studios()
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert code_of(refused) == "UnknownOperationException"


def test_enums_are_checked_with_awss_words(emr: Any, cluster_id: str) -> None:
    with pytest.raises(ClientError) as refused:
        emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step_config("a"), step_config("b", "NOPE")])
    assert code_of(refused) == "ValidationException"
    assert refused.value.response["Error"]["Message"] == (
        "1 validation error detected: Value 'NOPE' at 'steps.2.member.actionOnFailure' failed to satisfy "
        "constraint: Member must satisfy enum value set: "
        "[TERMINATE_JOB_FLOW, TERMINATE_CLUSTER, CANCEL_AND_WAIT, CONTINUE]"
    )
    assert emr.list_steps(ClusterId=cluster_id)["Steps"] == []


def test_types_are_checked_for_clients_that_do_not(ready: ReadyInfo, cluster_id: str) -> None:
    loose = boto3.client("emr", **ready.client_args(), config=Config(parameter_validation=False))
    with pytest.raises(ClientError, match="validation error") as refused:
        loose.list_steps(ClusterId=["not", "text"])
    assert code_of(refused) == "ValidationException"
    with pytest.raises(ClientError, match="Value null at 'jobFlowId'") as missing:
        loose.add_job_flow_steps(Steps=[])
    assert code_of(missing) == "ValidationException"
    with pytest.raises(ClientError, match="value less than or equal to 100") as too_much:
        loose.put_managed_scaling_policy(
            ClusterId=cluster_id, ManagedScalingPolicy={"UtilizationPerformanceIndex": 101}
        )
    assert code_of(too_much) == "ValidationException"
    with pytest.raises(ClientError, match="regular expression pattern"):
        loose.run_job_flow(Name="a\x00b", Instances={})


def test_a_throttled_call_does_nothing(emr: Any, ready: ReadyInfo) -> None:
    ready.control().throttle("RunJobFlow")
    before = len(ready.control().status()["clusters"])
    with pytest.raises(ClientError, match="Rate exceeded") as refused:
        emr.run_job_flow(**launch_request())
    assert code_of(refused) == "ThrottlingException"
    assert len(ready.control().status()["clusters"]) == before


def test_awss_buckets_throttle_a_burst(emr: Any, ready: ReadyInfo, cluster_id: str) -> None:
    ready.control().use_buckets()
    refused = 0
    for _ in range(14):
        try:
            emr.list_steps(ClusterId=cluster_id)
        except ClientError:
            refused += 1
    assert refused in (3, 4)


def test_a_dropped_answer_leaves_its_effect_and_botocores_retry_doubles_it(ready: ReadyInfo) -> None:
    once = boto3.client("emr", **ready.client_args(), config=ONCE)
    retrying = boto3.client("emr", **ready.client_args())
    control = ready.control()
    control.drop_response("RunJobFlow")
    with pytest.raises(ConnectionClosedError):
        once.run_job_flow(**launch_request(Name="dropped"))
    control.drop_response("RunJobFlow", when="before")
    with pytest.raises(ConnectionClosedError):
        once.run_job_flow(**launch_request(Name="never"))
    control.drop_response("RunJobFlow")
    retrying.run_job_flow(**launch_request(Name="doubled"))
    names = [cluster["Name"] for cluster in control.status()["clusters"]]
    assert [names.count(name) for name in ("dropped", "never", "doubled")] == [1, 0, 2]


def test_errors_and_slowness_can_be_asked_for(emr: Any, ready: ReadyInfo, cluster_id: str) -> None:
    control = ready.control()
    control.fail_calls("ListSteps", code="InternalServerException", message="oops", status=500)
    with pytest.raises(ClientError, match="oops"):
        emr.list_steps(ClusterId=cluster_id)
    control.slow("ListSteps", 0.3, count=1)
    started = time.monotonic()
    emr.list_steps(ClusterId=cluster_id)
    slow, started = time.monotonic() - started, time.monotonic()
    emr.list_steps(ClusterId=cluster_id)
    assert slow >= 0.3 > time.monotonic() - started


def test_provisioning_is_held_and_capacity_refused_by_the_control_api(emr: Any, ready: ReadyInfo) -> None:
    control = ready.control()
    control.hold_provisioning()
    cluster_id = emr.run_job_flow(**launch_request())["JobFlowId"]
    assert emr.describe_cluster(ClusterId=cluster_id)["Cluster"]["Status"]["State"] == "STARTING"
    control.finish_provisioning(cluster_id)
    assert emr.describe_cluster(ClusterId=cluster_id)["Cluster"]["Status"]["State"] == "WAITING"
    control.release_provisioning()
    control.refuse_capacity(1)
    refused = emr.run_job_flow(**launch_request())["JobFlowId"]
    status = emr.describe_cluster(ClusterId=refused)["Cluster"]["Status"]
    assert status["StateChangeReason"]["Message"] == "EC2 is out of capacity for m5.xlarge"
    assert status["ErrorDetails"][0]["ErrorCode"] == "INTERNAL_ERROR_EC2_INSUFFICIENT_CAPACITY_AZ"
    assert status["ErrorDetails"][0]["ErrorData"][0]["instance-type"] == "m5.xlarge"


def test_the_ledger_is_read_from_outside_in_parts(emr: Any, ready: ReadyInfo) -> None:
    control = ready.control()
    seen = control.ledger()[-1].seq if control.ledger() else 0
    cluster_id = emr.run_job_flow(**launch_request(Name="ledger"))["JobFlowId"]
    news = control.ledger(after=seen)
    assert [(entry.event, entry.state) for entry in news if entry.cluster_id == cluster_id] == [
        ("cluster_launched", ""),
        ("cluster_state", "STARTING"),
        ("cluster_state", "BOOTSTRAPPING"),
        ("cluster_state", "WAITING"),
    ]
    assert all(abs(entry.at - time.time()) < 60 for entry in news)


async def test_aiobotocore_speaks_the_same(ready: ReadyInfo, cluster_id: str) -> None:
    async with get_session().create_client("emr", **ready.client_args()) as emr:
        added = await emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step_config("a"), step_config("b")])
        listed = await emr.list_steps(ClusterId=cluster_id)
        assert [step["Id"] for step in listed["Steps"]] == list(reversed(added["StepIds"]))
        cancelled = await emr.cancel_steps(ClusterId=cluster_id, StepIds=added["StepIds"][1:])
        assert cancelled["CancelStepsInfoList"][0]["StepId"] == added["StepIds"][1]
        with pytest.raises(ClientError, match="is not valid"):
            await emr.describe_step(ClusterId=cluster_id, StepId="s-X")

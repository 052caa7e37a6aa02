"""What the API shows of the model's state, in boto3's shapes. Times are epoch seconds; absent is absent.

as_of: the moment whose state is shown, at or after the creation of what is shown; ``FRESH`` is now
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from emr_executor.core.states import OVER_STEP_STATES, ClusterState
from emr_executor.local.entities import (
    LIVE_CLUSTER_STATES,
    ClusterEntry,
    InstanceEntry,
    ModelOptions,
    StepEntry,
)
from emr_executor.local.requests import instance_owners

FRESH = math.inf


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping without members that are None."""
    return {key: value for key, value in values.items() if value is not None}


def cluster_arn(cluster: ClusterEntry, options: ModelOptions) -> str:
    """The ARN of a cluster."""
    return f"arn:aws:elasticmapreduce:{options.region}:{options.account_id}:cluster/{cluster.cluster_id}"


def _reason(reason: tuple[str, str]) -> dict[str, str]:
    code, message = reason
    return {key: value for key, value in (("Code", code), ("Message", message)) if value}


def _by(moment: float | None, as_of: float) -> float | None:
    return moment if moment is not None and moment <= as_of else None


def cluster_status(cluster: ClusterEntry, as_of: float = FRESH) -> dict[str, Any]:
    """ClusterStatus."""
    _, state, reason = cluster.shown_at(as_of)
    timeline = {"CreationDateTime": cluster.created_at}
    if (ready_at := _by(cluster.ready_at, as_of)) is not None:
        timeline["ReadyDateTime"] = ready_at
    if (ended_at := _by(cluster.ended_at, as_of)) is not None:
        timeline["EndDateTime"] = ended_at
    status: dict[str, Any] = {
        "State": str(state),
        "StateChangeReason": _reason(reason),
        "Timeline": timeline,
    }
    if cluster.error_details and state not in LIVE_CLUSTER_STATES:
        status["ErrorDetails"] = cluster.error_details
    return status


def cluster_summary(cluster: ClusterEntry, options: ModelOptions, as_of: float = FRESH) -> dict[str, Any]:
    """ClusterSummary, as ListClusters holds it."""
    return {
        "Id": cluster.cluster_id,
        "Name": cluster.name,
        "Status": cluster_status(cluster, as_of),
        "NormalizedInstanceHours": 0,
        "ClusterArn": cluster_arn(cluster, options),
    }


def cluster_detail(cluster: ClusterEntry, options: ModelOptions, as_of: float = FRESH) -> dict[str, Any]:
    """Cluster, as DescribeCluster holds it; only its status is ever stale."""
    request, instances = cluster.request, cluster.request["Instances"]
    provisioned = cluster.state is not ClusterState.STARTING and not cluster.launch_failure
    return cluster_summary(cluster, options, as_of) | without_none(
        {
            "Ec2InstanceAttributes": without_none(
                {
                    "Ec2KeyName": instances.get("Ec2KeyName"),
                    "Ec2SubnetId": instances.get("Ec2SubnetId"),
                    "RequestedEc2SubnetIds": instances.get("Ec2SubnetIds"),
                    "Ec2AvailabilityZone": f"{options.region}a",
                    "IamInstanceProfile": request.get("JobFlowRole"),
                    "EmrManagedMasterSecurityGroup": instances.get("EmrManagedMasterSecurityGroup"),
                    "EmrManagedSlaveSecurityGroup": instances.get("EmrManagedSlaveSecurityGroup"),
                }
            ),
            "InstanceCollectionType": "INSTANCE_FLEET" if cluster.uses_fleets else "INSTANCE_GROUP",
            "LogUri": request.get("LogUri"),
            "RequestedAmiVersion": request.get("AmiVersion"),
            "ReleaseLabel": request.get("ReleaseLabel"),
            "AutoTerminate": not cluster.keep_alive,
            "TerminationProtected": cluster.protected,
            "VisibleToAllUsers": bool(request.get("VisibleToAllUsers", True)),
            "Applications": [dict(app) for app in request.get("Applications", ())],
            "Tags": [{"Key": key, "Value": value} for key, value in cluster.tags.items()],
            "ServiceRole": request.get("ServiceRole"),
            "MasterPublicDnsName": "localhost" if provisioned else None,
            "Configurations": request.get("Configurations"),
            "SecurityConfiguration": request.get("SecurityConfiguration"),
            "AutoScalingRole": request.get("AutoScalingRole"),
            "ScaleDownBehavior": request.get("ScaleDownBehavior", "TERMINATE_AT_TASK_COMPLETION"),
            "CustomAmiId": request.get("CustomAmiId"),
            "EbsRootVolumeSize": request.get("EbsRootVolumeSize"),
            "StepConcurrencyLevel": cluster.step_concurrency,
            "OSReleaseLabel": request.get("OSReleaseLabel"),
        }
    )


def step_view(step: StepEntry, as_of: float = FRESH) -> dict[str, Any]:
    """StepSummary; Step adds only the execution role (botocore emr 2009-03-31)."""
    state = step.state_at(as_of)
    is_over = state in OVER_STEP_STATES
    timeline = {"CreationDateTime": step.created_at}
    if (started_at := _by(step.started_at, as_of)) is not None:
        timeline["StartDateTime"] = started_at
    if is_over and step.ended_at is not None:
        timeline["EndDateTime"] = step.ended_at
    said = step.reason_message if is_over else ""
    status: dict[str, Any] = {
        "State": str(state),
        "StateChangeReason": {"Message": said} if said else {},
        "Timeline": timeline,
    }
    if is_over and step.failure is not None:
        status["FailureDetails"] = step.failure
    jar_step = step.config["HadoopJarStep"]
    return {
        "Id": step.step_id,
        "Name": step.name,
        "Config": without_none(
            {
                "Jar": jar_step.get("Jar"),
                "Properties": {
                    prop["Key"]: prop.get("Value", "")
                    for prop in jar_step.get("Properties", ())
                    if "Key" in prop
                },
                "MainClass": jar_step.get("MainClass"),
                "Args": list(jar_step.get("Args", ())),
            }
        ),
        "ActionOnFailure": step.action_on_failure,
        "Status": status,
    }


def step_detail(step: StepEntry, as_of: float = FRESH) -> dict[str, Any]:
    """Step, as DescribeStep holds it."""
    return step_view(step, as_of) | without_none({"ExecutionRoleArn": step.execution_role_arn})


def instance_view(instance: InstanceEntry, *, fleet: bool) -> dict[str, Any]:
    """Instance, as ListInstances holds it."""
    return without_none(
        {
            "Id": instance.instance_id,
            "Ec2InstanceId": instance.ec2_instance_id,
            "PublicDnsName": "localhost",
            "PublicIpAddress": "127.0.0.1",
            "PrivateDnsName": "localhost",
            "PrivateIpAddress": "127.0.0.1",
            "Status": {
                "State": instance.state,
                "StateChangeReason": _reason(instance.reason or ("", "")),
                "Timeline": without_none(
                    {
                        "CreationDateTime": instance.created_at,
                        "ReadyDateTime": instance.ready_at,
                        "EndDateTime": instance.ended_at,
                    }
                ),
            },
            "InstanceFleetId" if fleet else "InstanceGroupId": instance.owner_id,
            "Market": instance.market,
            "InstanceType": instance.instance_type,
        }
    )


def _owner_state(cluster: ClusterEntry) -> str:
    if cluster.is_over:
        return "TERMINATED"
    if cluster.state is ClusterState.TERMINATING:
        return "TERMINATING"
    if cluster.ready_at is not None:
        return "RUNNING"
    return "BOOTSTRAPPING" if cluster.state is ClusterState.BOOTSTRAPPING else "PROVISIONING"


def _owner_base(cluster: ClusterEntry, owner: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Id": owner["id"],
        "Name": owner["name"],
        "Status": {
            "State": _owner_state(cluster),
            "StateChangeReason": {},
            "Timeline": without_none(
                {
                    "CreationDateTime": cluster.created_at,
                    "ReadyDateTime": cluster.ready_at,
                    "EndDateTime": cluster.ended_at,
                }
            ),
        },
    }


def _running(cluster: ClusterEntry, owner: Mapping[str, Any]) -> int:
    return sum(
        1
        for instance in cluster.instances
        if instance.owner_id == owner["id"] and instance.state == "RUNNING"
    )


def group_views(cluster: ClusterEntry) -> list[dict[str, Any]]:
    """InstanceGroups of a cluster."""
    return [
        _owner_base(cluster, owner)
        | {
            "Market": owner["market"],
            "InstanceGroupType": owner["role"],
            "InstanceType": owner["type"],
            "RequestedInstanceCount": owner["count"],
            "RunningInstanceCount": _running(cluster, owner),
        }
        for owner in instance_owners(cluster)
    ]


def fleet_views(cluster: ClusterEntry) -> list[dict[str, Any]]:
    """InstanceFleets of a cluster."""
    return [
        _owner_base(cluster, owner)
        | {
            "InstanceFleetType": owner["role"],
            "TargetOnDemandCapacity": owner["on_demand"],
            "TargetSpotCapacity": owner["spot"],
            "ProvisionedOnDemandCapacity": _running(cluster, owner) if owner["on_demand"] else 0,
            "ProvisionedSpotCapacity": 0 if owner["on_demand"] else _running(cluster, owner),
        }
        for owner in instance_owners(cluster)
    ]

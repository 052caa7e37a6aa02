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
_AS_REQUESTED = (
    *("LogUri", "ReleaseLabel", "ServiceRole", "Configurations", "SecurityConfiguration"),
    *("AutoScalingRole", "CustomAmiId", "EbsRootVolumeSize", "OSReleaseLabel"),
)
_AS_REQUESTED_OF_INSTANCES = (
    *("Ec2KeyName", "Ec2SubnetId", "EmrManagedMasterSecurityGroup", "EmrManagedSlaveSecurityGroup"),
)


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping without members that are None."""
    return {key: value for key, value in values.items() if value is not None}


def cluster_arn(cluster: ClusterEntry, options: ModelOptions) -> str:
    """The ARN of a cluster."""
    return f"arn:aws:elasticmapreduce:{options.region}:{options.account_id}:cluster/{cluster.cluster_id}"


def _reason(reason: tuple[str, str]) -> dict[str, str]:
    code, message = reason
    return {key: value for key, value in (("Code", code), ("Message", message)) if value}


def _timeline(as_of: float = FRESH, **moments: float | None) -> dict[str, float]:
    return {f"{name}DateTime": at for name, at in moments.items() if at is not None and at <= as_of}


def _own_timeline(owner: ClusterEntry | InstanceEntry, as_of: float = FRESH) -> dict[str, float]:
    return _timeline(as_of, Creation=owner.created_at, Ready=owner.ready_at, End=owner.ended_at)


def cluster_status(cluster: ClusterEntry, as_of: float = FRESH) -> dict[str, Any]:
    """ClusterStatus."""
    _, state, reason = cluster.shown_at(as_of)
    status: dict[str, Any] = {
        "State": str(state),
        "StateChangeReason": _reason(reason),
        "Timeline": _own_timeline(cluster, as_of),
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
    attributes = {
        "RequestedEc2SubnetIds": instances.get("Ec2SubnetIds"),
        "Ec2AvailabilityZone": f"{options.region}a",
        "IamInstanceProfile": request.get("JobFlowRole"),
        **{name: instances.get(name) for name in _AS_REQUESTED_OF_INSTANCES},
    }
    members = {
        "Ec2InstanceAttributes": without_none(attributes),
        "InstanceCollectionType": "INSTANCE_FLEET" if cluster.uses_fleets else "INSTANCE_GROUP",
        "RequestedAmiVersion": request.get("AmiVersion"),
        "AutoTerminate": not cluster.keep_alive,
        "TerminationProtected": cluster.protected,
        "VisibleToAllUsers": bool(request.get("VisibleToAllUsers", True)),
        "Applications": [dict(app) for app in request.get("Applications", ())],
        "Tags": [{"Key": key, "Value": value} for key, value in cluster.tags.items()],
        "MasterPublicDnsName": "localhost" if provisioned else None,
        "ScaleDownBehavior": request.get("ScaleDownBehavior", "TERMINATE_AT_TASK_COMPLETION"),
        "StepConcurrencyLevel": cluster.step_concurrency,
        **{name: request.get(name) for name in _AS_REQUESTED},
    }
    return cluster_summary(cluster, options, as_of) | without_none(members)


def step_view(step: StepEntry, as_of: float = FRESH) -> dict[str, Any]:
    """StepSummary; Step adds only the execution role (botocore emr 2009-03-31)."""
    state = step.state_at(as_of)
    is_over = state in OVER_STEP_STATES
    ended_at = step.ended_at if is_over else None
    said = step.reason_message if is_over else ""
    status: dict[str, Any] = {
        "State": str(state),
        "StateChangeReason": {"Message": said} if said else {},
        "Timeline": _timeline(as_of, Creation=step.created_at, Start=step.started_at, End=ended_at),
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
                "Timeline": _own_timeline(instance),
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
            "Timeline": _own_timeline(cluster),
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

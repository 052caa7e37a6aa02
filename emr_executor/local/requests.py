"""Reads and checks the requests of RunJobFlow and AddJobFlowSteps, with EMR's own error texts where known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from emr_executor.launch_rules import launch_problems
from emr_executor.local.entities import ClusterEntry, IdSource, InstanceEntry, ModelOptions

ACTIVE_STEP_LIMIT = 256
HADOOP_JAR_STEP_CHARACTERS = 10_240
IDLE_TIMEOUT_MAX_S = 604_800
IDLE_TIMEOUT_DEFAULT_S = 3_600
DEFAULT_INSTANCE_TYPE = "m5.xlarge"

InstanceRole = Literal["MASTER", "CORE", "TASK"]


class EmrApiError(Exception):
    """An error answer of EMR. Unmodeled codes (ValidationException) are as real as the modeled ones.

    error_code: the member ErrorCode of InvalidRequestException
    """

    def __init__(self, code: str, message: str, *, error_code: str | None = None, status: int = 400) -> None:
        self.code, self.message, self.error_code, self.status = code, message, error_code, status
        super().__init__(f"{code}: {message}")


def validation(message: str) -> EmrApiError:
    """ValidationException, which the job flow operations use."""
    return EmrApiError("ValidationException", message)


def invalid(message: str, *, error_code: str | None = None) -> EmrApiError:
    """InvalidRequestException, which the newer operations use."""
    return EmrApiError("InvalidRequestException", message, error_code=error_code)


def check_steps(steps: Sequence[Mapping[str, Any]], *, step_concurrency: int, active: int) -> None:
    """Raise unless a cluster with this level and this many active steps takes the steps, all or none."""
    for step in steps:
        action = str(step.get("ActionOnFailure") or "TERMINATE_CLUSTER")
        if step_concurrency > 1 and action != "CONTINUE":
            raise validation(f"Action on failure '{action}' is invalid.")
        jar_step = step["HadoopJarStep"]
        length = sum(map(len, _strings_of(jar_step)))
        if length > HADOOP_JAR_STEP_CHARACTERS:
            raise validation(
                f"The strings of one HadoopJarStep may hold {HADOOP_JAR_STEP_CHARACTERS} characters in all; "
                f"the step has {length}."
            )
    if active + len(steps) > ACTIVE_STEP_LIMIT:
        raise validation(
            "Maximum number of active steps(State = 'Running', 'Pending' or 'Cancel_Pending') "
            "for cluster exceeded."
        )


def check_step_concurrency(level: int) -> int:
    """The level, 1 to 256."""
    if not 1 <= level <= ACTIVE_STEP_LIMIT:
        raise validation("Invalid step concurrency level. Allowed level is from 1 to 256")
    return level


def idle_timeout_of(policy: Mapping[str, Any] | None, options: ModelOptions) -> int | None:
    """Seconds of an AutoTerminationPolicy: None without one, an hour when it names no time, as in EMR."""
    if policy is None:
        return None
    timeout_s = int(policy.get("IdleTimeout", IDLE_TIMEOUT_DEFAULT_S))
    if not options.idle_timeout_min_s <= timeout_s <= IDLE_TIMEOUT_MAX_S:
        raise invalid(
            f"IdleTimeout must be between {options.idle_timeout_min_s} and {IDLE_TIMEOUT_MAX_S} seconds."
        )
    return timeout_s


def new_cluster(
    request: Mapping[str, Any], *, ids: IdSource, now: float, options: ModelOptions
) -> ClusterEntry:
    """The cluster that a RunJobFlow request asks for, without its steps. Raises EmrApiError as EMR would."""
    if wrong := launch_problems(request):
        raise validation(wrong[0].api)
    instances = request["Instances"]
    cluster = ClusterEntry(
        cluster_id=ids.next("j-"),
        request=dict(request),
        created_at=now,
        step_concurrency=check_step_concurrency(int(request.get("StepConcurrencyLevel", 1))),
        keep_alive=bool(instances.get("KeepJobFlowAliveWhenNoSteps", False)),
        protected=bool(instances.get("TerminationProtected", False)),
        tags={tag["Key"]: tag.get("Value", "") for tag in request.get("Tags", ())},
        auto_termination_s=idle_timeout_of(request.get("AutoTerminationPolicy"), options),
    )
    check_steps(request.get("Steps", ()), step_concurrency=cluster.step_concurrency, active=0)
    cluster.instances = [
        InstanceEntry(
            instance_id=ids.next("ci-"),
            ec2_instance_id=ids.next_hex("i-"),
            role=group["role"],
            owner_id=group["id"],
            instance_type=group["type"],
            market=group["market"],
            created_at=now,
        )
        for group in instance_owners(cluster)
        for _ in range(group["count"])
    ]
    return cluster


def instance_owners(cluster: ClusterEntry) -> list[dict[str, Any]]:
    """The instance groups or fleets of a cluster: id, role, type, market, count, name; ids are stable."""
    instances = cluster.request["Instances"]
    tail = cluster.cluster_id[2:]
    owners: list[dict[str, Any]] = []
    if fleets := instances.get("InstanceFleets"):
        for index, fleet in enumerate(fleets):
            types = fleet.get("InstanceTypeConfigs") or [{}]
            on_demand, spot = fleet.get("TargetOnDemandCapacity", 0), fleet.get("TargetSpotCapacity", 0)
            role = fleet["InstanceFleetType"]
            owners.append(
                _owner(f"if-{tail}{index}", role, fleet, _instances_for(on_demand + spot, types[0]))
                | {
                    "type": types[0].get("InstanceType", DEFAULT_INSTANCE_TYPE),
                    "market": "ON_DEMAND" if on_demand else "SPOT",
                    "on_demand": on_demand,
                    "spot": spot,
                }
            )
        return owners
    for index, group in enumerate(_groups_of(instances)):
        owners.append(
            _owner(f"ig-{tail}{index}", group["InstanceRole"], group, group["InstanceCount"])
            | {"type": group["InstanceType"], "market": group.get("Market", "ON_DEMAND")}
        )
    return owners


def _instances_for(capacity: int, type_config: Mapping[str, Any]) -> int:
    """Instances of the first type until the target capacity is reached; a fleet may overshoot it."""
    return -(-capacity // max(1, int(type_config.get("WeightedCapacity", 1))))


def _owner(owner_id: str, role: InstanceRole, source: Mapping[str, Any], count: int) -> dict[str, Any]:
    return {"id": owner_id, "role": role, "name": source.get("Name", role.title()), "count": int(count)}


def _groups_of(instances: Mapping[str, Any]) -> list[dict[str, Any]]:
    if groups := instances.get("InstanceGroups"):
        return list(groups)
    master = {
        "InstanceRole": "MASTER",
        "InstanceType": instances["MasterInstanceType"],
        "InstanceCount": 1,
    }
    others = int(instances.get("InstanceCount", 1)) - 1
    if others < 1:
        return [master]
    core_type = instances.get("SlaveInstanceType", instances["MasterInstanceType"])
    return [master, {"InstanceRole": "CORE", "InstanceType": core_type, "InstanceCount": others}]


def _strings_of(jar_step: Mapping[str, Any]) -> Iterable[str]:
    yield str(jar_step.get("Jar", ""))
    yield str(jar_step.get("MainClass", ""))
    yield from map(str, jar_step.get("Args", ()))
    for prop in jar_step.get("Properties", ()):
        yield str(prop.get("Key", ""))
        yield str(prop.get("Value", ""))

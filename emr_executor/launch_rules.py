"""Why EMR would refuse to launch a RunJobFlow request: the rules that stand in its documentation only.

One check for cluster templates, doctor and emr-local. It takes any shape of a value: what ``emr_request``
finds wrong is passed over here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from emr_executor.emr_request import Place, Problem, rule, shown

BOOTSTRAP_ACTION_LIMIT = 16
STEP_CONCURRENCY_LIMIT = 256
INSTANCE_LIMIT = 2_000
"""Instances of one group or fleet (Service Quotas)."""
TAG_KEY_LIMIT, TAG_VALUE_LIMIT, TAG_LIMIT = 128, 256, 50
FORBIDDEN_IN_NAMES = frozenset("<>$|`")
"""Cluster.Name (botocore emr)."""
SPOT_TIMEOUT_MIN, SPOT_TIMEOUT_MAX = 5, 1_440
FLEET_TYPES, FLEET_TYPES_WITH_STRATEGY = 5, 30

FIRST_CONCURRENT = (5, 28)
"""StepConcurrencyLevel above 1 needs emr-5.28.0 (EMR Management Guide, "Run multiple steps in parallel")."""
_CLASSIC_LABEL = re.compile(r"^emr-(\d+)\.(\d+)")


def launch_problems(request: Mapping[str, Any]) -> list[Problem]:
    """Why EMR would refuse to launch this, beyond its model."""
    instances = _keys(request.get("Instances"))
    return [
        *_identity_problems(request),
        *_release_problems(request),
        *_tag_problems(request),
        *_machine_problems(instances),
        *_group_problems(request, instances),
        *_fleet_problems(instances),
        *_network_problems(instances),
        *_scaling_problems(request, instances),
    ]


def auto_terminates(label: Any) -> bool:
    """Whether clusters of a release can have an auto-termination policy (EMR Management Guide)."""
    release = _release(label)
    return release is None or release >= (6, 1) or (5, 30) <= release < (6, 0)


def _identity_problems(request: Mapping[str, Any]) -> Iterator[Problem]:
    if bad := sorted(FORBIDDEN_IN_NAMES & set(str(request.get("Name", "")))):
        found = " ".join(bad)
        yield rule(("Name",), f"may not contain {found}", f"The cluster name may not contain {found}")
    if not request.get("JobFlowRole"):
        yield rule(
            ("JobFlowRole",),
            "is missing: the instance profile of the cluster's machines, such as EMR_EC2_DefaultRole.",
            "InstanceProfile is required for creating cluster.",
        )
    if not request.get("ServiceRole"):
        yield rule(
            ("ServiceRole",),
            "is missing: the role that EMR itself works with, such as EMR_DefaultRole_V2.",
            "ServiceRole is required for creating cluster.",
        )
    actions = len(_entries(request.get("BootstrapActions")))
    if actions > BOOTSTRAP_ACTION_LIMIT:
        yield rule(
            ("BootstrapActions",),
            f"has {actions} entries: EMR takes at most {BOOTSTRAP_ACTION_LIMIT}.",
            f"No more than {BOOTSTRAP_ACTION_LIMIT} bootstrap actions are allowed.",
        )


def _release_problems(request: Mapping[str, Any]) -> Iterator[Problem]:
    label, level = request.get("ReleaseLabel"), request.get("StepConcurrencyLevel")
    if label is not None and request.get("AmiVersion") is not None:
        yield rule(("AmiVersion",), "and ReleaseLabel exclude each other.")
    if _is_whole(level) and not 1 <= level <= STEP_CONCURRENCY_LIMIT:
        yield rule(
            ("StepConcurrencyLevel",),
            f"is {level}: EMR takes 1 to {STEP_CONCURRENCY_LIMIT}.",
            f"Invalid step concurrency level. Allowed level is from 1 to {STEP_CONCURRENCY_LIMIT}",
        )
    release = _release(label)
    if _is_whole(level) and level > 1 and release is not None and release < FIRST_CONCURRENT:
        yield rule(("StepConcurrencyLevel",), f"{level} needs release emr-5.28.0 or later, not {label}.")
    if request.get("AutoTerminationPolicy") is not None and not auto_terminates(label):
        yield rule(
            ("AutoTerminationPolicy",), f"needs release emr-5.30.0 or emr-6.1.0 or later, not {label}."
        )


def _release(label: Any) -> tuple[int, int] | None:
    """(7, 12) of emr-7.12.0; None for labels of other lines, such as emr-spark-8.0.0: they are younger."""
    classic = _CLASSIC_LABEL.match(label) if isinstance(label, str) else None
    return (int(classic[1]), int(classic[2])) if classic else None


def _tag_problems(request: Mapping[str, Any]) -> Iterator[Problem]:
    tags = _entries(request.get("Tags"))
    if len(tags) > TAG_LIMIT:
        yield rule(("Tags",), f"has {len(tags)} entries: EMR takes at most {TAG_LIMIT}.")
    seen: set[str] = set()
    for index, tag in enumerate(tags):
        key, value = tag.get("Key"), tag.get("Value", "")
        if not isinstance(key, str) or not key:
            if key is None or key == "":
                yield rule(("Tags", index, "Key"), "is missing.", "Tag key is required.")
            continue
        if key in seen:
            yield rule(("Tags", index, "Key"), f"is {shown(key)} a second time.")
        seen.add(key)
        if len(key) > TAG_KEY_LIMIT:
            yield rule(
                ("Tags", index, "Key"), f"has {len(key)} characters: EMR takes at most {TAG_KEY_LIMIT}."
            )
        if key.lower().startswith("aws:"):
            yield rule(("Tags", index, "Key"), f"is {shown(key)}: aws: is AWS's own.")
        if isinstance(value, str) and len(value) > TAG_VALUE_LIMIT:
            yield rule(
                ("Tags", index, "Value"), f"has {len(value)} characters: EMR takes at most {TAG_VALUE_LIMIT}."
            )


def _machine_problems(instances: Mapping[str, Any]) -> Iterator[Problem]:
    flat = [key for key in ("MasterInstanceType", "SlaveInstanceType", "InstanceCount") if instances.get(key)]
    groups, fleets = bool(instances.get("InstanceGroups")), bool(instances.get("InstanceFleets"))
    if groups and fleets:
        yield rule(
            ("Instances",),
            "has InstanceFleets and InstanceGroups: EMR takes one of them.",
            "Instance groups and instance fleets are mutually exclusive.",
        )
    elif (groups or fleets) and flat:
        other = "InstanceGroups" if groups else "InstanceFleets"
        yield rule(("Instances",), f"has {other} and {' and '.join(flat)}: EMR takes one of the two ways.")
    elif not (groups or fleets or instances.get("MasterInstanceType")):
        yield rule(
            ("Instances",),
            "names no machines: set InstanceFleets, InstanceGroups, or MasterInstanceType and InstanceCount.",
            "Instances needs InstanceGroups, InstanceFleets or MasterInstanceType.",
        )
    yield from _count_problem(("Instances", "InstanceCount"), instances.get("InstanceCount", 1), least=1)
    for name, role in (("InstanceGroups", "InstanceRole"), ("InstanceFleets", "InstanceFleetType")):
        roles = [entry.get(role) for entry in _entries(instances.get(name))]
        if not roles:
            continue
        if roles.count("MASTER") != 1:
            yield rule(
                ("Instances", name),
                f"must have one entry with {role} MASTER, the primary node, not {roles.count('MASTER')}.",
                "A cluster needs exactly one MASTER instance group or fleet.",
            )
        for other in ("CORE", "TASK") if name == "InstanceFleets" else ("CORE",):
            if roles.count(other) > 1:
                yield rule(
                    ("Instances", name),
                    f"has {roles.count(other)} entries with {role} {other}: EMR takes one.",
                    f"A cluster may have only one {other} instance group or fleet.",
                )


def _group_problems(request: Mapping[str, Any], instances: Mapping[str, Any]) -> Iterator[Problem]:
    for index, group in enumerate(_entries(instances.get("InstanceGroups"))):
        where, count = ("Instances", "InstanceGroups", index), group.get("InstanceCount")
        yield from _count_problem((*where, "InstanceCount"), count, least=0 if _is_task(group) else 1)
        if group.get("InstanceRole") == "MASTER" and _is_whole(count) and count not in (1, 3):
            yield rule((*where, "InstanceCount"), f"is {count}: a cluster has 1 or 3 primary nodes.")
        if group.get("BidPrice") is not None and group.get("Market") == "ON_DEMAND":
            yield rule((*where, "BidPrice"), "and Market ON_DEMAND exclude each other.")
        if "AutoScalingPolicy" not in group:
            continue
        if not request.get("AutoScalingRole"):
            yield rule((*where, "AutoScalingPolicy"), "needs the key AutoScalingRole.")
        if request.get("ManagedScalingPolicy") is not None:
            yield rule((*where, "AutoScalingPolicy"), "and ManagedScalingPolicy exclude each other.")


def _is_task(group: Mapping[str, Any]) -> bool:
    return group.get("InstanceRole") == "TASK"


def _count_problem(path: Place, count: Any, *, least: int) -> Iterator[Problem]:
    if _is_whole(count) and not least <= count <= INSTANCE_LIMIT:
        yield rule(path, f"is {count}: EMR takes {least} to {INSTANCE_LIMIT}.")


def _fleet_problems(instances: Mapping[str, Any]) -> Iterator[Problem]:
    for index, fleet in enumerate(_entries(instances.get("InstanceFleets"))):
        where = ("Instances", "InstanceFleets", index)
        targets = [fleet.get(key, 0) for key in ("TargetOnDemandCapacity", "TargetSpotCapacity")]
        target = sum(value for value in targets if _is_whole(value))
        role, types = fleet.get("InstanceFleetType"), _entries(fleet.get("InstanceTypeConfigs"))
        if role == "MASTER" and target not in (1, 3):
            yield rule(where, f"wants {target} primary nodes: its two target capacities together must be 1.")
        if role == "CORE" and target < 1:
            yield rule(where, "wants no core node: set TargetOnDemandCapacity or TargetSpotCapacity.")
        if not types:
            yield rule((*where, "InstanceTypeConfigs"), "is missing: name at least one InstanceType.")
        weights = [weight for kind in types if _is_whole(weight := kind.get("WeightedCapacity", 1))]
        if target > INSTANCE_LIMIT * max([1, *weights]):
            yield rule(
                where, f"wants {target} units of capacity: EMR takes at most {INSTANCE_LIMIT} instances."
            )
        for number, kind in enumerate(types):
            if "BidPrice" in kind and "BidPriceAsPercentageOfOnDemandPrice" in kind:
                yield rule(
                    (*where, "InstanceTypeConfigs", number),
                    "has BidPrice and BidPriceAsPercentageOfOnDemandPrice: EMR takes one of them.",
                )
        yield from _provisioning_problems(where, fleet, types)


def _provisioning_problems(
    where: Place, fleet: Mapping[str, Any], types: Sequence[Mapping[str, Any]]
) -> Iterator[Problem]:
    specifications = _keys(fleet.get("LaunchSpecifications"))
    spot = _keys(specifications.get("SpotSpecification"))
    has_strategy = any("AllocationStrategy" in _keys(one) for one in specifications.values())
    most = FLEET_TYPES_WITH_STRATEGY if has_strategy else FLEET_TYPES
    if len(types) > most:
        hint = "" if has_strategy else f", or {FLEET_TYPES_WITH_STRATEGY} with an AllocationStrategy"
        yield rule(
            (*where, "InstanceTypeConfigs"), f"has {len(types)} entries: EMR takes at most {most}{hint}."
        )
    minutes = spot.get("TimeoutDurationMinutes")
    if _is_whole(minutes) and not SPOT_TIMEOUT_MIN <= minutes <= SPOT_TIMEOUT_MAX:
        yield rule(
            (*where, "LaunchSpecifications", "SpotSpecification", "TimeoutDurationMinutes"),
            f"is {minutes}: EMR takes {SPOT_TIMEOUT_MIN} to {SPOT_TIMEOUT_MAX}.",
        )


def _network_problems(instances: Mapping[str, Any]) -> Iterator[Problem]:
    placement = _keys(instances.get("Placement"))
    zones = [key for key in ("AvailabilityZone", "AvailabilityZones") if placement.get(key)]
    subnets = [key for key in ("Ec2SubnetId", "Ec2SubnetIds") if instances.get(key)]
    if len(subnets) > 1:
        yield rule(("Instances",), "has Ec2SubnetId and Ec2SubnetIds: EMR takes one of them.")
    if len(zones) > 1:
        yield rule(
            ("Instances", "Placement"), "has AvailabilityZone and AvailabilityZones: EMR takes one of them."
        )
    if subnets and zones:
        yield rule(
            ("Instances", "Placement", zones[0]),
            f"and Instances.{subnets[0]} exclude each other: a subnet is in one zone.",
        )
    several = instances.get("Ec2SubnetIds")
    if not instances.get("InstanceFleets"):
        if isinstance(several, list) and len(several) > 1:
            yield rule(("Instances", "Ec2SubnetIds"), "may name several subnets with InstanceFleets only.")
        if "AvailabilityZones" in zones:
            yield rule(("Instances", "Placement", "AvailabilityZones"), "needs InstanceFleets.")
    pair = ("EmrManagedMasterSecurityGroup", "EmrManagedSlaveSecurityGroup")
    given = [key for key in pair if instances.get(key)]
    if len(given) == 1:
        missing = pair[1 - pair.index(given[0])]
        yield rule(("Instances", missing), f"is missing: EMR takes it together with {given[0]} only.")


def _scaling_problems(request: Mapping[str, Any], instances: Mapping[str, Any]) -> Iterator[Problem]:
    where = ("ManagedScalingPolicy", "ComputeLimits")
    limits = _keys(_keys(request.get("ManagedScalingPolicy")).get("ComputeLimits"))
    unit, most = limits.get("UnitType"), limits.get("MaximumCapacityUnits")
    if unit in ("Instances", "VCPU") and instances.get("InstanceFleets"):
        yield rule((*where, "UnitType"), f"is {unit}: with InstanceFleets it must be InstanceFleetUnits.")
    if unit == "InstanceFleetUnits" and not instances.get("InstanceFleets"):
        yield rule((*where, "UnitType"), "is InstanceFleetUnits, but Instances has no InstanceFleets.")
    for key in ("MinimumCapacityUnits", "MaximumOnDemandCapacityUnits", "MaximumCoreCapacityUnits"):
        value = limits.get(key)
        if _is_whole(value) and _is_whole(most) and value > most:
            yield rule((*where, key), f"is {value}, more than MaximumCapacityUnits ({most}).")


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _keys(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _entries(value: Any) -> list[Mapping[str, Any]]:
    return [_keys(entry) for entry in value] if isinstance(value, list) else []

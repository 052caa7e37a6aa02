"""The operations of EMR's API on the model's state: request dict in, answer dict out, in boto3's shapes.

Who calls has checked types, required members and enums against botocore's model (the endpoint), or
builds requests in code (the simulator). What follows from the *state* is checked here, with EMR's texts.
"Job flow" operations answer an unknown id with ValidationException, the others with InvalidRequestException.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from emr_executor.launch_rules import BOOTSTRAP_ACTION_LIMIT
from emr_executor.local import views
from emr_executor.local.entities import ClusterEntry, StepEntry
from emr_executor.local.lifecycle import USER_REQUEST, Lifecycle
from emr_executor.local.requests import (
    check_step_concurrency,
    check_steps,
    idle_timeout_of,
    invalid,
    new_cluster,
    validation,
)
from emr_executor.local.views import FRESH

PAGE_SIZE = 50
"""ListClusters: 50 a page (botocore emr 2009-03-31)."""
INSTANCES_A_PAGE = 1000
"""Of ListInstances, in this model."""
STEP_IDS_LIMIT = 10
TERMINATE_LIMIT = 10
CANCEL_LIMIT = 256
SHUTTING_DOWN = "A job flow that is shutting down, terminated, or finished may not be modified."

Request = Mapping[str, Any]
Answer = dict[str, Any]
Operation = Callable[[Lifecycle, Request], Answer]
Read = Callable[[Lifecycle, Request, float], Answer]
_MARKER = re.compile(r"[0-9]{1,18}")
_LIVING = frozenset({"STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING", "TERMINATING"})


def run_job_flow(life: Lifecycle, request: Request) -> Answer:
    """Launch a cluster and queue its first steps; there is no client token, so a repeat launches another."""
    cluster = new_cluster(request, ids=life.ids, now=life.now, options=life.options)
    life.launch(cluster)
    for config in request.get("Steps", ()):
        _add_step(life, cluster, config, request.get("StepExecutionRoleArn"))
    return {"JobFlowId": cluster.cluster_id, "ClusterArn": views.cluster_arn(cluster, life.options)}


def add_job_flow_steps(life: Lifecycle, request: Request) -> Answer:
    """Queue steps, all or none."""
    cluster = _job_flow(life, request["JobFlowId"])
    if not cluster.is_live:
        raise validation(SHUTTING_DOWN)
    steps = request["Steps"]
    check_steps(steps, step_concurrency=cluster.step_concurrency, active=cluster.active_steps)
    ids = [_add_step(life, cluster, config, request.get("ExecutionRoleArn")) for config in steps]
    life.schedule(cluster)
    return {"StepIds": ids}


def list_steps(life: Lifecycle, request: Request, as_of: float = FRESH) -> Answer:
    """Steps, newest first, or in the order of StepIds."""
    cluster = _cluster(life, request["ClusterId"], as_of)
    states, ids = request.get("StepStates"), request.get("StepIds")
    if states is not None and ids is not None:
        raise invalid("Cannot specify both StepIds and StepStates.")
    if ids:
        if len(ids) > STEP_IDS_LIMIT:
            raise invalid(f"No more than {STEP_IDS_LIMIT} StepIds are allowed.")
        return {"Steps": [views.step_view(_step(cluster, step_id, as_of), as_of) for step_id in ids]}
    known = len(cluster.steps)
    while known and cluster.steps[known - 1].created_at > as_of:
        known -= 1
    # The marker is the place to go on from, counted from the oldest: steps added meanwhile shift nothing.
    oldest = max(0, known - life.options.visible_steps)
    page: list[StepEntry] = []
    position = min(_marker(request, default=known), known)
    while position > oldest and len(page) < life.options.steps_a_page:
        position -= 1
        if not states or cluster.steps[position].state_at(as_of) in states:
            page.append(cluster.steps[position])
    more = position > oldest and (
        not states or any(step.state_at(as_of) in states for step in cluster.steps[oldest:position])
    )
    answer: Answer = {"Steps": [views.step_view(step, as_of) for step in page]}
    return answer | {"Marker": str(position)} if more else answer


def describe_step(life: Lifecycle, request: Request, as_of: float = FRESH) -> Answer:
    """One step."""
    step = _step(_cluster(life, request["ClusterId"], as_of), request["StepId"], as_of)
    return {"Step": views.step_detail(step, as_of)}


def describe_cluster(life: Lifecycle, request: Request, as_of: float = FRESH) -> Answer:
    """One cluster, in every state."""
    cluster = _cluster(life, request["ClusterId"], as_of)
    return {"Cluster": views.cluster_detail(cluster, life.options, as_of)}


def list_clusters(life: Lifecycle, request: Request, as_of: float = FRESH) -> Answer:
    """Clusters, newest first; EMR promises no order."""
    states = request.get("ClusterStates")
    after, before = request.get("CreatedAfter", -FRESH), request.get("CreatedBefore", FRESH)
    # The marker is the number of the launch to go on below: launches meanwhile shift nothing.
    below = _marker(request, default=len(life.clusters) + 1)
    among = life.open_clusters() if states and _LIVING.issuperset(states) else life.clusters.values()
    page: list[ClusterEntry] = []
    more = False
    for cluster in reversed(among):
        if cluster.created_at <= after:
            break
        if cluster.number >= below or cluster.created_at > as_of or cluster.created_at >= before:
            continue
        if states and cluster.shown_at(as_of).state not in states:
            continue
        if len(page) == PAGE_SIZE:
            more = True
            break
        page.append(cluster)
    answer: Answer = {"Clusters": [views.cluster_summary(one, life.options, as_of) for one in page]}
    return answer | {"Marker": str(page[-1].number)} if more else answer


def cancel_steps(life: Lifecycle, request: Request) -> Answer:
    """Ask for the end of steps: asynchronous, idempotent; each id is answered by itself."""
    cluster = _cluster(life, request["ClusterId"])
    ids: Sequence[str] = request["StepIds"]
    if len(ids) > CANCEL_LIMIT:
        raise invalid(f"No more than {CANCEL_LIMIT} StepIds are allowed.")
    steps = [_step(cluster, step_id) for step_id in ids]
    force = request.get("StepCancellationOption") == "TERMINATE_PROCESS"
    answers = []
    for step in steps:
        if life.cancel_step(cluster, step, force=force):
            answers.append({"StepId": step.step_id, "Status": "SUBMITTED"})
        else:
            reason = f"Step {step.step_id} is in a terminal state and cannot be cancelled."
            answers.append({"StepId": step.step_id, "Status": "FAILED", "Reason": reason})
    return {"CancelStepsInfoList": answers}


def terminate_job_flows(life: Lifecycle, request: Request) -> Answer:
    """Begin to end clusters; protected ones refuse, the others of the call end nevertheless."""
    ids: Sequence[str] = request["JobFlowIds"]
    if not ids:
        raise validation("The JobFlowId list cannot be empty")
    if len(ids) > TERMINATE_LIMIT:
        raise validation(f"No more than {TERMINATE_LIMIT} job flows can be terminated in one call.")
    if len(set(ids)) < len(ids) or any(cluster_id not in life.clusters for cluster_id in ids):
        raise validation("Specified job flow ID does not exist")
    protected = False
    for cluster_id in ids:
        cluster = life.clusters[cluster_id]
        if cluster.protected and cluster.is_live:
            protected = True
        else:
            life.terminate(cluster, USER_REQUEST)
    if protected:
        raise validation("Could not shut down one or more job flows since they are termination protected.")
    return {}


def set_termination_protection(life: Lifecycle, request: Request) -> Answer:
    """Switch the protection of clusters."""
    clusters = [_job_flow(life, cluster_id) for cluster_id in request["JobFlowIds"]]
    for cluster in clusters:
        cluster.protected = bool(request["TerminationProtected"])
        life.watch_idle(cluster)
    return {}


def set_keep_job_flow_alive(life: Lifecycle, request: Request) -> Answer:
    """With False, clusters end when their steps are done; at once when there are none."""
    clusters = [_job_flow(life, cluster_id) for cluster_id in request["JobFlowIds"]]
    for cluster in clusters:
        cluster.keep_alive = bool(request["KeepJobFlowAliveWhenNoSteps"])
        life.schedule(cluster)
    return {}


def modify_cluster(life: Lifecycle, request: Request) -> Answer:
    """Set StepConcurrencyLevel; lowering it lets running steps finish."""
    cluster = _cluster(life, request["ClusterId"])
    if not cluster.is_live:
        raise invalid(SHUTTING_DOWN)
    if (level := request.get("StepConcurrencyLevel")) is not None:
        cluster.step_concurrency = check_step_concurrency(int(level))
        cluster.blocked_slots = 0
        life.schedule(cluster)
    return {"StepConcurrencyLevel": cluster.step_concurrency}


def put_auto_termination_policy(life: Lifecycle, request: Request) -> Answer:
    """Set the idle timeout; without a policy in the request, EMR's default of an hour."""
    cluster = _cluster(life, request["ClusterId"])
    if not cluster.is_live:
        raise invalid(SHUTTING_DOWN)
    _set_idle_timeout(
        life, cluster, idle_timeout_of(request.get("AutoTerminationPolicy") or {}, life.options)
    )
    return {}


def get_auto_termination_policy(life: Lifecycle, request: Request) -> Answer:
    """The idle timeout, if one is set."""
    cluster = _cluster(life, request["ClusterId"])
    if cluster.auto_termination_s is None:
        return {}
    return {"AutoTerminationPolicy": {"IdleTimeout": cluster.auto_termination_s}}


def remove_auto_termination_policy(life: Lifecycle, request: Request) -> Answer:
    """Forget the idle timeout."""
    _set_idle_timeout(life, _cluster(life, request["ClusterId"]), None)
    return {}


def add_tags(life: Lifecycle, request: Request) -> Answer:
    """Add or overwrite tags; the last writer wins."""
    cluster = _taggable(life, request)
    if not all(tag.get("Key") for tag in request["Tags"]):
        raise invalid("Every tag needs a Key.")
    cluster.tags.update({tag["Key"]: tag.get("Value", "") for tag in request["Tags"]})
    return {}


def remove_tags(life: Lifecycle, request: Request) -> Answer:
    """Remove tags; absent ones are fine."""
    cluster = _taggable(life, request)
    for key in request["TagKeys"]:
        cluster.tags.pop(key, None)
    return {}


def list_instances(life: Lifecycle, request: Request) -> Answer:
    """Instances, by state, group or fleet."""
    cluster = _cluster(life, request["ClusterId"])
    states = request.get("InstanceStates")
    roles = request.get("InstanceGroupTypes") or (
        [request["InstanceFleetType"]] if request.get("InstanceFleetType") else None
    )
    owner = request.get("InstanceGroupId") or request.get("InstanceFleetId")
    found = [
        views.instance_view(instance, fleet=cluster.uses_fleets)
        for instance in cluster.instances
        if (not states or instance.state in states)
        and (not roles or instance.role in roles)
        and (not owner or instance.owner_id == owner)
    ]
    start = _marker(request, default=0)
    page = found[start : start + INSTANCES_A_PAGE]
    marker = {"Marker": str(start + INSTANCES_A_PAGE)} if start + INSTANCES_A_PAGE < len(found) else {}
    return {"Instances": page, **marker}


def list_instance_groups(life: Lifecycle, request: Request) -> Answer:
    """Instance groups of a cluster that has them."""
    cluster = _cluster(life, request["ClusterId"])
    if cluster.uses_fleets:
        raise invalid(_wrong_list("instance fleets", "ListInstanceGroups", "instance groups"))
    return {"InstanceGroups": views.group_views(cluster)}


def list_instance_fleets(life: Lifecycle, request: Request) -> Answer:
    """Instance fleets of a cluster that has them."""
    cluster = _cluster(life, request["ClusterId"])
    if not cluster.uses_fleets:
        raise invalid(_wrong_list("instance groups", "ListInstanceFleets", "instance fleets"))
    return {"InstanceFleets": views.fleet_views(cluster)}


def list_bootstrap_actions(life: Lifecycle, request: Request) -> Answer:
    """Bootstrap actions; there are at most 16, so one page."""
    cluster = _cluster(life, request["ClusterId"])
    actions = cluster.request.get("BootstrapActions", ())[:BOOTSTRAP_ACTION_LIMIT]
    return {
        "BootstrapActions": [
            {
                "Name": action["Name"],
                "ScriptPath": action["ScriptBootstrapAction"]["Path"],
                "Args": list(action["ScriptBootstrapAction"].get("Args", ())),
            }
            for action in actions
        ]
    }


READS: dict[str, Read] = {
    "ListSteps": list_steps,
    "DescribeStep": describe_step,
    "DescribeCluster": describe_cluster,
    "ListClusters": list_clusters,
}
"""Operations whose answer may be stale."""
OPERATIONS: dict[str, Operation] = {
    "RunJobFlow": run_job_flow,
    "AddJobFlowSteps": add_job_flow_steps,
    "CancelSteps": cancel_steps,
    "TerminateJobFlows": terminate_job_flows,
    "SetTerminationProtection": set_termination_protection,
    "SetKeepJobFlowAliveWhenNoSteps": set_keep_job_flow_alive,
    "ModifyCluster": modify_cluster,
    "PutAutoTerminationPolicy": put_auto_termination_policy,
    "GetAutoTerminationPolicy": get_auto_termination_policy,
    "RemoveAutoTerminationPolicy": remove_auto_termination_policy,
    "AddTags": add_tags,
    "RemoveTags": remove_tags,
    "ListInstances": list_instances,
    "ListInstanceGroups": list_instance_groups,
    "ListInstanceFleets": list_instance_fleets,
    "ListBootstrapActions": list_bootstrap_actions,
}


def _add_step(life: Lifecycle, cluster: ClusterEntry, config: Request, role_arn: str | None) -> str:
    step = StepEntry(
        step_id=life.ids.next("s-"), config=dict(config), created_at=life.now, execution_role_arn=role_arn
    )
    life.add_step(cluster, step)
    return step.step_id


def _set_idle_timeout(life: Lifecycle, cluster: ClusterEntry, timeout_s: int | None) -> None:
    cluster.auto_termination_s = timeout_s
    life.record("auto_termination_policy", cluster, detail={"auto_termination_s": timeout_s})
    life.watch_idle(cluster)


def _cluster(life: Lifecycle, cluster_id: str, as_of: float = FRESH) -> ClusterEntry:
    cluster = life.clusters.get(cluster_id)
    if cluster is None or cluster.created_at > as_of:
        raise invalid(f"Cluster id '{cluster_id}' is not valid.", error_code="NoSuchCluster")
    return cluster


def _job_flow(life: Lifecycle, cluster_id: str) -> ClusterEntry:
    cluster = life.clusters.get(cluster_id)
    if cluster is None:
        raise validation("Specified job flow ID not valid")
    return cluster


def _step(cluster: ClusterEntry, step_id: str, as_of: float = FRESH) -> StepEntry:
    step = cluster.by_id.get(step_id)
    if step is None or step.created_at > as_of:
        raise invalid(f"Step id '{step_id}' is not valid.")
    return step


def _taggable(life: Lifecycle, request: Request) -> ClusterEntry:
    cluster = _cluster(life, request["ResourceId"])
    if cluster.is_over:
        raise invalid("Tags cannot be modified on terminated clusters.")
    return cluster


def _marker(request: Request, *, default: int) -> int:
    marker = request.get("Marker")
    if not marker:
        return default
    if not _MARKER.fullmatch(str(marker)):
        raise invalid(f"Marker '{marker}' is not valid.")
    return int(marker)


def _wrong_list(has: str, operation: str, wants: str) -> str:
    return (
        "Instance fleets and instance groups are mutually exclusive. "
        f"The EMR cluster specified in the request uses {has}. "
        f"The {operation} request only supports clusters with {wants}."
    )

"""How many clusters there should be: which are launched, drained and ended.

Demand are the READY workloads that nothing else holds back, and the steps of clusters that are ending or
lost, which will be READY again: their replacement starts while they die. What waits on a cluster that is
whole is no demand, since a launch that was made for it may find it running.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from emr_executor.core.fact_ages import Ages, Fact
from emr_executor.core.model import Cluster, ClusterPoolLimits, ClusterUuid, Snapshot, Submission, Workload
from emr_executor.core.placement import Load
from emr_executor.core.states import (
    CAPPED_CLUSTER_STATES,
    OVER_STEP_STATES,
    UP_CLUSTER_STATES,
    USABLE_CLUSTER_STATES,
    ClusterState,
    ClusterTarget,
    WorkloadState,
    WorkloadTarget,
)

END_AGAIN_S = 120.0
"""TerminateJobFlows is asked again when the cluster is still not ending after this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retarget:
    """Give a cluster another target."""

    cluster_uuid: ClusterUuid
    target: ClusterTarget
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Launch ``count`` clusters of a pool."""

    cluster_pool: str
    count: int
    why: str


def serves(cluster: Cluster) -> bool:
    """Whether the cluster may get steps, and counts as one that will."""
    return cluster.target is ClusterTarget.KEEP and cluster.quarantine is None


def dying_steps(snapshot: Snapshot, limits: Mapping[str, ClusterPoolLimits]) -> Counter[str]:
    """Steps by pool that will be READY again, since their cluster is ending or over."""
    whole = {c.cluster_uuid for c in snapshot.clusters if c.state in CAPPED_CLUSTER_STATES}
    lost = {s.workload_id: s for s in snapshot.submissions if s.cluster_uuid not in whole}
    dying: Counter[str] = Counter()
    for workload in snapshot.workloads if lost else ():
        submission = lost.get(workload.workload_id)
        pool = limits.get(workload.cluster_pool)
        if submission is None or pool is None or not workload.is_under_way:
            continue
        is_last = submission.started_at is not None and workload.losses + 1 >= pool.max_submissions
        ended = submission.wrapper_ended or submission.timed_out or submission.quarantine is not None
        if not is_last and not ended:
            dying[workload.cluster_pool] += 1
    return dying


def coming_slots(
    snapshot: Snapshot,
    limits: Mapping[str, ClusterPoolLimits],
    keep: Sequence[Cluster],
    launch: Sequence[Launch],
) -> Counter[str]:
    """Slots by pool that launches will bring, but for those of clusters that take steps already."""
    coming: Counter[str] = Counter()
    for one in launch:
        coming[one.cluster_pool] += one.count * limits[one.cluster_pool].slots
    for cluster in keep:
        is_held = cluster.state not in UP_CLUSTER_STATES and cluster.cluster_uuid in snapshot.place_held
        if cluster.state is ClusterState.INTENDED or (cluster.state in CAPPED_CLUSTER_STATES and is_held):
            coming[cluster.cluster_pool] += cluster.slots
    if len(limits) == 1:
        coming.subtract(dict.fromkeys(limits, snapshot.ready_beyond))
    return coming


def retargets(
    snapshot: Snapshot,
    limits: Mapping[str, ClusterPoolLimits],
    ages: Ages,
    dying: Collection[str],
    moving: Sequence[Workload],
) -> list[Retarget]:
    """The clusters to drain or end. An idle one stays while its pool is waited for.

    dying: pools with steps on clusters that are ending
    moving: workloads whose step is being taken back, and which keep a slot
    """
    quarantined = {s.cluster_uuid for s in snapshot.submissions if s.quarantine is not None}
    busy = {s.cluster_uuid for s in snapshot.submissions if not _is_dead_in_quarantine(s)}
    wanted_pools = {
        w.cluster_pool
        for w in snapshot.workloads
        if w.state is WorkloadState.READY and w.target is WorkloadTarget.RUN and w.quarantine is None
    }
    wanted_pools |= {*dying, *(workload.cluster_pool for workload in moving)}
    idle_left = Counter(
        c.cluster_pool for c in snapshot.clusters if c.state in USABLE_CLUSTER_STATES and serves(c)
    )
    changes = []
    for cluster in sorted(snapshot.clusters, key=lambda c: (c.idle_since or snapshot.now, c.cluster_uuid)):
        if cluster.target is ClusterTarget.END or not cluster.cluster_id or cluster.quarantine is not None:
            continue
        is_busy, pool = cluster.cluster_uuid in busy, limits.get(cluster.cluster_pool)
        target, why = ClusterTarget.DRAIN, _unfit(cluster, pool, quarantined, snapshot.stalled)
        if cluster.target is ClusterTarget.DRAIN:
            target, why = ClusterTarget.END, "" if is_busy else "drained"
        elif pool is not None and not (why or is_busy or cluster.cluster_pool in wanted_pools):
            is_spare = idle_left[cluster.cluster_pool] > pool.min_clusters
            target, why = ClusterTarget.END, _idle_too_long(cluster, pool, ages) if is_spare else ""
            idle_left[cluster.cluster_pool] -= bool(why) and cluster.state in USABLE_CLUSTER_STATES
        if why:
            changes.append(Retarget(cluster_uuid=cluster.cluster_uuid, target=target, why=why))
    return changes


def _unfit(
    cluster: Cluster,
    pool: ClusterPoolLimits | None,
    quarantined: AbstractSet[ClusterUuid],
    stalled: AbstractSet[ClusterUuid],
) -> str:
    """Why a cluster takes no more steps, or empty."""
    if cluster.cluster_uuid in quarantined:
        return "a step on it is in quarantine"
    if cluster.cluster_uuid in stalled:
        return "it starts none of its pending steps"
    if pool is None:
        return f"cluster pool {cluster.cluster_pool!r} is no longer configured"
    return "the cluster template changed" if cluster.template_hash != pool.template_hash else ""


def _idle_too_long(cluster: Cluster, pool: ClusterPoolLimits, ages: Ages) -> str:
    idle_s, limit_s = ages.of(Fact.IDLE, cluster.cluster_uuid), pool.idle_timeout_s
    if cluster.idle_since is None or not ages.passed(idle_s, limit_s):
        return ""
    return f"idle for {idle_s:.0f} s (idle_timeout {limit_s:g} s)"


def _is_dead_in_quarantine(submission: Submission) -> bool:
    """Whether EMR itself shows the step over: then nothing of it need be waited for."""
    return submission.quarantine is not None and submission.step_state in OVER_STEP_STATES


def ends_of(snapshot: Snapshot, ages: Ages) -> list[ClusterUuid]:
    """The clusters to ask TerminateJobFlows for."""
    return [
        cluster.cluster_uuid
        for cluster in snapshot.clusters
        if cluster.target is ClusterTarget.END
        and cluster.quarantine is None
        and cluster.cluster_id is not None
        and cluster.state in USABLE_CLUSTER_STATES
        and (cluster.end_asked_at is None or ages.reached(Fact.END_ASKED, cluster.cluster_uuid, END_AGAIN_S))
    ]


def launches_of(
    snapshot: Snapshot,
    limits: Mapping[str, ClusterPoolLimits],
    load: Load,
    *,
    keep: Sequence[Cluster],
    demand: Counter[str],
    dying: Counter[str],
) -> list[Launch]:
    """The clusters to launch for what is waiting (``demand``, by pool) and ``dying``.

    keep: clusters that serve, and that get no other target now
    """
    capped = [cluster for cluster in snapshot.clusters if cluster.state in CAPPED_CLUSTER_STATES]
    launches = []
    for name in sorted(set(limits) - snapshot.launch_held):
        pool = limits[name]
        kept = [c for c in keep if c.cluster_pool == name and c.state in CAPPED_CLUSTER_STATES]
        free = sum(max(0, c.slots - load.live.get(c.cluster_uuid, 0)) for c in kept)
        unserved = demand[name] + dying[name] + (snapshot.ready_beyond if len(limits) == 1 else 0) - free
        wanted = max(-(-unserved // pool.slots) if unserved > 0 else 0, pool.min_clusters - len(kept))
        # max_clusters counts every unresolved launch and every cluster that is not yet ending.
        count = min(wanted, pool.max_clusters - sum(c.cluster_pool == name for c in capped))
        if count > 0:
            why = f"{demand[name]} waiting, {free} free slots on {len(kept)} clusters"
            why += f", {dying[name]} to leave a cluster that is ending" if dying[name] else ""
            launches.append(Launch(cluster_pool=name, count=count, why=why))
    return launches

"""How many clusters there should be: which are launched, drained and ended.

Demand are the READY workloads that nothing else holds back, and the steps of clusters that are ending or
lost, which will be READY again: their replacement starts while they die. What waits on a cluster that is
whole is no demand, since a launch that was made for it may find it running.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from emr_executor.core.fact_ages import Ages, Fact
from emr_executor.core.model import Cluster, ClusterPoolLimits, ClusterUuid, Snapshot, Submission, Workload
from emr_executor.core.placement import Load
from emr_executor.core.states import (
    CAPPED_CLUSTER_STATES,
    TERMINAL_STEP_STATES,
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
        change = _retarget(
            cluster,
            ages=ages,
            limits=limits,
            busy=cluster.cluster_uuid in busy,
            unfit=_unfit(cluster, quarantined, snapshot.stalled),
            left=idle_left,
            wanted_pools=wanted_pools,
        )
        if change is not None:
            changes.append(change)
            is_up = cluster.state in USABLE_CLUSTER_STATES
            if change.target is ClusterTarget.END and cluster.target is ClusterTarget.KEEP and is_up:
                idle_left[cluster.cluster_pool] -= 1
    return changes


def _unfit(
    cluster: Cluster, quarantined: AbstractSet[ClusterUuid], stalled: AbstractSet[ClusterUuid]
) -> str | None:
    """Why a cluster takes no more steps for a fault of its own, or None."""
    if cluster.cluster_uuid in quarantined:
        return "a step on it is in quarantine"
    return "it starts none of its pending steps" if cluster.cluster_uuid in stalled else None


def _retarget(
    cluster: Cluster,
    *,
    ages: Ages,
    limits: Mapping[str, ClusterPoolLimits],
    busy: bool,
    unfit: str | None,
    left: Mapping[str, int],
    wanted_pools: AbstractSet[str],
) -> Retarget | None:
    if cluster.target is ClusterTarget.END or cluster.cluster_id is None or cluster.quarantine is not None:
        return None
    if cluster.target is ClusterTarget.DRAIN:
        if busy:
            return None
        return Retarget(cluster_uuid=cluster.cluster_uuid, target=ClusterTarget.END, why="drained")
    if unfit:
        return Retarget(cluster_uuid=cluster.cluster_uuid, target=ClusterTarget.DRAIN, why=unfit)
    pool = limits.get(cluster.cluster_pool)
    if pool is None:
        why = f"cluster pool {cluster.cluster_pool!r} is no longer configured"
        return Retarget(cluster_uuid=cluster.cluster_uuid, target=ClusterTarget.DRAIN, why=why)
    if cluster.template_hash != pool.template_hash:
        why = "the cluster template changed"
        return Retarget(cluster_uuid=cluster.cluster_uuid, target=ClusterTarget.DRAIN, why=why)
    if busy or cluster.idle_since is None or cluster.cluster_pool in wanted_pools:
        return None
    if left[cluster.cluster_pool] <= pool.min_clusters:
        return None
    if not ages.reached(Fact.IDLE, cluster.cluster_uuid, pool.idle_timeout_s):
        return None
    idle_s = ages.of(Fact.IDLE, cluster.cluster_uuid)
    why = f"idle for {idle_s:.0f} s (idle_timeout {pool.idle_timeout_s:g} s)"
    return Retarget(cluster_uuid=cluster.cluster_uuid, target=ClusterTarget.END, why=why)


def _is_dead_in_quarantine(submission: Submission) -> bool:
    """Whether EMR itself shows the step over: then nothing of it need be waited for."""
    return submission.quarantine is not None and submission.step_state in TERMINAL_STEP_STATES


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
    demand: Counter[str],
    dying: Counter[str],
    changed: AbstractSet[ClusterUuid],
) -> list[Launch]:
    """The clusters to launch for what is waiting (``demand``, by pool) and ``dying``.

    changed: clusters that get another target now
    """
    clusters: dict[str, list[Cluster]] = defaultdict(list)
    for cluster in snapshot.clusters:
        if cluster.state in CAPPED_CLUSTER_STATES:
            clusters[cluster.cluster_pool].append(cluster)
    launches = []
    for name in sorted(set(limits) - snapshot.launch_held):
        pool = limits[name]
        keep = [c for c in clusters[name] if serves(c) and c.cluster_uuid not in changed]
        free = sum(max(0, c.slots - load.live.get(c.cluster_uuid, 0)) for c in keep)
        unserved = demand[name] + dying[name] + (snapshot.ready_beyond if len(limits) == 1 else 0) - free
        wanted = max(-(-unserved // pool.slots) if unserved > 0 else 0, pool.min_clusters - len(keep))
        # max_clusters counts every unresolved launch and every cluster that is not yet ending.
        count = min(wanted, pool.max_clusters - len(clusters[name]))
        if count > 0:
            why = f"{demand[name]} waiting, {free} free slots on {len(keep)} clusters"
            why += f", {dying[name]} to leave a cluster that is ending" if dying[name] else ""
            launches.append(Launch(cluster_pool=name, count=count, why=why))
    return launches

"""``place``: which ready workload goes to which cluster, and why the rest wait.

Order: priority_weight, then age. Best fit: the fullest cluster that still has a free slot, so
that idle clusters can go; clusters that are up before those still starting (EMR accepts steps
from STARTING on). When every slot is taken, up to ``prefetch`` more steps are put on each
cluster that is up, so that a slot that frees never waits for a call of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from emr_executor.core.model import (
    Cluster,
    ClusterPoolLimits,
    ClusterUuid,
    Workload,
    WorkloadId,
)
from emr_executor.core.states import USABLE_CLUSTER_STATES, ClusterState

ACTIVE_STEPS_KEPT_FREE = 16
"""Room under EMR's 256 active steps a cluster for system steps and for those being cancelled."""
ACTIVE_STEP_LIMIT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Workloads to put on one cluster, in order, in one AddJobFlowSteps call."""

    cluster_uuid: ClusterUuid
    workload_ids: tuple[WorkloadId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Why a READY workload waits; the text has no moving numbers, so it is told once."""

    workload_id: WorkloadId
    why: str


@dataclass(slots=True)
class _Room:
    cluster: Cluster
    live: int
    slots: int
    ceiling: int
    up: bool
    held: bool
    taken: list[WorkloadId]


def place(
    ready: Sequence[Workload],
    clusters: Sequence[Cluster],
    live_on: Mapping[ClusterUuid, int],
    limits: Mapping[str, ClusterPoolLimits],
    *,
    blocked: Mapping[WorkloadId, str],
    held: AbstractSet[ClusterUuid],
    now: datetime,
) -> tuple[tuple[Placement, ...], tuple[Waiting, ...]]:
    """Placements by cluster and the reason of every workload that is left.

    blocked: workloads that must not be placed now, and why
    held: clusters that just took no steps: they have no room for a moment
    """
    usable = [cluster for cluster in clusters if _usable(cluster, limits)]
    rooms = [_room(cluster, live_on, limits, held=cluster.cluster_uuid in held) for cluster in usable]
    by_pool: dict[str, list[_Room]] = {}
    for room in rooms:
        by_pool.setdefault(room.cluster.cluster_pool, []).append(room)
    waiting = []
    full: set[str] = set()
    for workload in sorted(ready, key=lambda w: (-w.priority_weight, w.accepted_at, w.workload_id)):
        pool_rooms = by_pool.get(workload.cluster_pool, [])
        if workload.workload_id in blocked:
            waiting.append(Waiting(workload_id=workload.workload_id, why=blocked[workload.workload_id]))
            continue
        if workload.not_before is not None and workload.not_before > now:
            waiting.append(Waiting(workload_id=workload.workload_id, why="it was held back for a moment"))
            continue
        best = None if workload.cluster_pool in full else _best(pool_rooms)
        if best is None:
            full.add(workload.cluster_pool)
            waiting.append(Waiting(workload_id=workload.workload_id, why=_why_full(pool_rooms)))
            continue
        best.taken.append(workload.workload_id)
        best.live += 1
    placements = tuple(
        Placement(cluster_uuid=room.cluster.cluster_uuid, workload_ids=tuple(room.taken))
        for room in rooms
        if room.taken
    )
    return placements, tuple(waiting)


def _usable(cluster: Cluster, limits: Mapping[str, ClusterPoolLimits]) -> bool:
    known = cluster.cluster_id is not None and cluster.cluster_pool in limits
    return known and cluster.state in USABLE_CLUSTER_STATES


def _room(
    cluster: Cluster,
    live_on: Mapping[ClusterUuid, int],
    limits: Mapping[str, ClusterPoolLimits],
    *,
    held: bool,
) -> _Room:
    up = cluster.state in (ClusterState.RUNNING, ClusterState.WAITING)
    prefetch = limits[cluster.cluster_pool].prefetch if up else 0
    ceiling = 0 if held else min(cluster.slots + prefetch, ACTIVE_STEP_LIMIT - ACTIVE_STEPS_KEPT_FREE)
    return _Room(
        cluster=cluster,
        live=live_on.get(cluster.cluster_uuid, 0),
        slots=min(cluster.slots, ceiling),
        ceiling=ceiling,
        up=up,
        held=held,
        taken=[],
    )


def _best(rooms: Sequence[_Room]) -> _Room | None:
    with_slot = [room for room in rooms if room.live < room.slots]
    if with_slot:
        return min(with_slot, key=lambda r: (not r.up, r.slots - r.live, r.cluster.cluster_uuid))
    with_queue = [room for room in rooms if room.live < room.ceiling]
    if with_queue:
        return min(with_queue, key=lambda r: (r.live - r.slots, r.cluster.cluster_uuid))
    return None


def _why_full(rooms: Sequence[_Room]) -> str:
    if not rooms:
        return "no cluster of its pool is up yet"
    if any(room.held for room in rooms):
        return "EMR takes no new steps for the moment"
    return "every slot of its pool is taken"

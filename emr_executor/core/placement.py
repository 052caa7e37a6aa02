"""``place``: which ready workload goes to which cluster, and why the rest wait.

Order: priority_weight, then age. Best fit: the fullest cluster that still has a free slot, so
that idle clusters can go; clusters that are up before those still starting (EMR accepts steps
from STARTING on). When every slot is taken, and none comes with a launch, up to ``prefetch`` more
steps are put on each cluster that is up, so that a slot that frees never waits for a call of ours.

Nobody waits for a step behind others to be added, so such steps are gathered: they go along with
a step that gets a slot, or ``STEPS_A_CALL`` at a time, or when the queue on the cluster may run
empty before the next call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from emr_executor.config import EMR_ACTIVE_STEP_LIMIT
from emr_executor.core.model import (
    Cluster,
    ClusterPoolLimits,
    ClusterUuid,
    Workload,
    WorkloadId,
)
from emr_executor.core.states import UP_CLUSTER_STATES, USABLE_CLUSTER_STATES

ACTIVE_STEPS_KEPT_FREE = 16
"""Room under EMR's 256 active steps a cluster for system steps and for those being cancelled."""
STEPS_A_CALL = 8
"""AddJobFlowSteps refills one call in two seconds, for all clusters of the account and region."""
PACE_S = 10.0
"""A full cluster begins as many steps as it ends: what began in this time tells how long its queue lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Workloads to put on one cluster, in order, in one AddJobFlowSteps call."""

    cluster_uuid: ClusterUuid
    workload_ids: tuple[WorkloadId, ...]


class WaitKind(StrEnum):
    """Why the plan leaves a READY workload where it is."""

    OTHER_TRY = "OTHER_TRY"
    """Another try of its task has a live step."""
    LATER_TRY = "LATER_TRY"
    """A later try of its task waits too."""
    HELD_BACK = "HELD_BACK"
    """EMR refused its step just now."""
    FULL = "FULL"
    """No cluster of its pool has a slot for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A READY workload that the plan places nowhere."""

    workload_id: WorkloadId
    kind: WaitKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What ``place`` found.

    spare: the clusters that are up and have slots left that nobody takes, with their number, best fit first
    """

    placements: tuple[Placement, ...]
    waiting: tuple[Waiting, ...]
    spare: tuple[tuple[Cluster, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the live submissions of the clusters amount to, by cluster.

    live: how many there are
    begun: how many of them began within ``PACE_S``
    """

    live: Mapping[ClusterUuid, int]
    begun: Mapping[ClusterUuid, int]


@dataclass(slots=True)
class _Room:
    cluster: Cluster
    live: int
    begun: int
    slots: int
    ceiling: int
    up: bool
    taken: list[WorkloadId]

    def take(self, workload: Workload) -> None:
        self.taken.append(workload.workload_id)
        self.live += 1

    @property
    def may_wait(self) -> bool:
        """Whether its queue outlasts the time to the next call, and it gets none now."""
        return not self.taken and self.live - self.slots > max(1, self.begun)


def place(
    ready: Sequence[Workload],
    clusters: Sequence[Cluster],
    load: Load,
    limits: Mapping[str, ClusterPoolLimits],
    *,
    blocked: Mapping[WorkloadId, WaitKind],
    held: AbstractSet[ClusterUuid],
    resting: AbstractSet[WorkloadId],
    coming: Mapping[str, int],
    moving: Sequence[Workload] = (),
) -> Placed:
    """Placements by cluster and the reason of every workload that is left.

    blocked: workloads that must not be placed now, and why
    resting: workloads that must not be placed yet, since EMR refused their step just now
    held: clusters that just took no steps: they have no room for a moment
    coming: slots that launches bring, by pool; no one is put behind others who will get one
    moving: workloads whose step is being taken back from behind others: each keeps a slot for itself
    """
    usable = [cluster for cluster in clusters if _usable(cluster, limits)]
    rooms = [_room(cluster, load, limits, held=cluster.cluster_uuid in held) for cluster in usable]
    by_pool: dict[str, list[_Room]] = {}
    for room in rooms:
        by_pool.setdefault(room.cluster.cluster_pool, []).append(room)
    waiting = []
    unserved: dict[str, list[Workload]] = {}
    kept = {workload.workload_id for workload in moving}
    for workload in sorted((*ready, *moving), key=turn):
        if workload.workload_id in kept:
            if slot := _with_slot(by_pool.get(workload.cluster_pool, ())):
                slot.live += 1
        elif workload.workload_id in blocked:
            waiting.append(Waiting(workload_id=workload.workload_id, kind=blocked[workload.workload_id]))
        elif workload.workload_id in resting:
            waiting.append(Waiting(workload_id=workload.workload_id, kind=WaitKind.HELD_BACK))
        elif workload.cluster_pool in unserved:
            unserved[workload.cluster_pool].append(workload)
        elif slot := _with_slot(by_pool.get(workload.cluster_pool, ())):
            slot.take(workload)
        else:
            unserved[workload.cluster_pool] = [workload]
    for pool, left in unserved.items():
        pool_rooms = by_pool.get(pool, [])
        queued = _queue(pool_rooms, left[: max(0, len(left) - coming.get(pool, 0))])
        waiting += [
            Waiting(workload_id=workload.workload_id, kind=WaitKind.FULL)
            for workload in left
            if workload.workload_id not in queued
        ]
    return Placed(
        placements=tuple(
            Placement(cluster_uuid=room.cluster.cluster_uuid, workload_ids=tuple(room.taken))
            for room in rooms
            if room.taken
        ),
        waiting=tuple(waiting),
        spare=tuple(
            (room.cluster, room.slots - room.live)
            for room in sorted(rooms, key=_fit)
            if room.up and room.live < room.slots
        ),
    )


def turn(workload: Workload) -> tuple[int, datetime, WorkloadId]:
    """The order in which workloads are placed, and their steps added."""
    return -workload.priority_weight, workload.accepted_at, workload.workload_id


def _usable(cluster: Cluster, limits: Mapping[str, ClusterPoolLimits]) -> bool:
    known = cluster.cluster_id is not None and cluster.cluster_pool in limits
    return known and cluster.state in USABLE_CLUSTER_STATES


def _room(cluster: Cluster, load: Load, limits: Mapping[str, ClusterPoolLimits], *, held: bool) -> _Room:
    up = cluster.state in UP_CLUSTER_STATES
    prefetch = limits[cluster.cluster_pool].prefetch if up else 0
    ceiling = 0 if held else min(cluster.slots + prefetch, EMR_ACTIVE_STEP_LIMIT - ACTIVE_STEPS_KEPT_FREE)
    return _Room(
        cluster=cluster,
        live=load.live.get(cluster.cluster_uuid, 0),
        begun=load.begun.get(cluster.cluster_uuid, 0),
        slots=min(cluster.slots, ceiling),
        ceiling=ceiling,
        up=up,
        taken=[],
    )


def _fit(room: _Room) -> tuple[bool, int, ClusterUuid]:
    return not room.up, room.slots - room.live, room.cluster.cluster_uuid


def _with_slot(rooms: Iterable[_Room]) -> _Room | None:
    return min((room for room in rooms if room.live < room.slots), key=_fit, default=None)


def _queue(rooms: Sequence[_Room], left: Sequence[Workload]) -> set[WorkloadId]:
    """Put workloads behind others, in the order given; those that found a place."""
    now = [room for room in rooms if room.live < room.ceiling and not room.may_wait]
    later = [room for room in rooms if room.live < room.ceiling and room.may_wait]
    turns = list(left)
    found: set[WorkloadId] = set()
    while turns and now:
        best = min(now, key=lambda room: (room.live - room.slots, room.cluster.cluster_uuid))
        best.take(turns[0])
        found.add(turns.pop(0).workload_id)
        now = [room for room in now if room.live < room.ceiling]
    for room in later:
        count = min(len(turns), room.ceiling - room.live)
        if count >= STEPS_A_CALL:
            for workload in turns[:count]:
                room.take(workload)
            found.update(workload.workload_id for workload in turns[:count])
            del turns[:count]
    return found

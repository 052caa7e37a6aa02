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

from collections import defaultdict, deque
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
class _FreeSlots:
    """What one cluster has left to give: slots, and behind them places in its queue.

    left: slots that are free; below 0, as many steps wait
    places: how many more steps it may get, with slots or behind others
    """

    cluster: Cluster
    left: int
    places: int
    begun: int
    is_up: bool
    taken: list[WorkloadId]

    def take(self, workload: Workload) -> None:
        self.taken.append(workload.workload_id)
        self.left -= 1
        self.places -= 1

    @property
    def may_wait(self) -> bool:
        """Whether its queue outlasts the time to the next call, and it gets none now."""
        return not self.taken and -self.left > max(1, self.begun)

    @property
    def fit(self) -> tuple[bool, int, ClusterUuid]:
        return not self.is_up, self.left, self.cluster.cluster_uuid


def place(
    ready: Sequence[Workload],
    clusters: Sequence[Cluster],
    load: Load,
    limits: Mapping[str, ClusterPoolLimits],
    *,
    blocked: Mapping[WorkloadId, WaitKind],
    held: AbstractSet[ClusterUuid],
    coming: Mapping[str, int],
    moving: Sequence[Workload] = (),
) -> Placed:
    """Placements by cluster and the reason of every workload that is left.

    blocked: workloads that must not be placed now, and why
    held: clusters that just took no steps: they have nothing to give for a moment
    coming: slots that launches bring, by pool; no one is put behind others who will get one
    moving: workloads whose step is being taken back from behind others: each keeps a slot for itself
    """
    slots = [
        _free_slots(cluster, load, limits[cluster.cluster_pool], is_held=cluster.cluster_uuid in held)
        for cluster in clusters
        if cluster.cluster_id and cluster.cluster_pool in limits and cluster.state in USABLE_CLUSTER_STATES
    ]
    by_pool: defaultdict[str, list[_FreeSlots]] = defaultdict(list)
    for one in slots:
        by_pool[one.cluster.cluster_pool].append(one)
    waiting = []
    unserved: dict[str, list[Workload]] = {}
    kept = {workload.workload_id for workload in moving}
    for workload in sorted((*ready, *moving), key=turn):
        if workload.workload_id in kept:
            if slot := _with_slot(by_pool[workload.cluster_pool]):
                slot.left -= 1
                slot.places -= 1
        elif workload.workload_id in blocked:
            waiting.append(Waiting(workload_id=workload.workload_id, kind=blocked[workload.workload_id]))
        elif workload.cluster_pool in unserved:
            unserved[workload.cluster_pool].append(workload)
        elif slot := _with_slot(by_pool[workload.cluster_pool]):
            slot.take(workload)
        else:
            unserved[workload.cluster_pool] = [workload]
    for pool, left in unserved.items():
        _queue(by_pool[pool], left[: max(0, len(left) - coming.get(pool, 0))])
    placed = {workload_id for one in slots for workload_id in one.taken}
    waiting += [
        Waiting(workload_id=workload.workload_id, kind=WaitKind.FULL)
        for left in unserved.values()
        for workload in left
        if workload.workload_id not in placed
    ]
    return Placed(
        placements=tuple(
            Placement(cluster_uuid=one.cluster.cluster_uuid, workload_ids=tuple(one.taken))
            for one in slots
            if one.taken
        ),
        waiting=tuple(waiting),
        spare=tuple(
            (one.cluster, one.left)
            for one in sorted(slots, key=lambda one: one.fit)
            if one.is_up and one.left > 0
        ),
    )


def turn(workload: Workload) -> tuple[int, datetime, WorkloadId]:
    """The order in which workloads are placed, and their steps added."""
    return -workload.priority_weight, workload.accepted_at, workload.workload_id


def _free_slots(cluster: Cluster, load: Load, pool: ClusterPoolLimits, *, is_held: bool) -> _FreeSlots:
    is_up, live = cluster.state in UP_CLUSTER_STATES, load.live.get(cluster.cluster_uuid, 0)
    most = cluster.slots + (pool.prefetch if is_up else 0)
    most = 0 if is_held else min(most, EMR_ACTIVE_STEP_LIMIT - ACTIVE_STEPS_KEPT_FREE)
    return _FreeSlots(
        cluster=cluster,
        left=min(cluster.slots, most) - live,
        places=most - live,
        begun=load.begun.get(cluster.cluster_uuid, 0),
        is_up=is_up,
        taken=[],
    )


def _with_slot(slots: Iterable[_FreeSlots]) -> _FreeSlots | None:
    return min((one for one in slots if one.left > 0), key=lambda one: one.fit, default=None)


def _queue(slots: Sequence[_FreeSlots], left: Sequence[Workload]) -> None:
    """Put workloads behind others, in the order given, as far as there are places."""
    now = [one for one in slots if one.places > 0 and not one.may_wait]
    later = [one for one in slots if one.places > 0 and one.may_wait]
    turns = deque(left)
    while turns and now:
        shortest = min(now, key=lambda one: (-one.left, one.cluster.cluster_uuid))
        shortest.take(turns.popleft())
        now = [one for one in now if one.places > 0]
    for one in later:
        count = min(len(turns), one.places)
        if count >= STEPS_A_CALL:
            for _ in range(count):
                one.take(turns.popleft())

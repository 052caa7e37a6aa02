"""``plan(snapshot, limits) -> Plan``: everything that should be done now, decided in one place.

A pure function of the snapshot, its time included. The plan of a state to which the plan was
applied is empty. Nothing here acts: the agent writes each intent first and then acts on it.

**Quarantine.** Nothing is decided on a quarantined row, and what it may hide counts as alive: a
cluster counts against ``max_clusters`` and gets no step; a submission holds its workload, and its
cluster takes no more steps, so that it comes to an end and the submission with it. A workload
waits for nothing and gets nothing, until Airflow does not want it any more: then it is cancelled
like any other, as soon as no submission of it lives.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

from emr_executor.core.ages import Ages, Fact
from emr_executor.core.model import (
    AllTries,
    Cluster,
    ClusterPoolLimits,
    ClusterUuid,
    Snapshot,
    Submission,
    SubmissionId,
    Workload,
    WorkloadId,
)
from emr_executor.core.placement import Placement, Waiting, place
from emr_executor.core.states import (
    CAPPED_CLUSTER_STATES,
    TERMINAL_STEP_STATES,
    USABLE_CLUSTER_STATES,
    ClusterTarget,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)

CANCEL_AGAIN_S = 60.0
"""CancelSteps gives no guarantee (botocore emr, CancelSteps): it is asked again after this."""
END_AGAIN_S = 120.0
"""TerminateJobFlows is asked again when the cluster is still not ending after this."""
DEADLINE_GRACE_S = 60.0
"""The wrapper ends its step at the deadline; the agent steps in when it did not by then."""

_NOTHING_ALIVE = frozenset({WorkloadState.ACCEPTED, WorkloadState.READY, WorkloadState.FINISHABLE})
"""No phase is alive in these states and no submission should be: a cancelled workload is over at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Ask EMR to cancel one submission's step."""

    submission_id: SubmissionId
    why: str
    timed_out: bool = False


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What should be done now; each field is a set of its own.

    launch: clusters to start
    place: workloads to put on clusters
    cancel: steps to cancel
    retarget: clusters to drain or end
    end: clusters to terminate in EMR (target END, nothing alive that must be waited for)
    drop: workloads to be cancelled of which nothing is alive
    expire: READY workloads beyond their pool's queue_timeout
    waiting: why each other READY workload waits
    """

    launch: tuple[Launch, ...] = ()
    place: tuple[Placement, ...] = ()
    cancel: tuple[Cancel, ...] = ()
    retarget: tuple[Retarget, ...] = ()
    end: tuple[ClusterUuid, ...] = ()
    drop: tuple[WorkloadId, ...] = ()
    expire: tuple[WorkloadId, ...] = ()
    waiting: tuple[Waiting, ...] = field(default=())

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done; waiting is not doing."""
        return not (
            self.launch or self.place or self.cancel or self.retarget or self.end or self.drop or self.expire
        )


def plan(snapshot: Snapshot, limits: Mapping[str, ClusterPoolLimits], ages: Ages) -> Plan:
    """Everything that should be done now. ``limits`` by cluster pool name."""
    live_on = Counter(submission.cluster_uuid for submission in snapshot.submissions)
    retarget = tuple(_retargets(snapshot, limits, ages))
    changed = {change.cluster_uuid for change in retarget}
    ready = [w for w in snapshot.workloads if w.state is WorkloadState.READY and w.quarantine is None]
    riding = {submission.workload_id for submission in snapshot.submissions}
    drop = tuple(w.workload_id for w in snapshot.workloads if _can_drop(w) and w.workload_id not in riding)
    expire = tuple(w.workload_id for w in ready if _expired(w, snapshot, limits))
    gone = {*drop, *expire}
    wanting = [w for w in ready if w.workload_id not in gone]
    keep = [c for c in snapshot.clusters if _serves(c) and c.cluster_uuid not in changed]
    blocked = _other_tries(snapshot, wanting)
    unblocked = [w for w in wanting if w.workload_id not in blocked]
    placements, waiting = place(
        wanting,
        keep,
        live_on,
        limits,
        blocked=blocked,
        held=snapshot.place_held,
        now=snapshot.now,
    )
    return Plan(
        launch=tuple(_launches(snapshot, limits, live_on, unblocked, changed)),
        place=placements,
        cancel=tuple(_cancels(snapshot, limits, ages)),
        retarget=retarget,
        end=tuple(_ends(snapshot, ages)),
        drop=drop,
        expire=expire,
        waiting=waiting,
    )


def _can_drop(workload: Workload) -> bool:
    if workload.target is not WorkloadTarget.CANCEL:
        return False
    # Whose submission has ended without a word to a quarantined workload, that is SUBMITTED still.
    quarantined = workload.quarantine is not None and workload.state is WorkloadState.SUBMITTED
    return quarantined or workload.state in _NOTHING_ALIVE


def _serves(cluster: Cluster) -> bool:
    return cluster.target is ClusterTarget.KEEP and cluster.quarantine is None


def _expired(workload: Workload, snapshot: Snapshot, limits: Mapping[str, ClusterPoolLimits]) -> bool:
    pool = limits.get(workload.cluster_pool)
    if workload.target is WorkloadTarget.CANCEL or pool is None or pool.queue_timeout_s is None:
        return False
    since = workload.ready_at or workload.accepted_at
    return (snapshot.now - since).total_seconds() > pool.queue_timeout_s


def _other_tries(snapshot: Snapshot, wanting: Sequence[Workload]) -> dict[WorkloadId, str]:
    """Workloads that wait for another try of their task, and why.

    Each try of a task has a workload of its own, and Airflow may have begun the next one long before we
    hear that the last one is over. While a step of one try may be alive, no other gets one; and where
    several wait, only the last try can be wanted.
    """
    if not wanting:
        return {}
    riding: defaultdict[AllTries, set[WorkloadId]] = defaultdict(set)
    live = {submission.workload_id for submission in snapshot.submissions}
    for workload in snapshot.workloads:
        if workload.workload_id in live:
            riding[workload.key.without_try].add(workload.workload_id)
    last: dict[AllTries, Workload] = {}
    for workload in wanting:
        key = workload.key.without_try
        last[key] = max(last.get(key, workload), workload, key=_try_order)
    why: dict[WorkloadId, str] = {}
    for workload in wanting:
        key = workload.key.without_try
        if riding.get(key, set()) - {workload.workload_id}:
            why[workload.workload_id] = "another try of this task still has a live step"
        elif last[key] is not workload:
            why[workload.workload_id] = "a later try of this task waits too"
    return why


def _try_order(workload: Workload) -> tuple[int, datetime, WorkloadId]:
    return workload.key.try_number, workload.accepted_at, workload.workload_id


def _cancels(snapshot: Snapshot, limits: Mapping[str, ClusterPoolLimits], ages: Ages) -> list[Cancel]:
    workloads = {workload.workload_id: workload for workload in snapshot.workloads}
    cancels = []
    for submission in snapshot.submissions:
        if submission.step_id is None or not _may_ask(submission, ages):
            continue
        workload = workloads.get(submission.workload_id)
        if workload is None:
            continue
        if workload.target is WorkloadTarget.CANCEL:
            why = workload.cancel_reason or "no longer wanted"
            cancels.append(Cancel(submission_id=submission.submission_id, why=why))
        elif workload.quarantine is not None:
            continue
        elif _overdue(submission, workload, ages):
            cancels.append(
                Cancel(submission_id=submission.submission_id, why="execution_timeout", timed_out=True)
            )
        elif submission.state is SubmissionState.PENDING and _expired(workload, snapshot, limits):
            # Cancelled it is READY again, as late as it was, and expires.
            cancels.append(Cancel(submission_id=submission.submission_id, why="queue_timeout"))
        elif submission.state is SubmissionState.PENDING and submission.cluster_uuid in snapshot.stalled:
            why = "its cluster starts no step; it will run elsewhere"
            cancels.append(Cancel(submission_id=submission.submission_id, why=why))
    return cancels


def _may_ask(submission: Submission, ages: Ages) -> bool:
    if submission.quarantine is not None:
        return False
    if submission.state not in (SubmissionState.PENDING, SubmissionState.RUNNING):
        return False
    asked = submission.cancel_asked_at is not None
    return not asked or ages.of(Fact.CANCEL_ASKED, submission.submission_id) > CANCEL_AGAIN_S


def _overdue(submission: Submission, workload: Workload, ages: Ages) -> bool:
    timeout_s = workload.step.execution_timeout_s if workload.step else None
    if timeout_s is None or submission.started_at is None or submission.ended_at is not None:
        return False
    return ages.of(Fact.RUNNING, submission.submission_id) > timeout_s + DEADLINE_GRACE_S


def _retargets(snapshot: Snapshot, limits: Mapping[str, ClusterPoolLimits], ages: Ages) -> list[Retarget]:
    haunted = {s.cluster_uuid for s in snapshot.submissions if s.quarantine is not None}
    busy = {s.cluster_uuid for s in snapshot.submissions if not _is_dead_in_quarantine(s)}
    wanted_pools = {
        w.cluster_pool
        for w in snapshot.workloads
        if w.state is WorkloadState.READY and w.target is WorkloadTarget.RUN and w.quarantine is None
    }
    idle_left = Counter(
        c.cluster_pool for c in snapshot.clusters if c.state in USABLE_CLUSTER_STATES and _serves(c)
    )
    changes = []
    for cluster in sorted(snapshot.clusters, key=lambda c: (c.idle_since or snapshot.now, c.cluster_uuid)):
        change = _retarget(
            cluster,
            ages=ages,
            limits=limits,
            busy=cluster.cluster_uuid in busy,
            unfit=_unfit(cluster, haunted, snapshot.stalled),
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
    cluster: Cluster, haunted: AbstractSet[ClusterUuid], stalled: AbstractSet[ClusterUuid]
) -> str | None:
    """Why a cluster takes no more steps for a fault of its own, or None."""
    if cluster.cluster_uuid in haunted:
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
    idle_s = ages.of(Fact.IDLE, cluster.cluster_uuid)
    if idle_s < pool.idle_timeout_s or left[cluster.cluster_pool] <= pool.min_clusters:
        return None
    why = f"idle for {idle_s:.0f} s (idle_timeout {pool.idle_timeout_s:g} s)"
    return Retarget(cluster_uuid=cluster.cluster_uuid, target=ClusterTarget.END, why=why)


def _is_dead_in_quarantine(submission: Submission) -> bool:
    """Whether EMR itself shows the step over: then nothing of it need be waited for."""
    return submission.quarantine is not None and submission.step_state in TERMINAL_STEP_STATES


def _ends(snapshot: Snapshot, ages: Ages) -> list[ClusterUuid]:
    return [
        cluster.cluster_uuid
        for cluster in snapshot.clusters
        if cluster.target is ClusterTarget.END
        and cluster.quarantine is None
        and cluster.cluster_id is not None
        and cluster.state in USABLE_CLUSTER_STATES
        and (cluster.end_asked_at is None or ages.of(Fact.END_ASKED, cluster.cluster_uuid) > END_AGAIN_S)
    ]


def _launches(
    snapshot: Snapshot,
    limits: Mapping[str, ClusterPoolLimits],
    live_on: Mapping[ClusterUuid, int],
    wanting: Sequence[Workload],
    changed: set[ClusterUuid],
) -> list[Launch]:
    demand = Counter(workload.cluster_pool for workload in wanting)
    clusters: dict[str, list[Cluster]] = defaultdict(list)
    for cluster in snapshot.clusters:
        if cluster.state in CAPPED_CLUSTER_STATES:
            clusters[cluster.cluster_pool].append(cluster)
    launches = []
    for name in sorted(set(limits) - snapshot.launch_held):
        pool = limits[name]
        keep = [c for c in clusters[name] if _serves(c) and c.cluster_uuid not in changed]
        free = sum(max(0, c.slots - live_on.get(c.cluster_uuid, 0)) for c in keep)
        unserved = demand[name] + (snapshot.ready_beyond if len(limits) == 1 else 0) - free
        wanted = max(-(-unserved // pool.slots) if unserved > 0 else 0, pool.min_clusters - len(keep))
        # max_clusters counts every unresolved launch and every cluster that is not yet ending.
        count = min(wanted, pool.max_clusters - len(clusters[name]))
        if count > 0:
            why = f"{demand[name]} waiting, {free} free slots on {len(keep)} clusters"
            launches.append(Launch(cluster_pool=name, count=count, why=why))
    return launches

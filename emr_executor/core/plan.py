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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from emr_executor.core.fact_ages import Ages, Fact
from emr_executor.core.model import (
    AllTries,
    ClusterPoolLimits,
    ClusterUuid,
    Snapshot,
    Submission,
    SubmissionId,
    Workload,
    WorkloadId,
)
from emr_executor.core.moving import Move, moves
from emr_executor.core.placement import PACE_S, Load, Placement, Waiting, WaitKind, place
from emr_executor.core.scaling import (
    Launch,
    Retarget,
    coming_slots,
    dying_steps,
    ends_of,
    launches_of,
    retargets,
    serves,
)
from emr_executor.core.states import (
    STEPLESS_WORKLOAD_STATES,
    StepState,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)

CANCEL_AGAIN_S = 60.0
"""CancelSteps gives no guarantee (botocore emr, CancelSteps): it is asked again after this."""
KEEP_SLOT_S = 30.0
"""A slot is kept for a step that is being cancelled this long; EMR may not cancel it at all."""
DEADLINE_GRACE_S = 60.0
"""The wrapper ends its step at the deadline; the agent steps in when it did not by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Ask EMR to cancel one submission's step."""

    submission_id: SubmissionId
    why: str
    timed_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What should be done now; each field is a set of its own.

    launch: clusters to start
    place: workloads to put on clusters
    cancel: steps to cancel
    move: steps to be taken back from behind others, since a slot is free elsewhere
    poll: clusters whose steps have to be polled before one of them can be taken back
    runs_on: submissions that began before they could be cancelled, and that go on
    retarget: clusters to drain or end
    end: clusters to terminate in EMR (target END, nothing alive that must be waited for)
    drop: workloads to be cancelled of which nothing is alive
    expire: READY workloads beyond their pool's queue_timeout
    waiting: why each other READY workload waits
    """

    launch: tuple[Launch, ...] = ()
    place: tuple[Placement, ...] = ()
    cancel: tuple[Cancel, ...] = ()
    move: tuple[Move, ...] = ()
    poll: frozenset[ClusterUuid] = frozenset()
    runs_on: tuple[SubmissionId, ...] = ()
    retarget: tuple[Retarget, ...] = ()
    end: tuple[ClusterUuid, ...] = ()
    drop: tuple[WorkloadId, ...] = ()
    expire: tuple[WorkloadId, ...] = ()
    waiting: tuple[Waiting, ...] = field(default=())

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done; waiting and polling is not doing."""
        return self == Plan(waiting=self.waiting, poll=self.poll)


def plan(snapshot: Snapshot, limits: Mapping[str, ClusterPoolLimits], ages: Ages) -> Plan:
    """Everything that should be done now. ``limits`` by cluster pool name."""
    load = _load(snapshot, ages)
    dying = dying_steps(snapshot, limits)
    wanted = {w.workload_id: w for w in snapshot.workloads if w.is_under_way}
    moving = [
        wanted[one.workload_id]
        for one in snapshot.submissions
        if one.workload_id in wanted and _is_leaving(one, ages, KEEP_SLOT_S)
    ]
    retarget = tuple(retargets(snapshot, limits, ages, dying, moving))
    changed = {change.cluster_uuid for change in retarget}
    ready = [w for w in snapshot.workloads if w.state is WorkloadState.READY and w.quarantine is None]
    riding = {submission.workload_id for submission in snapshot.submissions}
    drop = tuple(w.workload_id for w in snapshot.workloads if _can_drop(w) and w.workload_id not in riding)
    expire = tuple(w.workload_id for w in ready if _expired(w, snapshot, limits, ages))
    gone = {*drop, *expire}
    wanting = [w for w in ready if w.workload_id not in gone]
    keep = [c for c in snapshot.clusters if serves(c) and c.cluster_uuid not in changed]
    blocked = _other_tries(snapshot, wanting)
    unblocked = [w for w in wanting if w.workload_id not in blocked]
    demand = Counter(workload.cluster_pool for workload in unblocked)
    resting = [w.workload_id for w in wanting if _rests(w, snapshot, ages)]
    launch = tuple(launches_of(snapshot, limits, load, keep=keep, demand=demand, dying=dying))
    placed = place(
        wanting,
        keep,
        load,
        limits,
        blocked=dict.fromkeys(resting, WaitKind.HELD_BACK) | blocked,
        held=snapshot.place_held,
        coming=coming_slots(snapshot, limits, keep, launch),
        moving=moving,
    )
    cancel, poll = _cancels(snapshot, limits, ages)
    going = {one.submission_id for one in snapshot.submissions if _is_leaving(one, ages, CANCEL_AGAIN_S)}
    move, poll_too = moves(
        snapshot.clusters,
        snapshot.submissions,
        wanted,
        placed.spare,
        load,
        going=going | {one.submission_id for one in cancel},
        shown=snapshot.shown,
    )
    return Plan(
        launch=launch,
        place=placed.placements,
        cancel=cancel,
        move=move,
        poll=poll | poll_too,
        runs_on=tuple(s.submission_id for s in snapshot.submissions if _runs_on(s, snapshot, wanted, ages)),
        retarget=retarget,
        end=tuple(ends_of(snapshot, ages)),
        drop=drop,
        expire=expire,
        waiting=placed.waiting,
    )


def culprit(snapshot: Snapshot, limits: Mapping[str, ClusterPoolLimits], ages: Ages) -> Workload | None:
    """The workload that keeps ``plan`` from an answer; None: leaving out no single one gives it."""
    suspects = snapshot.workloads
    while suspects:
        half = suspects[: (len(suspects) + 1) // 2]
        left = tuple(one for one in snapshot.workloads if one not in half)
        try:
            plan(replace(snapshot, workloads=left), limits, ages)
        except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
            suspects = suspects[len(half) :]
        else:
            if len(half) == 1:
                return half[0]
            suspects = half
    return None


def _load(snapshot: Snapshot, ages: Ages) -> Load:
    return Load(
        live=Counter(submission.cluster_uuid for submission in snapshot.submissions),
        begun=Counter(
            submission.cluster_uuid
            for submission in snapshot.submissions
            if submission.started_at is not None
            and not ages.reached(Fact.RUNNING, submission.submission_id, PACE_S)
        ),
    )


def _is_leaving(submission: Submission, ages: Ages, within_s: float) -> bool:
    """Whether its step, which has not begun, was asked to be cancelled within that time."""
    if submission.cancel_asked_at is None or submission.state is not SubmissionState.PENDING:
        return False
    return not ages.reached(Fact.CANCEL_ASKED, submission.submission_id, within_s)


def _runs_on(submission: Submission, snapshot: Snapshot, wanted: Collection[WorkloadId], ages: Ages) -> bool:
    """Whether it began before it was cancelled, and EMR lets it run."""
    if submission.cancel_asked_at is None or submission.timed_out or submission.quarantine is not None:
        return False
    key = submission.submission_id
    is_shown = key in snapshot.shown and submission.step_state is StepState.RUNNING
    was_let = all(ages.reached(fact, key, CANCEL_AGAIN_S) for fact in (Fact.CANCEL_ASKED, Fact.RUNNING))
    return is_shown and submission.workload_id in wanted and was_let


def _can_drop(workload: Workload) -> bool:
    if workload.target is not WorkloadTarget.CANCEL:
        return False
    # Whose submission has ended without a word to a quarantined workload, that is SUBMITTED still.
    quarantined = workload.quarantine is not None and workload.state is WorkloadState.SUBMITTED
    return quarantined or workload.state in STEPLESS_WORKLOAD_STATES


def _rests(workload: Workload, snapshot: Snapshot, ages: Ages) -> bool:
    """Whether it must not be placed yet."""
    if workload.not_before is None:
        return False
    return not ages.passed((snapshot.now - workload.not_before).total_seconds(), 0.0)


def _expired(
    workload: Workload, snapshot: Snapshot, limits: Mapping[str, ClusterPoolLimits], ages: Ages
) -> bool:
    pool = limits.get(workload.cluster_pool)
    if workload.target is WorkloadTarget.CANCEL or pool is None or pool.queue_timeout_s is None:
        return False
    since = workload.ready_at or workload.accepted_at
    return ages.passed((snapshot.now - since).total_seconds(), pool.queue_timeout_s)


def _other_tries(snapshot: Snapshot, wanting: Sequence[Workload]) -> dict[WorkloadId, WaitKind]:
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
    why: dict[WorkloadId, WaitKind] = {}
    for workload in wanting:
        key = workload.key.without_try
        if riding.get(key, set()) - {workload.workload_id}:
            why[workload.workload_id] = WaitKind.OTHER_TRY
        elif last[key] is not workload:
            why[workload.workload_id] = WaitKind.LATER_TRY
    return why


def _try_order(workload: Workload) -> tuple[int, datetime, WorkloadId]:
    return workload.key.try_number, workload.accepted_at, workload.workload_id


def _cancels(
    snapshot: Snapshot, limits: Mapping[str, ClusterPoolLimits], ages: Ages
) -> tuple[tuple[Cancel, ...], frozenset[ClusterUuid]]:
    """What to cancel, and the clusters to poll first: what began meanwhile is not to be touched."""
    workloads = {workload.workload_id: workload for workload in snapshot.workloads}
    cancels = []
    poll = set()
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
        elif submission.state is SubmissionState.PENDING and (
            why := _waits_in_vain(submission, workload, snapshot, limits, ages)
        ):
            if submission.submission_id in snapshot.shown:
                cancels.append(Cancel(submission_id=submission.submission_id, why=why))
            else:
                poll.add(submission.cluster_uuid)
    return tuple(cancels), frozenset(poll)


def _waits_in_vain(
    submission: Submission,
    workload: Workload,
    snapshot: Snapshot,
    limits: Mapping[str, ClusterPoolLimits],
    ages: Ages,
) -> str:
    if _expired(workload, snapshot, limits, ages):
        # Cancelled it is READY again, with its place in the queue, and expires.
        return "queue_timeout"
    is_stalled = submission.cluster_uuid in snapshot.stalled
    return "its cluster starts no step; it will run elsewhere" if is_stalled else ""


def _may_ask(submission: Submission, ages: Ages) -> bool:
    if submission.quarantine is not None:
        return False
    if submission.state not in (SubmissionState.PENDING, SubmissionState.RUNNING):
        return False
    asked = submission.cancel_asked_at is not None
    return not asked or ages.reached(Fact.CANCEL_ASKED, submission.submission_id, CANCEL_AGAIN_S)


def _overdue(submission: Submission, workload: Workload, ages: Ages) -> bool:
    timeout_s = workload.step.execution_timeout_s if workload.step else None
    if timeout_s is None or submission.started_at is None or submission.ended_at is not None:
        return False
    return ages.reached(Fact.RUNNING, submission.submission_id, timeout_s + DEADLINE_GRACE_S)

"""Why a task waits: one sentence for its log, for ``airflow emr explain`` and for ``status``.

What waits is a READY workload that the plan places nowhere, and a submission that EMR has and whose step
does not run, or whose end is not believed yet; ``core.waiting_in_line`` has the others. Each gets one reason:
what is, why, and until when. A reason's ``news`` says whether it was told before: numbers and times that move
are no part of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from emr_executor.core.fact_ages import Ages, Fact
from emr_executor.core.model import (
    Cluster,
    ClusterId,
    ClusterPoolLimits,
    ClusterUuid,
    Snapshot,
    Submission,
    SubmissionId,
    WorkloadId,
)
from emr_executor.core.placement import WaitKind
from emr_executor.core.plan import Plan
from emr_executor.core.scaling import serves
from emr_executor.core.states import (
    CAPPED_CLUSTER_STATES,
    OVER_CLUSTER_STATES,
    OVER_STEP_STATES,
    UP_CLUSTER_STATES,
    USABLE_CLUSTER_STATES,
    ClusterState,
    StepState,
    SubmissionState,
)
from emr_executor.core.workload import spoken_duration

QUIET_S = 10.0
"""What goes on within this time is not called waiting."""
SILENT_WRAPPER_S = 60.0
"""A wrapper writes its first record as soon as it begins."""
STARTING_S = 60.0
"""A step that stands on a cluster that is not up for so long says so again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Something that is not asked of EMR for now.

    why: EMR's own words, or what happened
    until: when it is asked again
    longest_s: how long such a hold becomes when EMR says the same again and again
    may_be_done: EMR may have done what it was asked, and that is looked for first
    """

    why: str
    until: datetime
    longest_s: float
    may_be_done: bool = False

    @property
    def again(self) -> str:
        """When it is asked again, for people."""
        rarely = spoken_duration(self.longest_s)
        return f"the next try is at {at_clock(self.until)}, then ever more rarely, at least every {rarely}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """What one agent does not ask of EMR for now: its memory, told to others so that they say the same.

    away: what is out of reach, so that nothing is launched or placed
    launch: by cluster pool, after launches that came to nothing
    place: by cluster, after AddJobFlowSteps that EMR did not take
    budget_until: when AddJobFlowSteps may be called again by the agent's own count
    not_ended: what TerminateJobFlows answered, of clusters that it did not end
    """

    away: str | None = None
    launch: Mapping[str, Hold] = field(default_factory=dict)
    place: Mapping[ClusterUuid, Hold] = field(default_factory=dict)
    budget_until: datetime | None = None
    not_ended: Mapping[ClusterId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a workload waits.

    news: the same as long as there is nothing new; None: something else has told it
    is_trouble: somebody should look at it
    """

    workload_id: WorkloadId
    why: str
    news: Hashable = None
    is_trouble: bool = False


def at_clock(moment: datetime) -> str:
    """A moment of today as it stands in sentences."""
    return f"{moment.astimezone(UTC):%H:%M:%S} UTC"


def reasons(
    snapshot: Snapshot,
    decided: Plan,
    limits: Mapping[str, ClusterPoolLimits],
    ages: Ages,
    holds: Holds,
    *,
    loss_hold_s: float,
    records_unseen_s: float = 0.0,
) -> Iterator[Reason]:
    """The reason of everything that waits, after ``decided`` is done.

    records_unseen_s: how long ago wrappers' records could last be read
    """
    yield from _of_ready(snapshot, decided, limits, holds)
    yield from _of_steps(snapshot, ages, loss_hold_s, records_unseen_s)


# -- what waits for a slot ---------------------------------------------------------------------------


def _of_ready(
    snapshot: Snapshot, decided: Plan, limits: Mapping[str, ClusterPoolLimits], holds: Holds
) -> Iterator[Reason]:
    if not decided.waiting:
        return
    workloads = {workload.workload_id: workload for workload in snapshot.workloads}
    launching = {one.cluster_pool for one in decided.launch}
    pools: dict[str, tuple[str, Hashable, bool]] = {}
    for one in decided.waiting:
        workload = workloads[one.workload_id]
        match one.kind:
            case WaitKind.FULL:
                pool = workload.cluster_pool
                if pool not in pools:
                    pools[pool] = _why_full(pool, snapshot, launching, limits, holds)
                why, news, is_trouble = pools[pool]
                # Waiting again after a loss is news.
                told = (news, workload.losses)
                yield Reason(workload_id=one.workload_id, why=why, news=told, is_trouble=is_trouble)
            case WaitKind.HELD_BACK:
                until = at_clock(workload.not_before or snapshot.now)
                why = f"EMR refused its step; it is asked again at {until}"
                yield Reason(workload_id=one.workload_id, why=why)
            case _:
                yield Reason(workload_id=one.workload_id, why=_FOR_ANOTHER_TRY[one.kind], news=one.kind)


_FOR_ANOTHER_TRY = {
    WaitKind.OTHER_TRY: "another try of this task still has a live step; it starts when that is over",
    WaitKind.LATER_TRY: "a later try of this task waits too, and only that one is started",
}


def _why_full(
    pool: str,
    snapshot: Snapshot,
    launching: set[str],
    limits: Mapping[str, ClusterPoolLimits],
    holds: Holds,
) -> tuple[str, Hashable, bool]:
    """The sentence, its news, and whether it is trouble."""
    if holds.away:
        return f"{holds.away}: nothing is launched or placed until that is over", ("away", holds.away), True
    if pool not in limits:
        return f"the cluster pool {pool!r} is no longer configured", "no pool", True
    clusters = [cluster for cluster in snapshot.clusters if cluster.cluster_pool == pool]
    usable = [c for c in clusters if serves(c) and c.cluster_id and c.state in USABLE_CLUSTER_STATES]
    live = Counter(submission.cluster_uuid for submission in snapshot.submissions)
    free = [cluster for cluster in usable if live[cluster.cluster_uuid] < cluster.slots]
    if free and holds.budget_until is not None:
        why = "a slot is free, and as many steps were added as EMR takes (AddJobFlowSteps, by our own count)"
        return f"{why}; the next call is at {at_clock(holds.budget_until)}", "budget", False
    for cluster in free:
        if hold := holds.place.get(cluster.cluster_uuid):
            why = f"EMR takes no steps for {cluster.cluster_id}: {clause(hold.why)}; {hold.again}"
            return why, ("place", _gist(hold.why)), True
    head = "no cluster of its pool is up yet"
    if usable:
        slots = sum(cluster.slots for cluster in usable)
        head = f"every slot of its pool is taken ({slots} on {_counted(len(usable), 'cluster')})"
    capped = [cluster for cluster in clusters if cluster.state in CAPPED_CLUSTER_STATES]
    hold = holds.launch.get(pool)
    if any(cluster.state is ClusterState.INTENDED for cluster in capped) or pool in launching:
        if hold is not None and hold.may_be_done:
            why = f"{head}; {clause(hold.why)}: if EMR does not show the cluster by {at_clock(hold.until)}"
            return f"{why}, it is asked for again", ("may be done", bool(usable)), False
        return f"{head}; a cluster is being launched", ("launching", bool(usable)), False
    if hold is not None:
        why = f"{head}, and the last launch failed: {clause(hold.why)}; {hold.again}"
        return why, ("launch", _gist(hold.why)), True
    most = limits[pool].max_clusters
    if len(capped) >= most:
        leaving = sum(not serves(cluster) for cluster in capped)
        drained = f", {leaving} of them draining" if leaving else ""
        cap = f"max_clusters is reached ({len(capped)} of {most}{drained})"
        return f"{head}; {cap}", ("cap", bool(usable)), False
    return head, ("full", bool(usable)), False


# -- what stands on a cluster ------------------------------------------------------------------------


def _of_steps(
    snapshot: Snapshot, ages: Ages, loss_hold_s: float, records_unseen_s: float
) -> Iterator[Reason]:
    quiet = [s for s in snapshot.submissions if not _goes_on(s)]
    if not quiet:
        return
    clusters = {cluster.cluster_uuid: cluster for cluster in snapshot.clusters}
    wanted = {workload.workload_id: workload for workload in snapshot.workloads if workload.is_under_way}
    ahead = _ahead(snapshot.submissions, {submission.cluster_uuid for submission in quiet})
    for submission in quiet:
        cluster, workload = clusters.get(submission.cluster_uuid), wanted.get(submission.workload_id)
        if cluster is None or workload is None or submission.quarantine is not None:
            continue
        held_s = max(0.0, loss_hold_s - ages.of(Fact.ENDED, submission.submission_id))
        held_until = snapshot.now + timedelta(seconds=held_s)
        kind, why = _why_step(submission, cluster, ages, now=snapshot.now, held_until=held_until, ahead=ahead)
        is_silent = kind == "silent"
        if kind and not (is_silent and records_unseen_s >= SILENT_WRAPPER_S / 2):
            news = (kind, submission.submission_id)
            yield Reason(workload_id=submission.workload_id, why=why, news=news, is_trouble=is_silent)


def _goes_on(submission: Submission) -> bool:
    """Whether its step runs, as its wrapper says."""
    runs = submission.state is SubmissionState.RUNNING and submission.record_mark is not None
    return runs and submission.ended_at is None and submission.step_state not in OVER_STEP_STATES


Ahead = Mapping[SubmissionId, tuple[int, datetime | None]]


def _ahead(submissions: Sequence[Submission], on: set[ClusterUuid]) -> Ahead:
    """Of each PENDING step how many of its cluster come before it, and since when the first of them runs."""
    by_cluster: defaultdict[ClusterUuid, list[Submission]] = defaultdict(list)
    for submission in submissions:
        if submission.cluster_uuid in on and submission.state is not SubmissionState.INTENDED:
            by_cluster[submission.cluster_uuid].append(submission)
    found: dict[SubmissionId, tuple[int, datetime | None]] = {}
    for steps in by_cluster.values():
        running = [one for one in steps if one.state is SubmissionState.RUNNING]
        first = min((one.started_at for one in running if one.started_at is not None), default=None)
        pending = [one for one in steps if one.state is SubmissionState.PENDING]
        pending.sort(key=lambda one: (one.submitted_at or one.intended_at, one.submission_id))
        for before, one in enumerate(pending, len(running)):
            found[one.submission_id] = (before, first)
    return found


def _why_step(
    submission: Submission,
    cluster: Cluster,
    ages: Ages,
    *,
    now: datetime,
    held_until: datetime,
    ahead: Ahead,
) -> tuple[str, str]:
    """The kind and the sentence; both empty when it does not wait."""
    on = f"cluster {cluster.cluster_id or '(launching)'}"
    if cluster.state in OVER_CLUSTER_STATES:
        return "last word", f"{on} is over; EMR's last list of its steps is awaited, then it goes on"
    if cluster.state is ClusterState.TERMINATING:
        return "ending", f"{on} is TERMINATING; the step runs elsewhere when it is over, unless it ended"
    if submission.ended_at is not None or submission.step_state in OVER_STEP_STATES:
        return _why_held(submission, on, held_until)
    if submission.cancel_asked_at is not None:
        return "cancelling", f"CancelSteps was asked for its step on {on}"
    since_s = (now - (submission.submitted_at or submission.intended_at)).total_seconds()
    match submission.state:
        case SubmissionState.INTENDED if ages.passed(since_s, QUIET_S):
            text = f"no answer yet whether {on} has the step: it is looked for by its name, then added again"
            return "unanswered", text
        case SubmissionState.PENDING if cluster.state not in UP_CLUSTER_STATES:
            if ages.passed(since_s, STARTING_S):
                return "starting", f"queued on {on}, which is {cluster.state}"
        case SubmissionState.PENDING if ages.passed(since_s, QUIET_S):
            before, first = ahead.get(submission.submission_id, (0, None))
            if not before:
                return "not started", f"EMR has not started the step, which is first on {on}"
            runs = f"; the longest runs for {spoken_duration((now - first).total_seconds())}" if first else ""
            return "behind", f"behind {_counted(before, 'step')} on {on}{runs}"
        case SubmissionState.RUNNING if _is_silent(submission, now, ages):
            return "silent", (
                f"EMR shows the step RUNNING on {on} and its wrapper has written nothing for a minute: the "
                "cluster's instance profile probably cannot write staging_uri"
            )
    return "", ""


def _is_silent(submission: Submission, now: datetime, ages: Ages) -> bool:
    if submission.step_state is not StepState.RUNNING or submission.record_mark is not None:
        return False
    started_at = submission.started_at
    return started_at is not None and ages.passed((now - started_at).total_seconds(), SILENT_WRAPPER_S)


def _why_held(submission: Submission, on: str, held_until: datetime) -> tuple[str, str]:
    if submission.wrapper_ended and submission.wrapper_reason != "terminated":
        return "", ""
    return "held", (
        f"its step on {on} is {submission.step_state or 'over'} without its wrapper's final record, as steps "
        f"are of a cluster that is being lost: held at least until {at_clock(held_until)} (loss_hold), and "
        "run elsewhere if the cluster ends by then"
    )


def _gist(text: str) -> str:
    """What of somebody's words is news when it changes: ids, numbers and times are not."""
    return " ".join(word for word in text.split() if not any(map(str.isdigit, word)))


def clause(text: str) -> str:
    """Somebody else's sentence within one of ours."""
    return text.rstrip(". ")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

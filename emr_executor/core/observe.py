"""What an observation changes: pure functions from news and a row to the row after it.

News comes late, doubled and out of order (S3 listings, ListSteps pages, ListClusters). They are
therefore monotone: applying the same or older news again changes nothing, and an end that was
seen is never unseen. None decides anything; ``core.settle`` and ``core.plan`` do. The answer
of a call is news that comes once (``launched``, ``added``). All ask ``core.transitions`` and raise
InvalidTransition for what it does not have.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from emr_executor.core.cause import cause_of
from emr_executor.core.model import (
    Cluster,
    ClusterId,
    ObservedCluster,
    ObservedStep,
    StepId,
    StepRecord,
    Submission,
)
from emr_executor.core.states import (
    OVER_CLUSTER_STATES,
    OVER_STEP_STATES,
    UP_CLUSTER_STATES,
    ClusterState,
    ClusterTarget,
    RecordPhase,
    StepState,
    SubmissionState,
)
from emr_executor.core.transitions import (
    CLUSTER,
    SHOWN,
    SUBMISSION,
    ClusterEvent,
    SubmissionEvent,
    apply_observation,
    transition,
)
from emr_executor.errors import InvalidTransition


def added(submission: Submission, step_id: StepId, *, now: datetime) -> Submission:
    """The submission after AddJobFlowSteps gave its step."""
    return replace(
        submission,
        state=_transition(submission, SubmissionEvent.ADDED),
        step_state=StepState.PENDING,
        step_id=step_id,
        submitted_at=submission.submitted_at or now,
    )


def sent_again(submission: Submission, *, now: datetime) -> Submission:
    """The submission whose call is made once more: what became of the last one is not known."""
    after = submission.intended_at + timedelta(microseconds=1)
    return replace(
        submission,
        submitted_at=submission.submitted_at or submission.intended_at,
        intended_at=max(now, after),
    )


def held_by(submission: Submission, step_id: StepId, *, now: datetime) -> Submission:
    """The submission whose claim another step of a doubled call holds than the one known so far."""
    return replace(
        submission,
        step_id=step_id,
        step_state=None,
        started_at=submission.started_at or now,
        ended_at=None,
        cause="" if submission.cancel_asked_at is None else submission.cause,
    )


def not_begun(submission: Submission, why: str) -> Submission:
    """The submission whose step is over, and whose command never ran: nobody ever held its claim."""
    return replace(submission, wrapper_ended=True, wrapper_reason="not_begun", cause=why)


def not_added(submission: Submission, why: str, *, now: datetime) -> Submission:
    """The submission of which EMR certainly has no step."""
    state = _transition(submission, SubmissionEvent.NEVER_ADDED)
    return replace(submission, state=state, cause=why, ended_at=now)


def observe_step(submission: Submission, shown: ObservedStep, *, now: datetime) -> Submission:
    """The submission after ListSteps showed its step.

    Where a request was doubled, the step shown may be another than the one known so far, and alive or
    COMPLETED after all. Of a step that is over, start and end are both EMR's, or both the wrapper's.
    """
    if not submission.is_live:
        return submission
    is_bad_end = shown.state in OVER_STEP_STATES and shown.state is not StepState.COMPLETED
    if submission.step_id not in (None, shown.step_id):
        # EMR has the step twice, and it is the other one that tells how it goes (``step_poll.one_of``).
        if is_bad_end:
            return submission
        ended_at = submission.ended_at if submission.wrapper_ended else None
        submission = replace(submission, step_id=shown.step_id, step_state=shown.state, ended_at=ended_at)
    known_over = submission.step_state in OVER_STEP_STATES
    step_state = submission.step_state if known_over or shown.state is None else shown.state
    over = step_state in OVER_STEP_STATES
    started = submission.started_at or shown.started_at
    if started is None and shown.state is StepState.RUNNING:
        started = now
    ended = submission.ended_at
    if over and not submission.wrapper_ended and shown.ended_at is not None:
        started, ended = shown.started_at or started, shown.ended_at
    begun = SubmissionEvent.SHOWN_PENDING if started is None else SubmissionEvent.SHOWN_RUNNING
    return replace(
        submission,
        step_id=submission.step_id or shown.step_id,
        step_state=step_state,
        state=_apply(submission, SubmissionEvent.SHOWN_OVER if over else begun),
        submitted_at=submission.submitted_at or shown.created_at or now,
        started_at=started,
        ended_at=ended or (now if over else None),
        cause=submission.cause or (shown.failure if over else ""),
    )


def observe_record(submission: Submission, record: StepRecord) -> Submission:
    """The submission after its wrapper's record was read. Output chunks are counted by the reader."""
    if not submission.is_live or submission.wrapper_ended:
        return replace(submission, record_mark=record.mark)
    state = _apply(submission, SubmissionEvent.WRAPPER_SPOKE)
    if record.phase is not RecordPhase.ENDED:
        return replace(
            submission,
            record_mark=record.mark,
            state=state,
            started_at=submission.started_at or record.started_at or record.at,
        )
    failed = record.exit_code != 0
    # The last line of what was ended from outside says nothing of why.
    is_told = record.reason == "timeout" or (record.reason == "terminated" and submission.cause != "")
    return replace(
        submission,
        record_mark=record.mark,
        state=state,
        started_at=record.started_at or submission.started_at or record.at,
        ended_at=record.at,
        wrapper_ended=True,
        wrapper_reason=record.reason,
        exit_code=record.exit_code,
        timed_out=submission.timed_out or record.reason == "timeout",
        cause=(cause_of(record.tail, record.exit_code) if failed and not is_told else "") or submission.cause,
    )


def launched(cluster: Cluster, cluster_id: ClusterId) -> Cluster:
    """The cluster after RunJobFlow gave its id."""
    return replace(cluster, cluster_id=cluster_id, state=_move(cluster, ClusterEvent.LAUNCHED))


def gone(cluster: Cluster, seen: ClusterEvent, why: str, *, now: datetime) -> Cluster:
    """The cluster that EMR does not have: REFUSED, NEVER_SHOWN or FORGOTTEN."""
    return replace(cluster, state=_move(cluster, seen), ended_at=now, reason=why)


def observe_cluster(cluster: Cluster, seen: ObservedCluster, *, now: datetime) -> Cluster:
    """The cluster after ListClusters or DescribeCluster showed it.

    A launch that was given up and is there after all is ours, and to be ended.
    """
    if seen.state is None:
        return cluster
    known = replace(cluster, cluster_id=cluster.cluster_id or seen.cluster_id)
    given_up = cluster.state is ClusterState.NEVER_LAUNCHED
    if cluster.state in OVER_CLUSTER_STATES and not given_up:
        return known
    news = SHOWN.get(seen.state)
    if news is None:
        raise InvalidTransition("cluster", cluster.state, f"shown_{seen.state}", row=cluster.cluster_uuid)
    state = apply_observation(CLUSTER, cluster.state, news, row=cluster.cluster_uuid)
    if state is not seen.state:
        return known
    over = state in OVER_CLUSTER_STATES
    if given_up:
        known = replace(known, target=ClusterTarget.END, ended_at=None, reason=None)
    ready = seen.ready_at
    if ready is None and state in UP_CLUSTER_STATES:
        ready = now
    return replace(
        known,
        state=state,
        ready_at=known.ready_at or ready,
        ended_at=known.ended_at or ((seen.ended_at or now) if over else None),
        reason_code=seen.reason_code or known.reason_code,
        reason=seen.reason or known.reason,
    )


def observe_idleness(cluster: Cluster, *, live_submissions: int, now: datetime) -> Cluster:
    """The cluster with ``idle_since`` kept: set when it is up without a live submission, else cleared."""
    up = cluster.state in UP_CLUSTER_STATES
    if not up or live_submissions:
        return replace(cluster, idle_since=None) if cluster.idle_since else cluster
    return cluster if cluster.idle_since else replace(cluster, idle_since=now)


def _transition(submission: Submission, seen: SubmissionEvent) -> SubmissionState:
    return transition(SUBMISSION, submission.state, seen, row=submission.submission_id)


def _apply(submission: Submission, seen: SubmissionEvent) -> SubmissionState:
    return apply_observation(SUBMISSION, submission.state, seen, row=submission.submission_id)


def _move(cluster: Cluster, seen: ClusterEvent) -> ClusterState:
    return transition(CLUSTER, cluster.state, seen, row=cluster.cluster_uuid)

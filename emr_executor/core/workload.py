"""The workload's machine: what a settled submission, or none, makes of it.

The edges between ACCEPTED, PREPARING, FINISHABLE, FINISHING and FINISHED belong to the claim of
one phase's process and are written by ``store.phase_store``; those of a parked workload are here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from emr_executor.core.model import ClusterId, StepOutcome, Submission, Workload
from emr_executor.core.states import (
    SubmissionState,
    Verdict,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.errors import InvalidTransition


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadMove:
    """A workload after an edge, the fixed phrase and the line that tell of it."""

    workload: Workload
    event: str
    text: str


def placed(workload: Workload) -> Workload:
    """READY -> SUBMITTED: the next submission is about to be written."""
    if workload.state is not WorkloadState.READY:
        raise InvalidTransition("workload", workload.state, "placed", (workload.workload_id,))
    return replace(workload, state=WorkloadState.SUBMITTED, submissions=workload.submissions + 1)


def after_submission(
    workload: Workload,
    submission: Submission,
    *,
    cluster_id: ClusterId | None,
    max_submissions: int,
    now: datetime,
) -> WorkloadMove:
    """SUBMITTED -> READY, FINISHABLE or CANCELLED: its live submission is settled."""
    if workload.state is not WorkloadState.SUBMITTED:
        raise InvalidTransition("workload", workload.state, submission.state, (submission.submission_id,))
    if workload.target is WorkloadTarget.CANCEL:
        return cancelled(workload, now=now)
    where = f"{submission.step_id or 'no step'} on {cluster_id or 'no cluster'}"
    if submission.state is SubmissionState.LOST:
        return _after_loss(workload, submission, cluster_id, max_submissions=max_submissions, now=now)
    ours = submission.cancel_asked_at is not None and not submission.timed_out
    if submission.state is SubmissionState.CANCELLED and ours:
        # Airflow asked for the try again (accept) after we had begun to cancel it, or it waited too long.
        text = f"step {where} was cancelled before its end; the task waits again"
        ready = replace(workload, state=WorkloadState.READY)
        return WorkloadMove(workload=ready, event="requeued", text=text)
    verdict = _VERDICTS[submission.state]
    if submission.timed_out:
        verdict = Verdict.TIMED_OUT
    text = f"step {where} {_WORDS[verdict]}{_after(submission)}"
    text += f": {submission.cause}" if submission.cause else ""
    return _finishable(workload, submission, cluster_id, verdict=verdict, cause=submission.cause, text=text)


def never_added(workload: Workload, submission: Submission, *, now: datetime) -> WorkloadMove:
    """SUBMITTED -> READY: EMR never had the step, so no loss is counted."""
    if workload.target is WorkloadTarget.CANCEL:
        return cancelled(workload, now=now)
    text = f"not added to its cluster: {submission.cause or 'EMR never showed the step'}; waiting again"
    return WorkloadMove(workload=replace(workload, state=WorkloadState.READY), event="requeued", text=text)


def cancelled(workload: Workload, *, now: datetime) -> WorkloadMove:
    """Any parked state -> CANCELLED: nothing of it is alive and Airflow does not want it."""
    gone = replace(workload, state=WorkloadState.CANCELLED, finished_at=now)
    return WorkloadMove(workload=gone, event="cancelled", text=f"cancelled: {workload.cancel_reason}")


def waited_too_long(workload: Workload, *, queue_timeout_s: float) -> WorkloadMove:
    """READY -> FINISHABLE: no slot within the pool's ``queue_timeout``."""
    text = f"no cluster ran the step within queue_timeout ({queue_timeout_s:g} s)"
    return _finishable(workload, None, None, verdict=Verdict.FAILED, cause=text, text=text)


def _after(submission: Submission) -> str:
    if submission.started_at is None or submission.ended_at is None:
        return ""
    return f" after {spoken_duration((submission.ended_at - submission.started_at).total_seconds())}"


def spoken_duration(seconds: float) -> str:
    """``8 s``, ``4 min 10 s``, ``2 h 5 min``: what a person says."""
    whole = max(0, round(seconds))
    minutes, rest_s = divmod(whole, 60)
    hours, rest_min = divmod(minutes, 60)
    if hours:
        return f"{hours} h {rest_min} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"


def _after_loss(
    workload: Workload,
    submission: Submission,
    cluster_id: ClusterId | None,
    *,
    max_submissions: int,
    now: datetime,
) -> WorkloadMove:
    lost = replace(workload, losses=workload.losses + 1)
    if lost.losses >= max_submissions:
        cause = f"lost {lost.losses} times (max_submissions {max_submissions}), last: {submission.cause}"
        return _finishable(lost, submission, cluster_id, verdict=Verdict.LOST, cause=cause, text=cause)
    text = f"{submission.cause}; the step will run again elsewhere (loss {lost.losses} of {max_submissions})"
    # Its place in the queue is its age; queue_timeout bounds each wait.
    ready = replace(lost, state=WorkloadState.READY, ready_at=now)
    return WorkloadMove(workload=ready, event="lost", text=text)


def _finishable(
    workload: Workload,
    submission: Submission | None,
    cluster_id: ClusterId | None,
    *,
    verdict: Verdict,
    cause: str,
    text: str,
) -> WorkloadMove:
    outcome = StepOutcome(
        verdict=verdict,
        cause=cause,
        exit_code=submission.exit_code if submission else None,
        cluster_id=cluster_id,
        step_id=submission.step_id if submission else None,
        submissions=workload.submissions,
        started_at=submission.started_at if submission else None,
        ended_at=submission.ended_at if submission else None,
    )
    moved = replace(
        workload, state=WorkloadState.FINISHABLE, outcome=outcome, phase_attempts=0, not_before=None
    )
    return WorkloadMove(workload=moved, event=f"step_{verdict.lower()}", text=text)


_VERDICTS = {
    SubmissionState.COMPLETED: Verdict.SUCCEEDED,
    SubmissionState.FAILED: Verdict.FAILED,
    SubmissionState.CANCELLED: Verdict.CANCELLED,
}
_WORDS = {
    Verdict.SUCCEEDED: "completed",
    Verdict.FAILED: "failed",
    Verdict.CANCELLED: "was cancelled",
    Verdict.TIMED_OUT: "reached its execution_timeout",
}

"""The workload's machine: what a settled submission, or none, makes of it.

Every move asks ``core.transitions.WORKLOAD`` and raises InvalidTransition where that has no edge. The edges
between ACCEPTED, PREPARING, FINISHABLE, FINISHING and FINISHED belong to the claim of one phase's
process and are written by ``store.phase_store``; those of a parked workload are here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from emr_executor.core.model import ClusterId, StepOutcome, Submission, Workload
from emr_executor.core.states import SubmissionState, Verdict, WorkloadState, WorkloadTarget
from emr_executor.core.transitions import WORKLOAD, WorkloadEvent, transition

HANDED_OVER_AGAIN = frozenset({"scheduled", "queued"})
"""Airflow's states of a task instance that was taken back from us, stuck in queued, and that we get again
under the same id (airflow/jobs/scheduler_job_runner.py, ``_reschedule_stuck_task``)."""

_UP_FOR_RETRY = "up_for_retry"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadMove:
    """A workload after an edge, the fixed phrase and the line that tell of it."""

    workload: Workload
    event: str
    text: str


def placed(workload: Workload) -> Workload:
    """READY -> SUBMITTED: the next submission is about to be written."""
    return replace(
        workload, state=_after(workload, WorkloadEvent.PLACED), submissions=workload.submissions + 1
    )


def after_submission(
    workload: Workload,
    submission: Submission,
    *,
    cluster_id: ClusterId | None,
    max_submissions: int,
    now: datetime,
) -> WorkloadMove:
    """SUBMITTED -> READY, FINISHABLE or CANCELLED: its live submission is settled."""
    seen = _seen_of(workload, submission, max_submissions)
    after = replace(workload, state=_after(workload, seen))
    if workload.target is WorkloadTarget.CANCEL:
        return cancelled(workload, now=now)
    its_step = f"step {submission.step_id}" if submission.step_id else "its step"
    its_step += f" on {cluster_id}" if cluster_id else ""
    cause, losses = submission.cause, workload.losses + 1
    match seen:
        case WorkloadEvent.STEP_LOST_UNSTARTED:
            text = f"{cause}, before the step had begun; it will run elsewhere"
            return WorkloadMove(workload=replace(after, ready_at=now), event="requeued", text=text)
        case WorkloadEvent.STEP_LOST:
            # Its place in the queue is its age; queue_timeout bounds each wait.
            ready = replace(after, losses=losses, ready_at=now)
            text = f"{cause}; the step will run again elsewhere (loss {losses} of {max_submissions})"
            return WorkloadMove(workload=ready, event="lost", text=text)
        case WorkloadEvent.STEP_LOST_TOO_OFTEN:
            after = replace(after, losses=losses)
            cause = f"lost {losses} times (max_submissions {max_submissions}), last: {cause}"
            return _finishable(after, Verdict.LOST, cause, submission=submission, cluster_id=cluster_id)
        case WorkloadEvent.STEP_UNDONE:
            why = f" ({cause})" if cause else ""
            if submission.started_at is None:
                text = f"{its_step} was cancelled before it began{why}; the task waits again"
                return WorkloadMove(workload=after, event="requeued", text=text)
            text = f"{its_step} had begun when it was cancelled{why}; it starts again at no cost"
            # It had its slot, so queue_timeout begins anew.
            return WorkloadMove(workload=replace(after, ready_at=now), event="requeued", text=text)
        case _:
            verdict, words = _ENDS[seen]
            text = f"{its_step} {words}{_ran_for(submission)}"
            text += f": {cause}" if cause and verdict is not Verdict.TIMED_OUT else ""
            return _finishable(after, verdict, cause, text, submission=submission, cluster_id=cluster_id)


def never_added(
    workload: Workload, submission: Submission, *, now: datetime, not_before: datetime | None = None
) -> WorkloadMove:
    """SUBMITTED -> READY: EMR never had the step, so no loss is counted."""
    state = _after(workload, WorkloadEvent.STEP_NEVER_ADDED)
    ready = replace(workload, state=state, not_before=not_before)
    if workload.target is WorkloadTarget.CANCEL:
        return cancelled(workload, now=now)
    text = f"not added to its cluster: {submission.cause or 'EMR never showed the step'}; waiting again"
    return WorkloadMove(workload=ready, event="requeued", text=text)


def refused(
    workload: Workload, submission: Submission, *, cluster_id: ClusterId | None, now: datetime
) -> WorkloadMove:
    """SUBMITTED -> FINISHABLE: no cluster will ever take the step, for the submission's ``cause``."""
    gone = replace(workload, state=_after(workload, WorkloadEvent.STEP_REFUSED))
    if workload.target is WorkloadTarget.CANCEL:
        return cancelled(workload, now=now)
    return _finishable(gone, Verdict.FAILED, submission.cause, submission=submission, cluster_id=cluster_id)


def cancelled(workload: Workload, *, now: datetime) -> WorkloadMove:
    """Any parked state -> CANCELLED: nothing of it is alive and Airflow does not want it."""
    gone = replace(workload, state=_after(workload, WorkloadEvent.UNWANTED), finished_at=now)
    return WorkloadMove(workload=gone, event="cancelled", text=f"cancelled: {workload.cancel_reason}")


def waited_too_long(workload: Workload, *, queue_timeout_s: float) -> WorkloadMove:
    """READY -> FINISHABLE: no slot within the pool's ``queue_timeout``."""
    again = " again" if workload.losses else ""
    text = f"no cluster ran the step{again} within queue_timeout ({queue_timeout_s:g} s)"
    late = replace(workload, state=_after(workload, WorkloadEvent.WAITED_TOO_LONG))
    return _finishable(late, Verdict.FAILED, text)


def seen_in_refusal(*, intent: str | None, airflow_state: str | None, is_restarting: bool) -> WorkloadEvent:
    """REPORTED, TO_REPEAT or GONE: what it means for a phase that the Execution API refuses its try.

    intent: the state that Airflow was about to be told, by this process or by one before it
    airflow_state: of the task instance with the workload's id; None where it has none, or another id by now
    is_restarting: the try was cleared while it ran
    """
    if airflow_state in HANDED_OVER_AGAIN:
        return WorkloadEvent.TO_REPEAT
    # A failure with retries left gives the task instance another id (models/taskinstance.py,
    # prepare_db_for_next_try).
    is_retried = intent == _UP_FOR_RETRY and airflow_state is None and not is_restarting
    has_arrived = intent is not None and airflow_state == intent
    return WorkloadEvent.REPORTED if has_arrived or is_retried else WorkloadEvent.GONE


def _after(workload: Workload, seen: WorkloadEvent) -> WorkloadState:
    return transition(WORKLOAD, workload.state, seen, row=workload.workload_id)


def _seen_of(workload: Workload, submission: Submission, max_submissions: int) -> WorkloadEvent:
    if submission.state is SubmissionState.LOST:
        if submission.started_at is None:
            # A cluster that never came up says nothing of the task, however often that happens.
            return WorkloadEvent.STEP_LOST_UNSTARTED
        too_often = workload.losses + 1 >= max_submissions
        return WorkloadEvent.STEP_LOST_TOO_OFTEN if too_often else WorkloadEvent.STEP_LOST
    if submission.timed_out and submission.state is not SubmissionState.COMPLETED:
        # It may have ended well while the agent, that could not see it, asked for its end.
        return WorkloadEvent.STEP_TIMED_OUT
    if submission.state is SubmissionState.CANCELLED and submission.cancel_asked_at is not None:
        # Airflow asked for the try again (accept) after we had begun to cancel it, or it waited too long.
        return WorkloadEvent.STEP_UNDONE
    return _SEEN[submission.state]


def _ran_for(submission: Submission) -> str:
    if submission.started_at is None or submission.ended_at is None:
        return ""
    return f" after {spoken_duration((submission.ended_at - submission.started_at).total_seconds())}"


def spoken_duration(seconds: float) -> str:
    """``8 s``, ``4 min 10 s``, ``10 min``, ``2 h 5 min``, ``4 d 1 h``: what a person says; never negative."""
    whole = max(0, int(seconds))
    for unit_s, unit, part_s, part in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit_s:
            rest = whole % unit_s // part_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def _finishable(
    workload: Workload,
    verdict: Verdict,
    cause: str,
    text: str = "",
    *,
    submission: Submission | None = None,
    cluster_id: ClusterId | None = None,
) -> WorkloadMove:
    outcome = StepOutcome(
        verdict=verdict, cause=cause, cluster_id=cluster_id, submissions=workload.submissions
    )
    if submission is not None:
        outcome = replace(
            outcome,
            exit_code=submission.exit_code,
            step_id=submission.step_id,
            started_at=submission.started_at,
            ended_at=submission.ended_at,
        )
    moved = replace(workload, outcome=outcome, phase_attempts=0, not_before=None)
    return WorkloadMove(workload=moved, event=f"step_{verdict.lower()}", text=text or cause)


_SEEN = {
    SubmissionState.COMPLETED: WorkloadEvent.STEP_COMPLETED,
    SubmissionState.FAILED: WorkloadEvent.STEP_FAILED,
    SubmissionState.CANCELLED: WorkloadEvent.STEP_CANCELLED,
}
_ENDS = {
    WorkloadEvent.STEP_COMPLETED: (Verdict.SUCCEEDED, "completed"),
    WorkloadEvent.STEP_FAILED: (Verdict.FAILED, "failed"),
    WorkloadEvent.STEP_CANCELLED: (Verdict.CANCELLED, "was cancelled"),
    WorkloadEvent.STEP_TIMED_OUT: (Verdict.TIMED_OUT, "reached its execution_timeout"),
}

"""When a submission is over, and what that means: the failure rule of the project.

=====================================================================  =========================
what is known                                                          the submission is
=====================================================================  =========================
the wrapper or EMR saw it end well                                     COMPLETED
we asked to cancel it, and it is over                                  CANCELLED
the wrapper ended it at its deadline                                   FAILED, timed out
the command failed by itself on a cluster that is not ending           FAILED: the task's own
it was over without last words, and the cluster ends within the hold   LOST: run elsewhere
it was over without last words, and the cluster stayed                 FAILED or CANCELLED by hand
its cluster is over, and EMR's last word on its steps was read         LOST: run elsewhere
=====================================================================  =========================

A dying primary node reports its steps CANCELLED, FAILED or INTERRUPTED before EMR shows the
cluster's own end (mrjob issues 708 and 1401: "a minute or two"), hence the hold. LOST is only
ever said of a cluster that is over, so nothing is run again while its step may still be alive, and
only after its steps were listed once more: one that completed just before must not run again.
Durations are ``core.ages``: no time that another host wrote is reckoned with.
"""

from __future__ import annotations

from dataclasses import dataclass

from emr_executor.core.ages import Ages, Fact
from emr_executor.core.model import Cluster, Submission
from emr_executor.core.states import (
    OVER_CLUSTER_STATES,
    TERMINAL_STEP_STATES,
    ClusterState,
    StepState,
    SubmissionState,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The final state of a submission and the line that says why."""

    state: SubmissionState
    cause: str = ""


def settle(
    submission: Submission, cluster: Cluster, *, ages: Ages, loss_hold_s: float, had_last_look: bool
) -> Settled | None:
    """The submission's final state, or None while it cannot be known yet.

    had_last_look: EMR's list of the cluster's steps was read when the cluster had been over for a while
    """
    if not submission.is_live:
        return None
    if _ended_well(submission):
        return Settled(state=SubmissionState.COMPLETED)
    cluster_over = cluster.state in OVER_CLUSTER_STATES
    if not cluster_over and not _step_over(submission):
        return None
    if cluster_over and not had_last_look:
        return None
    if submission.cancel_asked_at is not None:
        return Settled(state=SubmissionState.CANCELLED, cause=submission.cause)
    if submission.timed_out:
        return Settled(state=SubmissionState.FAILED, cause=submission.cause or "execution_timeout reached")
    if cluster_over:
        return Settled(state=SubmissionState.LOST, cause=lost_because(cluster))
    if cluster.state is ClusterState.TERMINATING:
        return None
    if submission.wrapper_ended and submission.wrapper_reason != "terminated":
        return Settled(state=SubmissionState.FAILED, cause=submission.cause)
    if submission.ended_at is None or ages.of(Fact.ENDED, submission.submission_id) < loss_hold_s:
        return None
    if submission.step_state is StepState.CANCELLED:
        text = "the step was cancelled in Amazon EMR by someone else (console, CLI or API)"
        return Settled(state=SubmissionState.CANCELLED, cause=text)
    state = submission.step_state or "ended"
    return Settled(
        state=SubmissionState.FAILED,
        cause=submission.cause or f"EMR reports the step {state} and its wrapper left no last words",
    )


def lost_because(cluster: Cluster) -> str:
    """One line for the task log on a cluster that is over."""
    name = cluster.cluster_id or f"launch {cluster.cluster_uuid}"
    if cluster.state is ClusterState.NEVER_LAUNCHED:
        return f"cluster {name} never came up" + (f": {cluster.reason}" if cluster.reason else "")
    why = ": ".join(part for part in (cluster.reason_code, cluster.reason) if part)
    return f"cluster {name} ended" + (f" ({why})" if why else "")


def _ended_well(submission: Submission) -> bool:
    by_wrapper = submission.wrapper_ended and submission.exit_code == 0
    return by_wrapper or submission.step_state is StepState.COMPLETED


def _step_over(submission: Submission) -> bool:
    # "terminated" is the wrapper's word before its process is gone: EMR's own state must confirm it.
    spoke = submission.wrapper_ended and submission.wrapper_reason != "terminated"
    return spoke or submission.step_state in TERMINAL_STEP_STATES

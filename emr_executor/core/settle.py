"""When a submission is over, and what that means: the failure rule of the project.

=====================================================================  =========================
what is known                                                          the submission is
=====================================================================  =========================
the wrapper or EMR saw it end well                                     COMPLETED
nobody wants it any more, we asked to cancel it, and it is over         CANCELLED
the wrapper ended it at its deadline, or as we asked at its deadline   FAILED, timed out
its cluster is ending or over, and EMR shows that it never began       LOST: run elsewhere
its wrapper never came to start it, or no step ever claimed it         LOST: run elsewhere
the command failed by itself on a cluster that is not ending           FAILED: the task's own
we took it back, and EMR shows it cancelled before it began            CANCELLED: run elsewhere
we took it back, it had begun, and its wrapper recorded the end        CANCELLED: run elsewhere
it was over without a final record, the cluster ends within the hold   LOST: run elsewhere
it was over without a final record, the cluster stayed                 FAILED or CANCELLED by hand
its cluster is over, and EMR's last word on its steps was read         LOST: run elsewhere
it is in quarantine, and its cluster is over                           LOST, unless it ended well
=====================================================================  =========================

A dying primary node reports its steps CANCELLED, FAILED or INTERRUPTED before EMR shows the
cluster's own end (mrjob issues 708 and 1401: "a minute or two"), hence the hold. LOST is only
ever said of a cluster that is over, so nothing is run again while its step may still be alive, and
only after its steps were listed once more: one that completed just before must not run again.
What never began cannot have completed, so it waits for neither, and a cluster that never was up is
listed at once. What failed before it began is LOST on a cluster that stays, too: it did nothing.
Durations are ``core.fact_ages``: no time that another host wrote is reckoned with.
"""

from __future__ import annotations

from dataclasses import replace

from emr_executor.core.fact_ages import STALE_READ_S, Ages, Fact
from emr_executor.core.model import Cluster, Submission
from emr_executor.core.states import (
    OVER_CLUSTER_STATES,
    OVER_STEP_STATES,
    ClusterState,
    StepState,
)
from emr_executor.core.transitions import SUBMISSION, transition
from emr_executor.core.transitions import SubmissionEvent as Event

ENDED_BY_US = "the agent ended it"
OVERTIME = "execution_timeout reached"


def settle(
    submission: Submission,
    cluster: Cluster,
    *,
    ages: Ages,
    loss_hold_s: float,
    had_last_poll: bool,
    is_wanted: bool,
    is_closed: bool,
) -> Submission | None:
    """The submission in its final state with the line that says why; None while it cannot be known yet.

    is_wanted: Airflow still wants the try
    is_closed: a step of it that is not over, such as the second one of a doubled call, can begin no more
    had_last_poll: EMR's list of the cluster's steps was read when the cluster had been over for a while, or
        was over and had never been up
    """
    if not submission.is_live:
        return None
    cluster_over = cluster.state in OVER_CLUSTER_STATES
    is_doubtful = submission.quarantine is not None
    if is_doubtful and not (cluster_over and had_last_poll):
        return None
    # Of a step in quarantine only why it failed is in doubt: what is done is not done again.
    if _ended_well(submission):
        return _settled(submission, Event.ENDED_WELL)
    if is_doubtful:
        return _settled(submission, Event.CLUSTER_OVER, lost_because(cluster))
    is_over = _step_over(submission)
    if cluster_over:
        is_over = had_last_poll or (is_closed and _never_began(submission))
    if not is_over or (not cluster_over and _may_have_a_twin(submission, ages)):
        return None
    if submission.cancel_asked_at is not None and not is_wanted:
        began = submission.started_at is not None or submission.wrapper_ended
        if not (began or cluster_over or is_closed):
            return None  # EMR may have a second step of it, which still can begin
        return _settled(submission, Event.CANCELLED_BY_US, submission.cause)
    return _settle_badly(submission, cluster, ages=ages, loss_hold_s=loss_hold_s, is_closed=is_closed)


def _settle_badly(
    submission: Submission, cluster: Cluster, *, ages: Ages, loss_hold_s: float, is_closed: bool
) -> Submission | None:
    """Over, not well, and wanted: by whom."""
    is_ending = cluster.state is ClusterState.TERMINATING
    # The agent reckons with what it last saw: a step that died with its cluster seemed to run on.
    if submission.timed_out and submission.wrapper_reason == "timeout":
        return _settled(submission, Event.TIMED_OUT, OVERTIME)
    if cluster.state in OVER_CLUSTER_STATES or (is_ending and is_closed and _never_began(submission)):
        return _settled(submission, Event.CLUSTER_OVER, lost_because(cluster))
    if is_ending:
        return None
    if submission.wrapper_reason == "not_begun":
        return _settled(submission, Event.NEVER_BEGUN, submission.cause)
    if submission.wrapper_ended and submission.wrapper_reason != "terminated":
        return _settled(submission, Event.ENDED_BADLY, submission.cause)
    is_held = submission.ended_at is None or not ages.reached(
        Fact.ENDED, submission.submission_id, loss_hold_s
    )
    return _settle_silent(submission, is_held=is_held, is_closed=is_closed)


def _settle_silent(submission: Submission, *, is_held: bool, is_closed: bool) -> Submission | None:
    """Over on a cluster that stays, without a word on why: by us, by a person, or by itself."""
    by_us = submission.cancel_asked_at is not None
    if submission.timed_out:
        # A final record proves that it lived until we ended it; a silent one may have died with its cluster.
        is_known = submission.wrapper_ended or not is_held
        return _settled(submission, Event.TIMED_OUT, OVERTIME) if is_known else None
    is_cancelled = submission.step_state is StepState.CANCELLED
    if by_us and is_cancelled:
        waits = is_held or submission.started_at is None
        if waits and not (is_closed or submission.wrapper_ended):
            return None
        return _settled(submission, Event.CANCELLED_BY_US, submission.cause)
    if is_held:
        return None
    if is_cancelled:
        text = "the step was cancelled in Amazon EMR by someone else (console, CLI or API)"
        return _settled(submission, Event.CANCELLED_BY_HAND, text)
    text = f"EMR reports the step {submission.step_state or 'ended'} and its wrapper wrote no final record"
    # Of a step that we wanted to cancel, the cause is why.
    return _settled(submission, Event.ENDED_SILENTLY, text if by_us else submission.cause or text)


def lost_because(cluster: Cluster) -> str:
    """One line for the task log on a cluster that is over or ending."""
    name = cluster.cluster_id or f"launch {cluster.cluster_uuid}"
    why = why_ended(cluster)
    if cluster.state is ClusterState.NEVER_LAUNCHED:
        return f"cluster {name} never came up" + (f": {why}" if why else "")
    verb = "ended" if cluster.state in OVER_CLUSTER_STATES else "is ending"
    return f"cluster {name} {verb}" + (f" ({why})" if why else "")


def why_ended(cluster: Cluster) -> str:
    """EMR's code and words, neither twice, or that it was us; empty while nothing is known."""
    code, words = cluster.reason_code or "", (cluster.reason or "").rstrip(". ")
    if code == "USER_REQUEST" and cluster.end_asked_at is not None:
        return ENDED_BY_US
    return words if words.startswith(code) else ": ".join(part for part in (code, words) if part)


def _settled(submission: Submission, seen: Event, cause: str = "") -> Submission:
    state = transition(SUBMISSION, submission.state, seen, row=submission.submission_id)
    return replace(submission, state=state, cause=cause)


def _ended_well(submission: Submission) -> bool:
    by_wrapper = submission.wrapper_ended and submission.exit_code == 0
    return by_wrapper or submission.step_state is StepState.COMPLETED


def _never_began(submission: Submission) -> bool:
    """Whether EMR shows it over without a start: nothing of it ever ran, however late the answer is."""
    never = submission.step_state in OVER_STEP_STATES and submission.started_at is None
    return never and not submission.was_sent_again


def _may_have_a_twin(submission: Submission, ages: Ages) -> bool:
    """Whether EMR may have a step for it that its reads do not show yet, and that runs."""
    if not submission.was_sent_again or submission.wrapper_ended:
        return False
    return not ages.reached(Fact.ENDED, submission.submission_id, STALE_READ_S)


def _step_over(submission: Submission) -> bool:
    # "terminated" is the wrapper's word before its process is gone: EMR's own state must confirm it.
    spoke = submission.wrapper_ended and submission.wrapper_reason != "terminated"
    return spoke or submission.step_state in OVER_STEP_STATES

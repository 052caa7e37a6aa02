"""The failure rule: each row of the table in ``core.settle``, and what the workload makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from emr_executor.core.fact_ages import ages_by_rows
from emr_executor.core.model import ClusterId, Submission
from emr_executor.core.settle import lost_because, settle
from emr_executor.core.states import ClusterState, StepState, SubmissionState, Verdict, WorkloadState
from emr_executor.core.states import SubmissionState as S
from emr_executor.core.states import WorkloadTarget as Target
from emr_executor.core.workload import (
    WorkloadMove,
    after_submission,
    cancelled,
    never_added,
    placed,
    spoken_duration,
    waited_too_long,
)
from emr_executor.errors import InvalidTransition
from tests.builders import NOW, ago, make_cluster, make_submission, make_workload, named

HOLD_S = 100.0
FAILED, CANCELLED, INTERRUPTED = StepState.FAILED, StepState.CANCELLED, StepState.INTERRUPTED
Values = dict[str, Any]

UP: Values = {}
ENDING: Values = {"state": ClusterState.TERMINATING}
OVER: Values = {"state": ClusterState.TERMINATED}
NEVER_UP: Values = {"state": ClusterState.NEVER_LAUNCHED}
LOST: Values = {
    "state": ClusterState.TERMINATED_WITH_ERRORS,
    "reason_code": "INSTANCE_FAILURE",
    "reason": "The master node was terminated",
}
LOST_TEXT = "cluster j-c1 ended (INSTANCE_FAILURE: The master node was terminated)"

WELL: Values = {"wrapper_ended": True, "ended_at": ago(1), "exit_code": 0}
BADLY: Values = {**WELL, "exit_code": 1}
TERMINATED: Values = {**WELL, "exit_code": 143, "wrapper_reason": "terminated"}
OVERTIME: Values = {**WELL, "exit_code": 124, "timed_out": True, "wrapper_reason": "timeout"}
ASKED: Values = {"cancel_asked_at": ago(5)}
TAKEN_BACK: Values = {**ASKED, "cause": "a slot is free on j-c2"}
LATE: Values = {**ASKED, "timed_out": True}
NEVER_BEGAN: Values = {"started_at": None, "step_state": CANCELLED, "ended_at": ago(1)}
BEGAN: Values = {**NEVER_BEGAN, "started_at": ago(9)}
HELD: Values = {"quarantine": "why"}
UNREAD: Values = {"had_last_poll": False}
UNWANTED: Values = {"is_wanted": False}
OPEN: Values = {"is_closed": False}


def shown(state: StepState, ended_s: float) -> Values:
    return {"step_state": state, "ended_at": ago(ended_s)}


def judge(submission: Values, cluster: Values | None = None, **known: bool) -> Submission | None:
    one, its_cluster = make_submission(**submission), make_cluster(**cluster or {})
    ages = ages_by_rows([its_cluster], [one], now=NOW)
    facts = {"had_last_poll": True, "is_wanted": True, "is_closed": True, **known}
    return settle(one, its_cluster, ages=ages, loss_hold_s=HOLD_S, **facts)


@pytest.mark.parametrize(
    ("submission", "cluster", "known", "state"),
    named(
        {
            "it runs": ({}, UP, {}, None),
            "its wrapper saw it end well": (WELL, UP, {}, S.COMPLETED),
            "EMR saw it end well": ({"step_state": StepState.COMPLETED}, UP, {}, S.COMPLETED),
            "it ended well before its cluster was lost": (WELL, LOST, {}, S.COMPLETED),
            "it ended well, and its cluster was not listed again": (WELL, LOST, UNREAD, S.COMPLETED),
            "it failed by itself": (BADLY, UP, {}, S.FAILED),
            "it failed on a cluster that is ending": (BADLY, ENDING, {}, None),
            "its wrapper was terminated": (TERMINATED, UP, {}, None),
            "its wrapper was terminated, its cluster lost": (TERMINATED, LOST, {}, S.LOST),
            "its cluster was lost": ({}, LOST, {}, S.LOST),
            "its cluster was lost and not listed again": ({}, LOST, UNREAD, None),
            "its cluster ended": ({}, OVER, {}, S.LOST),
            "its cluster is ending": ({}, ENDING, {}, None),
            "cancelled by hand, held": (shown(CANCELLED, 50), UP, {}, None),
            "cancelled by hand": (shown(CANCELLED, 101), UP, {}, S.CANCELLED),
            "interrupted": (shown(INTERRUPTED, 101), UP, {}, S.FAILED),
            "failed without a word, held": (shown(FAILED, 50), UP, {}, None),
            "failed without a word": (shown(FAILED, 101), UP, {}, S.FAILED),
            "failed without a word, cluster lost": (shown(FAILED, 101), LOST, {}, S.LOST),
            "its cancel was asked for, and it runs": (ASKED, UP, {}, None),
            "its cancel was asked for, cluster lost": (ASKED, LOST, {}, S.LOST),
            "it is over already": ({"state": S.LOST}, LOST, {}, None),
            # What was taken back may have begun before: what it did then counts.
            "taken back before it began": ({**TAKEN_BACK, **NEVER_BEGAN}, UP, {}, S.CANCELLED),
            "taken back, runs": ({**TAKEN_BACK, "step_state": StepState.RUNNING}, UP, {}, None),
            "taken back, leaving": ({**TAKEN_BACK, "step_state": StepState.CANCEL_PENDING}, UP, {}, None),
            "taken back": ({**TAKEN_BACK, "step_state": CANCELLED}, UP, {}, S.CANCELLED),
            "taken back, recorded": (
                {**TAKEN_BACK, **TERMINATED, "step_state": CANCELLED},
                UP,
                {},
                S.CANCELLED,
            ),
            "taken back, ended well": ({**TAKEN_BACK, **WELL}, UP, {}, S.COMPLETED),
            "taken back, failed": ({**TAKEN_BACK, **BADLY}, UP, {}, S.FAILED),
            "taken back, failed silently": ({**TAKEN_BACK, **shown(FAILED, 101)}, UP, {}, S.FAILED),
            # A doubled call leaves two steps, and the other may begin, or have begun, what this one did not.
            "taken back, a second may begin": ({**TAKEN_BACK, **NEVER_BEGAN}, UP, OPEN, None),
            "never began, a second may begin": (NEVER_BEGAN, ENDING, OPEN, None),
            "began, its wrapper is heard to its end": (
                {**TAKEN_BACK, **BEGAN, "ended_at": ago(1)},
                UP,
                OPEN,
                None,
            ),
            "began, its wrapper is silent": (
                {**TAKEN_BACK, **BEGAN, "ended_at": ago(101)},
                UP,
                OPEN,
                S.CANCELLED,
            ),
            "unwanted, cancelled": ({**ASKED, "step_state": CANCELLED}, UP, UNWANTED, S.CANCELLED),
            "unwanted, failed": ({**ASKED, "step_state": FAILED}, UP, UNWANTED, S.CANCELLED),
            "unwanted, interrupted": ({**ASKED, "step_state": INTERRUPTED}, UP, UNWANTED, S.CANCELLED),
            "unwanted, completed": ({**ASKED, "step_state": StepState.COMPLETED}, UP, UNWANTED, S.COMPLETED),
            "never began, its cluster is ending": (NEVER_BEGAN, ENDING, UNREAD, S.LOST),
            "never began, its cluster is over": (NEVER_BEGAN, OVER, UNREAD, S.LOST),
            "began, its cluster is ending": (BEGAN, ENDING, UNREAD, None),
            "began, its cluster is over": (BEGAN, OVER, UNREAD, None),
            "never began, a person may have cancelled it": (NEVER_BEGAN, UP, {}, None),
            # A step that died with its cluster did not reach its deadline.
            "late, its cluster was lost": (LATE, LOST, {}, S.LOST),
            "late, its cluster is ending": ({**LATE, **shown(FAILED, 1)}, ENDING, {}, None),
            "its wrapper ended it in time, cluster lost": (OVERTIME, LOST, {}, S.FAILED),
            "late and silent: it may have died with its cluster": (
                {**LATE, **shown(FAILED, 0)},
                UP,
                {},
                None,
            ),
            "late and silent for long": ({**LATE, **shown(CANCELLED, HOLD_S + 1)}, UP, {}, S.FAILED),
            # In quarantine, the end of its cluster alone counts, and that it ended well.
            "held, ended well": ({**HELD, **WELL}, UP, {}, None),
            "held, failed": ({**HELD, **shown(FAILED, 999)}, UP, {}, None),
            "held, its cancel asked for, cluster over": ({**HELD, **ASKED}, OVER, {}, S.LOST),
            "held, late, cluster over": ({**HELD, "timed_out": True}, OVER, {}, S.LOST),
            "held, failed, cluster over": ({**HELD, **BADLY}, OVER, {}, S.LOST),
            "held, ended well, cluster over": ({**HELD, **WELL}, OVER, {}, S.COMPLETED),
            "held, ended well, cluster not listed again": ({**HELD, **WELL}, OVER, UNREAD, None),
            "held, failed, cluster not listed again": ({**HELD, **BADLY}, OVER, UNREAD, None),
            "held, never added, never launched": ({**HELD, "state": S.INTENDED}, NEVER_UP, {}, S.LOST),
        }
    ),
)
def test_the_failure_rule(
    submission: Values, cluster: Values, known: dict[str, bool], state: SubmissionState | None
) -> None:
    settled = judge(submission, cluster, **known)
    assert (settled.state if settled else None) is state


LATE_TEXT = "execution_timeout reached"
TOLD = {**LATE, **TERMINATED}


@pytest.mark.parametrize(
    ("submission", "cluster", "state", "cause"),
    named(
        {
            "a loss names its cluster and why": ({}, LOST, S.LOST, LOST_TEXT),
            "what failed by itself does not blame the move": (
                {**TAKEN_BACK, **shown(FAILED, 101)},
                UP,
                S.FAILED,
                "EMR reports the step FAILED and its wrapper wrote no final record",
            ),
            "its wrapper ended it": (OVERTIME, UP, S.FAILED, LATE_TEXT),
            "late, recorded, cancelled": (
                {**TOLD, **shown(CANCELLED, 0)},
                UP,
                S.FAILED,
                LATE_TEXT,
            ),
            "late, recorded, failed": (
                {**TOLD, **shown(FAILED, 0)},
                UP,
                S.FAILED,
                LATE_TEXT,
            ),
            "it ended well": ({**TAKEN_BACK, **WELL}, UP, S.COMPLETED, ""),
        }
    ),
)
def test_an_end_says_why(submission: Values, cluster: Values, state: SubmissionState, cause: str) -> None:
    settled = judge(submission, cluster)
    assert settled is not None
    assert (settled.state, settled.cause) == (state, cause)


# -- what the workload makes of it


def after(
    submission: Values, workload: Values | None = None, *, on: str | None = "j-c1", most: int = 3
) -> WorkloadMove:
    return after_submission(
        make_workload(**{"state": WorkloadState.SUBMITTED, "submissions": 1, **(workload or {})}),
        make_submission(**submission),
        cluster_id=ClusterId(on) if on else None,
        max_submissions=most,
        now=NOW,
    )


@pytest.mark.parametrize(
    ("submission", "verdict"),
    [
        ({"state": S.COMPLETED}, Verdict.SUCCEEDED),
        ({"state": S.FAILED}, Verdict.FAILED),
        ({"state": S.CANCELLED}, Verdict.CANCELLED),
        ({"state": S.FAILED, "timed_out": True}, Verdict.TIMED_OUT),
        # It ended well although its end was asked for.
        ({"state": S.COMPLETED, **LATE}, Verdict.SUCCEEDED),
    ],
)
def test_an_end_becomes_an_outcome(submission: Values, verdict: Verdict) -> None:
    workload = after({"cause": "because", "exit_code": 1, **submission}).workload
    assert workload.state is WorkloadState.FINISHABLE
    assert workload.outcome is not None
    assert (workload.outcome.verdict, workload.outcome.cause, workload.outcome.step_id) == (
        verdict,
        "because",
        "s-w1",
    )


def test_a_loss_runs_elsewhere_within_its_budget_and_fails_beyond() -> None:
    lost = {"state": S.LOST, "cause": LOST_TEXT}
    first = after(lost, on=None, most=2)
    assert (first.workload.state, first.workload.losses) == (WorkloadState.READY, 1)
    assert (first.workload.ready_at, first.workload.accepted_at) == (NOW, ago(60))
    assert first.text == f"{LOST_TEXT}; the step will run again elsewhere (loss 1 of 2)"
    again = placed(first.workload)
    second = after(lost, {"losses": again.losses, "submissions": again.submissions}, on=None, most=2)
    assert second.workload.state is WorkloadState.FINISHABLE
    assert second.workload.outcome is not None
    assert (second.workload.outcome.verdict, second.workload.outcome.submissions) == (Verdict.LOST, 2)
    assert second.text == f"lost 2 times (max_submissions 2), last: {LOST_TEXT}"


def test_a_step_that_never_reached_emr_costs_no_loss() -> None:
    workload = make_workload(state=WorkloadState.SUBMITTED, submissions=1)
    move = never_added(workload, make_submission(state=S.LOST, cause="throttled"), now=NOW)
    assert (move.workload.state, move.workload.losses) == (WorkloadState.READY, 0)


@pytest.mark.parametrize("state", [S.COMPLETED, S.LOST, S.CANCELLED])
def test_an_unwanted_workload_is_cancelled_however_its_step_ended(state: SubmissionState) -> None:
    unwanted = {"target": Target.CANCEL, "cancel_reason": "cleared", "state": WorkloadState.SUBMITTED}
    move = after({"state": state}, {**unwanted, "submissions": 0}, on=None)
    assert move == cancelled(make_workload(**unwanted), now=NOW)
    assert move.workload.state is WorkloadState.CANCELLED


@pytest.mark.parametrize(
    ("submission", "ready_at", "text"),
    [
        pytest.param(
            {**TAKEN_BACK, "started_at": None},
            ago(30),
            "step s-w1 on j-c1 was cancelled before it began (a slot is free on j-c2); the task waits again",
            id="moved: it waits again, as old as it was",
        ),
        pytest.param(
            {**TAKEN_BACK, "started_at": ago(3)},
            NOW,
            "step s-w1 on j-c1 had begun when it was cancelled (a slot is free on j-c2); it starts again at "
            "no cost",
            id="moved, and it had begun: it waits anew",
        ),
        pytest.param(
            ASKED,
            NOW,
            "step s-w1 on j-c1 had begun when it was cancelled; it starts again at no cost",
            id="Airflow wants the try again",
        ),
    ],
)
def test_a_wanted_step_that_we_cancelled_runs_again(submission: Values, ready_at: Any, text: str) -> None:
    move = after({"state": S.CANCELLED, **submission}, most=1)
    assert (move.workload.state, move.workload.losses, move.event) == (WorkloadState.READY, 0, "requeued")
    assert (move.workload.ready_at, move.text) == (ready_at, text)


@pytest.mark.parametrize(("losses", "again"), [(0, ""), (1, " again")])
def test_the_end_of_the_wait_says_whether_the_step_ever_ran(losses: int, again: str) -> None:
    move = waited_too_long(make_workload(losses=losses), queue_timeout_s=60)
    assert move.text == f"no cluster ran the step{again} within queue_timeout (60 s)"


def test_an_edge_that_does_not_exist_is_a_bug() -> None:
    with pytest.raises(InvalidTransition, match="no edge from SUBMITTED on placed"):
        placed(make_workload(state=WorkloadState.SUBMITTED))


@pytest.mark.parametrize(
    ("seconds", "spoken"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (250, "4 min 10 s"),
        (7500, "2 h 5 min"),
        (600, "10 min"),
        (7200, "2 h"),
        (349_300, "4 d 1 h"),
        (-3, "0 s"),
    ],
)
def test_durations_as_a_person_says_them(seconds: float, spoken: str) -> None:
    assert spoken_duration(seconds) == spoken


def test_an_end_tells_how_long_the_step_ran() -> None:
    move = after({"state": S.COMPLETED, "started_at": ago(250), "ended_at": NOW})
    assert move.text == "step s-w1 on j-c1 completed after 4 min 10 s"


@pytest.mark.parametrize(
    ("code", "reason", "asked_at", "said"),
    [
        (None, None, None, ""),
        ("INSTANCE_FAILURE", "All nodes lost.", None, " (INSTANCE_FAILURE: All nodes lost)"),
        ("BOOTSTRAP_FAILURE", "BOOTSTRAP_FAILURE: exit 1.", None, " (BOOTSTRAP_FAILURE: exit 1)"),
        ("USER_REQUEST", "Terminated by user request", None, " (USER_REQUEST: Terminated by user request)"),
        ("USER_REQUEST", "User request", ago(9), " (the agent ended it)"),
    ],
)
def test_the_end_of_a_cluster_in_words_of_which_none_comes_twice(
    code: str | None, reason: str | None, asked_at: Any, said: str
) -> None:
    cluster = make_cluster(**OVER, reason_code=code, reason=reason, end_asked_at=asked_at)
    assert lost_because(cluster) == f"cluster j-c1 ended{said}"

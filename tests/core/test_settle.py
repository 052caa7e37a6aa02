"""The failure rule: each row of the table in ``core.settle``, and what the workload makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emr_executor.core.fact_ages import ages_by_rows
from emr_executor.core.settle import Settled, lost_because, settle
from emr_executor.core.states import (
    ClusterState,
    StepState,
    SubmissionState,
    Verdict,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.workload import (
    after_submission,
    cancelled,
    never_added,
    placed,
    spoken_duration,
    waited_too_long,
)
from emr_executor.errors import InvalidTransition
from tests.builders import NOW, ago, make_cluster, make_submission, make_workload

HOLD_S = 100.0
ENDED = {"wrapper_ended": True, "ended_at": ago(1)}
LOST_CLUSTER = {
    "state": ClusterState.TERMINATED_WITH_ERRORS,
    "reason_code": "INSTANCE_FAILURE",
    "reason": "The master node was terminated",
}
LOST_TEXT = "cluster j-c1 ended (INSTANCE_FAILURE: The master node was terminated)"


def judge(
    submission: dict[str, Any],
    cluster: dict[str, Any] | None = None,
    *,
    had_last_look: bool = True,
    is_wanted: bool = True,
    is_closed: bool = True,
) -> Settled | None:
    one, its_cluster = make_submission(**submission), make_cluster(**cluster or {})
    ages = ages_by_rows([its_cluster], [one], now=NOW)
    return settle(
        one,
        its_cluster,
        ages=ages,
        loss_hold_s=HOLD_S,
        had_last_look=had_last_look,
        is_wanted=is_wanted,
        is_closed=is_closed,
    )


@pytest.mark.parametrize(
    ("submission", "cluster", "state"),
    [
        ({}, {}, None),
        ({**ENDED, "exit_code": 0}, {}, SubmissionState.COMPLETED),
        ({"step_state": StepState.COMPLETED}, {}, SubmissionState.COMPLETED),
        ({**ENDED, "exit_code": 0}, LOST_CLUSTER, SubmissionState.COMPLETED),
        ({**ENDED, "exit_code": 1}, {}, SubmissionState.FAILED),
        ({**ENDED, "exit_code": 1}, {"state": ClusterState.TERMINATING}, None),
        ({**ENDED, "exit_code": 143, "wrapper_reason": "terminated"}, {}, None),
        ({**ENDED, "exit_code": 143, "wrapper_reason": "terminated"}, LOST_CLUSTER, SubmissionState.LOST),
        ({}, LOST_CLUSTER, SubmissionState.LOST),
        ({}, {"state": ClusterState.TERMINATED}, SubmissionState.LOST),
        ({}, {"state": ClusterState.TERMINATING}, None),
        ({"step_state": StepState.CANCELLED, "ended_at": ago(50)}, {}, None),
        ({"step_state": StepState.CANCELLED, "ended_at": ago(101)}, {}, SubmissionState.CANCELLED),
        ({"step_state": StepState.INTERRUPTED, "ended_at": ago(101)}, {}, SubmissionState.FAILED),
        ({"step_state": StepState.FAILED, "ended_at": ago(50)}, {}, None),
        ({"step_state": StepState.FAILED, "ended_at": ago(101)}, {}, SubmissionState.FAILED),
        ({"step_state": StepState.FAILED, "ended_at": ago(101)}, LOST_CLUSTER, SubmissionState.LOST),
        ({"step_state": StepState.CANCELLED, "cancel_asked_at": ago(5)}, {}, SubmissionState.CANCELLED),
        ({"cancel_asked_at": ago(5)}, {}, None),
        ({"cancel_asked_at": ago(5)}, LOST_CLUSTER, SubmissionState.LOST),
        ({"state": SubmissionState.LOST}, LOST_CLUSTER, None),
    ],
)
def test_the_failure_rule(
    submission: dict[str, Any], cluster: dict[str, Any], state: SubmissionState | None
) -> None:
    settled = judge(submission, cluster)
    assert (settled.state if settled else None) is state


TAKEN_BACK = {"cancel_asked_at": ago(5), "cause": "a slot is free on j-c2"}
NEVER_BEGAN = {"started_at": None, "step_state": StepState.CANCELLED, "ended_at": ago(1)}


@pytest.mark.parametrize(
    ("submission", "cluster", "settled"),
    [
        ({**TAKEN_BACK, **NEVER_BEGAN}, {}, SubmissionState.CANCELLED),
        ({**TAKEN_BACK, "step_state": StepState.RUNNING}, {}, None),
        ({**TAKEN_BACK, "step_state": StepState.CANCEL_PENDING}, {}, None),
        ({**TAKEN_BACK, "step_state": StepState.CANCELLED}, {}, SubmissionState.CANCELLED),
        (
            {**TAKEN_BACK, **ENDED, "step_state": StepState.CANCELLED, "wrapper_reason": "terminated"},
            {},
            SubmissionState.CANCELLED,
        ),
        ({**TAKEN_BACK, **ENDED, "exit_code": 0}, {}, SubmissionState.COMPLETED),
        ({**TAKEN_BACK, **ENDED, "exit_code": 1}, {}, SubmissionState.FAILED),
        ({**TAKEN_BACK, "step_state": StepState.FAILED, "ended_at": ago(101)}, {}, SubmissionState.FAILED),
    ],
)
def test_a_step_that_was_taken_back_ends_as_it_did(
    submission: dict[str, Any], cluster: dict[str, Any], settled: SubmissionState | None
) -> None:
    """It may have begun before it was cancelled: what it did then counts."""
    found = judge(submission, cluster)
    assert (found.state if found else None) is settled


def test_a_step_that_was_taken_back_is_over_when_no_second_one_can_begin() -> None:
    """A doubled call leaves two steps, and the other may begin, or have begun, what this one did not."""
    assert judge({**TAKEN_BACK, **NEVER_BEGAN}, is_closed=False) is None
    assert judge(NEVER_BEGAN, {"state": ClusterState.TERMINATING}, is_closed=False) is None
    begun = {**TAKEN_BACK, "step_state": StepState.CANCELLED, "ended_at": ago(1)}
    assert judge(begun, is_closed=False) is None, "its wrapper is heard to its end"
    silent = judge({**begun, "ended_at": ago(101)}, is_closed=False)
    assert silent is not None
    assert silent.state is SubmissionState.CANCELLED


def test_a_step_that_began_and_failed_by_itself_does_not_blame_the_move() -> None:
    found = judge({**TAKEN_BACK, "step_state": StepState.FAILED, "ended_at": ago(101)})
    assert found is not None
    assert found.cause == "EMR reports the step FAILED and its wrapper wrote no final record"


@pytest.mark.parametrize(
    "step_state", [StepState.CANCELLED, StepState.FAILED, StepState.INTERRUPTED, StepState.COMPLETED]
)
def test_an_unwanted_step_that_we_cancelled_is_over_as_soon_as_emr_shows_it(step_state: StepState) -> None:
    found = judge({"cancel_asked_at": ago(5), "step_state": step_state}, is_wanted=False)
    assert found is not None


@pytest.mark.parametrize("state", [ClusterState.TERMINATING, ClusterState.TERMINATED])
def test_a_step_that_emr_shows_over_and_never_begun_waits_for_no_end_of_its_cluster(
    state: ClusterState,
) -> None:
    found = judge(NEVER_BEGAN, {"state": state}, had_last_look=False)
    assert found is not None
    assert found.state is SubmissionState.LOST
    begun = {**NEVER_BEGAN, "started_at": ago(9)}
    assert judge(begun, {"state": state}, had_last_look=False) is None
    assert judge(NEVER_BEGAN, {"state": ClusterState.RUNNING}) is None, "a person may have cancelled it"


def test_nothing_is_lost_before_the_last_look_at_its_cluster() -> None:
    assert judge({}, LOST_CLUSTER, had_last_look=False) is None
    done = judge({**ENDED, "exit_code": 0}, LOST_CLUSTER, had_last_look=False)
    assert done == Settled(state=SubmissionState.COMPLETED)


def test_a_deadline_is_a_failure_that_says_so() -> None:
    settled = judge({**ENDED, "exit_code": 124, "timed_out": True, "wrapper_reason": "timeout"})
    assert settled == Settled(state=SubmissionState.FAILED, cause="execution_timeout reached")


def test_a_step_that_died_with_its_cluster_did_not_reach_its_deadline() -> None:
    asked = {"cancel_asked_at": ago(5), "timed_out": True}
    lost = judge(asked, LOST_CLUSTER)
    assert lost is not None
    assert lost.state is SubmissionState.LOST
    over = {**asked, "step_state": StepState.FAILED, "ended_at": ago(1)}
    assert judge(over, {"state": ClusterState.TERMINATING}) is None
    by_wrapper = judge(
        {**ENDED, "exit_code": 124, "timed_out": True, "wrapper_reason": "timeout"}, LOST_CLUSTER
    )
    assert by_wrapper is not None
    assert by_wrapper.state is SubmissionState.FAILED


@pytest.mark.parametrize("step_state", [StepState.CANCELLED, StepState.FAILED])
def test_a_step_that_we_ended_at_its_deadline_is_not_held(step_state: StepState) -> None:
    over = {"cancel_asked_at": ago(5), "timed_out": True, "step_state": step_state, "ended_at": ago(0)}
    words = {"wrapper_ended": True, "wrapper_reason": "terminated", "exit_code": 143}
    assert judge({**over, **words}) == Settled(
        state=SubmissionState.FAILED, cause="execution_timeout reached"
    )
    assert judge(over) is None, "without a final record it may have died with its cluster, before that"
    assert judge({**over, "ended_at": ago(HOLD_S + 1)}) is not None


def test_a_loss_names_its_cluster_and_the_reason() -> None:
    settled = judge({}, LOST_CLUSTER)
    assert settled == Settled(state=SubmissionState.LOST, cause=LOST_TEXT)


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (SubmissionState.COMPLETED, Verdict.SUCCEEDED),
        (SubmissionState.FAILED, Verdict.FAILED),
        (SubmissionState.CANCELLED, Verdict.CANCELLED),
    ],
)
def test_an_end_becomes_an_outcome(state: SubmissionState, verdict: Verdict) -> None:
    move = after_submission(
        make_workload(state=WorkloadState.SUBMITTED, submissions=1),
        make_submission(state=state, cause="because", exit_code=1),
        cluster_id=make_cluster().cluster_id,
        max_submissions=3,
        now=NOW,
    )
    outcome = move.workload.outcome
    assert move.workload.state is WorkloadState.FINISHABLE
    assert outcome is not None
    assert (outcome.verdict, outcome.cause, outcome.step_id) == (verdict, "because", "s-w1")


def test_what_ended_well_is_a_success_although_its_end_was_asked_for() -> None:
    move = after_submission(
        make_workload(state=WorkloadState.SUBMITTED, submissions=1),
        make_submission(state=SubmissionState.COMPLETED, timed_out=True, cancel_asked_at=ago(5)),
        cluster_id=make_cluster().cluster_id,
        max_submissions=3,
        now=NOW,
    )
    assert move.workload.outcome is not None
    assert move.workload.outcome.verdict is Verdict.SUCCEEDED


def test_a_loss_runs_elsewhere_within_its_budget_and_fails_beyond() -> None:
    lost = make_submission(state=SubmissionState.LOST, cause=LOST_TEXT)
    first = after_submission(
        make_workload(state=WorkloadState.SUBMITTED, submissions=1),
        lost,
        cluster_id=None,
        max_submissions=2,
        now=NOW,
    )
    assert (first.workload.state, first.workload.losses) == (WorkloadState.READY, 1)
    assert (first.workload.ready_at, first.workload.accepted_at) == (NOW, ago(60))
    assert first.text == f"{LOST_TEXT}; the step will run again elsewhere (loss 1 of 2)"
    second = after_submission(
        placed(first.workload), lost, cluster_id=None, max_submissions=2, now=NOW
    ).workload
    assert second.state is WorkloadState.FINISHABLE
    assert second.outcome is not None
    assert second.outcome.verdict is Verdict.LOST
    assert second.outcome.submissions == 2


def test_a_step_that_never_reached_emr_costs_no_loss() -> None:
    workload = make_workload(state=WorkloadState.SUBMITTED, submissions=1)
    move = never_added(workload, make_submission(state=SubmissionState.LOST, cause="throttled"), now=NOW)
    assert (move.workload.state, move.workload.losses) == (WorkloadState.READY, 0)


@pytest.mark.parametrize(
    "state", [SubmissionState.COMPLETED, SubmissionState.LOST, SubmissionState.CANCELLED]
)
def test_an_unwanted_workload_is_cancelled_however_its_step_ended(state: SubmissionState) -> None:
    unwanted = make_workload(
        state=WorkloadState.SUBMITTED, target=WorkloadTarget.CANCEL, cancel_reason="cleared"
    )
    move = after_submission(
        unwanted, make_submission(state=state), cluster_id=None, max_submissions=3, now=NOW
    )
    assert move == cancelled(unwanted, now=NOW)
    assert move.workload.state is WorkloadState.CANCELLED


def test_a_step_that_we_cancelled_runs_again_when_airflow_wants_the_try_again() -> None:
    wanted_again = make_workload(state=WorkloadState.SUBMITTED, submissions=1)
    ours = make_submission(state=SubmissionState.CANCELLED, cancel_asked_at=ago(5))
    move = after_submission(wanted_again, ours, cluster_id=None, max_submissions=3, now=NOW)
    assert (move.workload.state, move.workload.losses, move.event) == (WorkloadState.READY, 0, "requeued")


def test_a_moved_step_waits_again_as_late_as_it_was_and_one_that_had_begun_anew() -> None:
    workload = make_workload(state=WorkloadState.SUBMITTED, submissions=1)
    moved = make_submission(
        state=SubmissionState.CANCELLED,
        cancel_asked_at=ago(5),
        cause="a slot is free on j-c2",
        started_at=None,
    )
    told = after_submission(workload, moved, cluster_id=make_cluster().cluster_id, max_submissions=1, now=NOW)
    assert (told.workload.state, told.workload.ready_at, told.workload.losses) == (
        WorkloadState.READY,
        workload.ready_at,
        0,
    )
    assert told.text == (
        "step s-w1 on j-c1 was cancelled before it began (a slot is free on j-c2); the task waits again"
    )
    begun = after_submission(
        workload,
        replace(moved, started_at=ago(3)),
        cluster_id=make_cluster().cluster_id,
        max_submissions=1,
        now=NOW,
    )
    assert (begun.workload.state, begun.workload.ready_at, begun.workload.losses) == (
        WorkloadState.READY,
        NOW,
        0,
    )
    assert begun.text == (
        "step s-w1 on j-c1 had begun when it was cancelled (a slot is free on j-c2); "
        "it starts again at no cost"
    )


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
    move = after_submission(
        make_workload(state=WorkloadState.SUBMITTED, submissions=1),
        make_submission(state=SubmissionState.COMPLETED, started_at=ago(250), ended_at=NOW),
        cluster_id=make_cluster().cluster_id,
        max_submissions=3,
        now=NOW,
    )
    assert move.text == "step s-w1 on j-c1 completed after 4 min 10 s"


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        ({}, "cluster j-c1 ended"),
        (
            {"reason_code": "INSTANCE_FAILURE", "reason": "All nodes lost."},
            "INSTANCE_FAILURE: All nodes lost",
        ),
        (
            {"reason_code": "BOOTSTRAP_FAILURE", "reason": "BOOTSTRAP_FAILURE: exit 1."},
            "BOOTSTRAP_FAILURE: exit 1",
        ),
        (
            {"reason_code": "USER_REQUEST", "reason": "Terminated by user request"},
            "Terminated by user request",
        ),
        (
            {"reason_code": "USER_REQUEST", "reason": "User request", "end_asked_at": ago(9)},
            "the agent ended it",
        ),
    ],
)
def test_the_end_of_a_cluster_in_words_of_which_none_comes_twice(
    cluster: dict[str, Any], sentence: str
) -> None:
    text = lost_because(make_cluster(state=ClusterState.TERMINATED, **cluster))
    code = "USER_REQUEST: " if sentence.startswith("Terminated") else ""
    assert text == (f"cluster j-c1 ended ({code}{sentence})" if cluster else sentence)

"""Folds are monotone: late, doubled and reordered news ends in the same state."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from emr_executor.core.model import ClusterId, ObservedCluster, ObservedStep, StepId, StepRecord, Submission
from emr_executor.core.observe import observe_cluster, observe_idleness, observe_record, observe_step
from emr_executor.core.states import ClusterState, RecordPhase, StepState, SubmissionState
from tests.builders import NOW, ago, make_cluster, make_submission


def step(state: StepState) -> ObservedStep:
    return ObservedStep(
        step_id=StepId("s-1"), name="n", state=state, failure="x" * (state is StepState.FAILED)
    )


def record(phase: RecordPhase, exit_code: int | None = None, reason: str = "", tail: str = "") -> StepRecord:
    base = make_submission()
    return StepRecord(
        submission_id=base.submission_id,
        cluster_uuid=base.cluster_uuid,
        mark=f"{phase}-{exit_code}",
        phase=phase,
        at=ago(5),
        exit_code=exit_code,
        reason=reason,
        tail=tail,
    )


def intended() -> Submission:
    return make_submission(state=SubmissionState.INTENDED, step_id=None, started_at=None)


@pytest.mark.parametrize(
    "order", list(permutations([StepState.PENDING, StepState.RUNNING, StepState.COMPLETED]))
)
def test_listings_in_any_order_end_completed(order: tuple[StepState, ...]) -> None:
    submission = intended()
    for state in (*order, *order):
        submission = observe_step(submission, step(state), now=NOW)
    assert (submission.step_state, submission.state) == (StepState.COMPLETED, SubmissionState.RUNNING)
    assert (submission.step_id, submission.ended_at) == ("s-1", NOW)


def test_a_listing_gives_an_intended_submission_its_step() -> None:
    seen = observe_step(intended(), step(StepState.PENDING), now=NOW)
    assert (seen.state, seen.step_id, seen.submitted_at) == (SubmissionState.PENDING, "s-1", NOW)


def test_a_step_in_a_state_that_is_new_to_us_is_there_and_not_over() -> None:
    shown = replace(step(StepState.PENDING), state=None)
    there = observe_step(intended(), shown, now=NOW)
    assert (there.state, there.step_id, there.step_state) == (SubmissionState.PENDING, "s-1", None)
    running = observe_step(there, step(StepState.RUNNING), now=NOW)
    assert observe_step(running, shown, now=NOW) == running


def test_a_final_record_stands() -> None:
    ended = observe_record(make_submission(), record(RecordPhase.ENDED, 1, tail="ValueError: x\n"))
    again = observe_record(ended, record(RecordPhase.RUNNING))
    assert (ended.wrapper_ended, ended.exit_code, ended.cause) == (True, 1, "ValueError: x")
    assert (again.wrapper_ended, again.exit_code, again.record_mark) == (True, 1, "RUNNING-None")


def test_a_wrapper_that_met_its_deadline_says_so() -> None:
    ended = observe_record(make_submission(), record(RecordPhase.ENDED, 124, "timeout"))
    assert (ended.timed_out, ended.wrapper_reason) == (True, "timeout")


def test_an_end_that_was_seen_late_has_the_times_of_emr() -> None:
    """A step of 5 s whose end is seen after a minute ran for 5 s."""
    live = make_submission(started_at=ago(70))
    shown = replace(step(StepState.COMPLETED), started_at=ago(65), ended_at=ago(60))
    over = observe_step(live, shown, now=NOW)
    assert (over.started_at, over.ended_at) == (ago(65), ago(60))
    assert observe_step(over, shown, now=ago(-30)) == over


@pytest.mark.parametrize("is_record_first", [True, False])
def test_the_times_of_a_step_are_never_of_two_clocks(is_record_first: bool) -> None:
    """The wrapper's clock is an hour ahead: whatever comes first, both times are the wrapper's."""
    words = replace(record(RecordPhase.ENDED, 0), started_at=ago(-3595), at=ago(-3600))
    shown = replace(step(StepState.COMPLETED), started_at=ago(7), ended_at=NOW)
    submission = make_submission(started_at=ago(8))
    if is_record_first:
        over = observe_step(observe_record(submission, words), shown, now=NOW)
    else:
        over = observe_record(observe_step(submission, shown, now=NOW), words)
    assert (over.started_at, over.ended_at) == (ago(-3595), ago(-3600))


def test_a_sign_of_life_tells_when_the_step_began() -> None:
    seen = observe_record(
        make_submission(started_at=None), replace(record(RecordPhase.RUNNING), started_at=ago(65))
    )
    assert seen.started_at == ago(65)


def test_the_twin_that_completed_counts_after_the_end_of_the_other() -> None:
    loser = replace(step(StepState.FAILED), step_id=StepId("s-2"))
    ended = observe_step(intended(), loser, now=NOW)
    over = observe_step(ended, step(StepState.COMPLETED), now=NOW)
    assert (over.step_id, over.step_state) == ("s-1", StepState.COMPLETED)


def test_a_settled_submission_does_not_change_any_more() -> None:
    settled = make_submission(state=SubmissionState.COMPLETED)
    assert observe_step(settled, step(StepState.FAILED), now=NOW) == settled


def seen(state: ClusterState) -> ObservedCluster:
    return ObservedCluster(cluster_id=ClusterId("j-c1"), name="n", state=state, reason_code="X")


def test_a_cluster_never_goes_back() -> None:
    over = observe_cluster(make_cluster(), seen(ClusterState.TERMINATED), now=NOW)
    assert over.ended_at == NOW
    assert observe_cluster(over, seen(ClusterState.RUNNING), now=NOW).state is ClusterState.TERMINATED


def test_a_cluster_in_a_state_that_is_new_to_us_is_as_it_was() -> None:
    up = make_cluster()
    assert observe_cluster(up, replace(seen(ClusterState.RUNNING), state=None), now=NOW) == up


def test_running_and_waiting_alternate_and_the_first_makes_it_ready() -> None:
    starting = make_cluster(state=ClusterState.STARTING, ready_at=None)
    running = observe_cluster(starting, seen(ClusterState.RUNNING), now=NOW)
    assert running.ready_at == NOW
    assert observe_cluster(running, seen(ClusterState.WAITING), now=NOW).state is ClusterState.WAITING


def test_idleness_begins_when_the_last_step_is_over_and_ends_with_a_new_one() -> None:
    idle = observe_idleness(make_cluster(), live_submissions=0, now=NOW)
    assert idle.idle_since == NOW
    assert observe_idleness(idle, live_submissions=0, now=ago(-50)).idle_since == NOW
    assert observe_idleness(idle, live_submissions=1, now=NOW).idle_since is None
    starting = make_cluster(state=ClusterState.STARTING)
    assert observe_idleness(starting, live_submissions=0, now=NOW).idle_since is None

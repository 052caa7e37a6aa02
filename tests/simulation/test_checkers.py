"""Each checker on ledgers made by hand: a clean life passes, and each broken promise is named."""

from __future__ import annotations

import pytest

from tests.simulation.ledgers import TASK, Ledgers, a_clean_life


@pytest.fixture
def told() -> Ledgers:
    """A cluster of ours that is up, and a first try that runs since 5."""
    ledgers = Ledgers()
    ledgers.launch()
    ledgers.queued(5)
    return ledgers


def test_a_clean_life_breaks_nothing() -> None:
    assert a_clean_life().check() == []


def test_nothing_at_all_breaks_nothing() -> None:
    assert Ledgers().check() == []


# -- never twice at once, never too early, done once -------------------------------------------------------


def test_two_processes_of_one_try_at_once(told: Ledgers) -> None:
    told.began(10, "s1", "w1-1")
    # EMR shows it over, but its process lives on: the ledger knows.
    told.step(12, "s1", "step_state", "CANCELLED")
    told.ran(13, 30, "s2", "w1-2")
    told.step(20, "s1", "process_ended", exit_code=-9)
    told.ends(40, "success")
    (violation,) = told.check()
    assert (violation.promise, violation.subject) == ("never_twice_at_once", TASK)
    assert "s2" in violation.text
    assert "s1" in violation.text


def test_two_tries_of_one_task_at_once(told: Ledgers) -> None:
    told.began(10, "s1", "w1-1")
    told.airflow_event(12, "cleared")
    told.queued(13, "w2", 2)
    told.ran(14, 30, "s2", "w2-1")
    told.end(31, "s1", -9, "CANCELLED")
    told.ends(40, "success", "w2", 2)
    assert told.broken() == {"never_twice_at_once"}


def test_one_process_after_the_other_is_fine(told: Ledgers) -> None:
    told.began(10, "s1", "w1-1")
    told.end(20, "s1", -9, "CANCELLED")
    told.ran(20, 30, "s2", "w1-2")
    told.ends(40, "success")
    assert told.broken() == set()


def test_a_step_that_emr_refuses_is_a_reason_to_fail(told: Ledgers) -> None:
    told.ends(40, "failed")
    assert told.broken() == {"truthful"}
    told.terms["refused"] = frozenset({"w1"})
    assert told.broken() == set()


def test_added_again_while_the_earlier_step_was_still_pending(told: Ledgers) -> None:
    told.add(10, "s1", "w1-1")
    told.ran(12, 30, "s2", "w1-2")
    told.step(31, "s1", "step_state", "CANCELLED")
    told.ends(40, "success")
    assert told.broken() == {"never_too_early"}


def test_added_again_while_the_cluster_was_only_ending(told: Ledgers) -> None:
    told.terms["max_clusters"] = {"default": 2}
    told.launch(0, "c2")
    told.add(10, "s1", "w1-1")
    told.cluster_is(20, "TERMINATING")
    told.add(21, "s2", "w1-2", "c2")
    told.cluster_is(30, "TERMINATED")
    told.start(31, "s2")
    told.end(35, "s2")
    told.reported(40, "success")
    told.cluster_ends(50, "c2")
    assert told.broken() == {"never_too_early"}


def test_two_steps_of_one_submission_do_its_work(told: Ledgers) -> None:
    told.add(10, "s1", "w1-1")
    told.add(10, "s2", "w1-1")
    told.start(11, "s1")
    told.end(20, "s1")
    told.start(21, "s2")
    told.end(30, "s2")
    told.ends(40, "success")
    assert told.broken() == {"never_doubled"}
    told.terms["stood_back"] = frozenset({"s2"})
    assert told.broken() == set()


def test_a_twin_that_is_alive_counts(told: Ledgers) -> None:
    told.add(10, "s1", "w1-1")
    told.add(10, "s2", "w1-1")
    told.step(11, "s2", "step_state", "CANCELLED")
    told.ran(12, 30, "s3", "w1-2")
    told.step(31, "s1", "step_state", "CANCELLED")
    told.ends(40, "success")
    assert told.broken() == {"never_too_early"}


def test_a_completed_step_is_run_again(told: Ledgers) -> None:
    told.ran(10, 20, "s1", "w1-1")
    told.ran(21, 30, "s2", "w1-2")
    told.ends(40, "success")
    assert told.broken() == {"done_once"}


# -- every try ends, once ----------------------------------------------------------------------------------


def test_a_try_that_ends_twice(told: Ledgers) -> None:
    told.ran(10, 20, "s1", "w1-1")
    told.reported(25, "success")
    told.ends(26, "success")
    assert told.broken() == {"ends_once"}


def test_a_try_that_is_still_open(told: Ledgers) -> None:
    told.ran(10, 20, "s1", "w1-1")
    told.cluster_ends(50)
    told.terms["open_tries"] = (TASK,)
    (violation,) = told.check()
    assert (violation.promise, violation.subject) == ("never_lost", TASK)


# -- truthful ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exit_code", "state"),
    [
        pytest.param(None, "success", id="success without any step"),
        pytest.param(1, "success", id="success of a failed step"),
        pytest.param(0, "failed", id="failure of a completed step"),
        pytest.param(0, "up_for_retry", id="a retry of a completed step"),
    ],
)
def test_a_state_that_is_not_what_the_step_ended_with(
    told: Ledgers, exit_code: int | None, state: str
) -> None:
    if exit_code is not None:
        told.ran(10, 20, "s1", "w1-1", exit_code=exit_code)
    told.ends(25, state)
    assert told.broken() == {"truthful"}


def test_failure_of_a_step_that_only_its_cluster_ended(told: Ledgers) -> None:
    told.began(10, "s1", "w1-1")
    told.cluster_is(20, "TERMINATING")
    told.end(20, "s1", -9, "CANCELLED")
    told.cluster_is(21, "TERMINATED")
    told.reported(25, "failed")
    assert told.broken() == {"truthful"}
    told.terms["max_submissions"] = 1
    assert told.broken() == set(), "as often as was agreed is a reason"


def test_failure_that_a_person_caused(told: Ledgers) -> None:
    told.began(10, "s1", "w1-1")
    told.end(20, "s1", -9, "CANCELLED")
    told.ends(25, "failed")
    assert told.broken() == {"truthful"}
    told.terms["person_cancelled"] = frozenset({"s1"})
    assert told.broken() == set()


def test_failure_of_user_code_after_a_good_step(told: Ledgers) -> None:
    told.ran(10, 20, "s1", "w1-1")
    told.ends(25, "failed")
    told.terms["fails_after"] = frozenset({"w1"})
    assert told.broken() == set()


def test_success_of_a_command_whose_end_emr_never_showed(told: Ledgers) -> None:
    told.began(10, "s1", "w1-1")
    told.cluster_is(20, "TERMINATING")
    told.end(20, "s1", 0, "CANCELLED")
    told.cluster_is(21, "TERMINATED")
    told.reported(25, "success")
    assert told.broken() == {"truthful"}
    told.terms["ended_well"] = frozenset({"s1"})
    assert told.broken() == set()


# -- no try spent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["purged", "killed_externally", "reset"])
def test_a_try_lost_to_our_silence(told: Ledgers, event: str) -> None:
    told.airflow_event(400, event)
    told.cluster_ends(500)
    assert told.broken() == {"no_try_spent"}
    told.terms["may_be_purged"] = True
    assert told.broken() == set(), "in a weather that may keep every agent away"


def test_a_try_that_was_cleared_may_be_reset_and_no_other(told: Ledgers) -> None:
    told.cluster_ends(500)
    told.airflow_event(390, "cleared", was="running")
    told.airflow_event(400, "reset", "its next id", was="restarting")
    assert told.broken() == set(), "the clear had ended it already"
    told.airflow_event(420, "reset", "another", was="running")
    assert told.broken() == {"no_try_spent"}


@pytest.mark.parametrize("event", ["purged", "killed_externally"])
def test_a_clear_excuses_no_silence(told: Ledgers, event: str) -> None:
    told.airflow_event(390, "cleared")
    told.airflow_event(400, event)
    told.cluster_ends(500)
    assert "no_try_spent" in told.broken()


# -- never leaked ------------------------------------------------------------------------------------------


def test_a_cluster_that_is_left(told: Ledgers) -> None:
    told.ran(10, 20, "s1", "w1-1")
    told.reported(25, "success")
    (violation,) = told.check()
    assert (violation.promise, violation.subject) == ("never_leaked", "airflow-emr/d1/default/c")
    assert "left behind" in violation.text


def test_a_launch_without_a_dead_mans_switch() -> None:
    told = Ledgers()
    told.launch(switch_s=None)
    told.cluster_ends(50)
    (violation,) = told.check()
    assert violation.promise == "never_leaked"
    assert "auto-termination" in violation.text


def test_a_step_of_nobody(told: Ledgers) -> None:
    told.ran(10, 20, "s1", "w1-1")
    told.reported(25, "success")
    told.ran(26, 30, "s2", "w9-1")
    told.cluster_ends(50)
    (violation,) = told.check()
    assert (violation.promise, violation.subject) == ("never_leaked", "w9")


def test_a_process_that_outlives_everything(told: Ledgers) -> None:
    told.began(10, "s1", "w1-1")
    told.step(20, "s1", "step_state", "CANCELLED")
    told.airflow_event(21, "cleared")
    told.cluster_ends(50)
    (violation,) = told.check()
    assert violation.promise == "never_leaked"
    assert "left running" in violation.text


# -- the cap, and others -----------------------------------------------------------------------------------


def test_one_cluster_too_many(told: Ledgers) -> None:
    told.airflow_event(6, "marked")
    told.launch(20, "c2")
    told.cluster_ends(30)
    told.cluster_ends(40, "c2")
    (violation,) = told.check()
    assert (violation.promise, violation.subject) == ("cap_held", "default")
    assert "2 clusters at once" in violation.text


def test_a_cluster_that_is_ending_does_not_count(told: Ledgers) -> None:
    told.airflow_event(6, "marked")
    told.cluster_is(20, "TERMINATING")
    told.launch(20, "c2")
    told.cluster_is(21, "TERMINATED")
    told.cluster_ends(40, "c2")
    assert told.broken() == set()


@pytest.fixture
def foreign() -> Ledgers:
    """Somebody else's cluster, whose name looks like ours, with a step that runs."""
    ledgers = Ledgers()
    ledgers.terms["person_launched"] = frozenset({"theirs"})
    ledgers.launch(0, "theirs", name="airflow-emr/d10/default/x", switch_s=None)
    ledgers.add(1, "s1", "", "theirs")
    ledgers.start(2, "s1")
    return ledgers


def test_what_others_do_with_their_own_is_no_business_of_ours(foreign: Ledgers) -> None:
    foreign.end(10, "s1", 1)
    assert foreign.check() == []


def test_a_foreign_cluster_is_ended(foreign: Ledgers) -> None:
    foreign.cluster_ends(10, "theirs")
    (violation,) = foreign.check()
    assert (violation.promise, violation.subject) == ("others_untouched", "airflow-emr/d10/default/x")


@pytest.mark.parametrize("state", ["CANCEL_PENDING", "CANCELLED"])
def test_a_foreign_step_is_cancelled(foreign: Ledgers, state: str) -> None:
    foreign.step(10, "s1", "step_state", state)
    assert foreign.broken() == {"others_untouched"}


def test_a_step_of_ours_on_a_foreign_cluster(foreign: Ledgers) -> None:
    foreign.queued(5)
    foreign.add(10, "s2", "w1-1", "theirs")
    foreign.airflow_event(11, "marked")
    assert foreign.broken() == {"others_untouched"}


def test_a_cluster_that_is_launched_in_the_name_of_others(foreign: Ledgers) -> None:
    foreign.launch(10, "odd", name="airflow-emr/d10/default/y")
    (violation,) = foreign.check()
    assert (violation.promise, violation.subject) == ("others_untouched", "airflow-emr/d10/default/y")


def test_a_late_twin_that_does_nothing_was_not_added_by_us(told: Ledgers) -> None:
    """The network delivers the call of w1-1 once more when w1-2 has long completed."""
    told.add(10, "s1", "w1-1")
    told.step(15, "s1", "step_state", "CANCELLED")
    told.ran(20, 30, "s2", "w1-2")
    told.add(40, "s3", "w1-1")
    told.ends(50, "success")
    assert told.broken() == set()
    told.start(55, "s3")
    assert "done_once" in told.broken()

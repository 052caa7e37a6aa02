"""The checkers find each kind of bug within a few seeds and name its promise; without it the same worlds
are clean. So a campaign without a finding says something."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from emr_executor.core.states import Verdict
from tests.simulation import mutants
from tests.simulation.mutants import Bug, bend, deaf
from tests.simulator.fault_profile import FaultProfile
from tests.simulator.run import run_scenario
from tests.simulator.scenario import Scenario, draw_scenario
from tests.simulator.stores import in_memory
from tests.simulator.world import Outcome

WORKLOADS = 30
SEEDS = range(3)
"""A bug must be found in one of these."""


BUGS = {
    "an outcome is never finished": Bug(promise="never_lost", around=bend(store=mutants.NeverFinishes)),
    "a result is stored, and never told": Bug(promise="no_try_spent", around=mutants.in_silence),
    "an outcome is never read by the executor": Bug(
        promise="no_try_spent",
        profile=partial(FaultProfile, cleared_per_h=120),
        stores=bend(scheduler=deaf("take_outcomes", [])),
    ),
    "a doubled step is not claimed": Bug(
        promise="never_doubled",
        around=bend(emr=mutants.AddsTwice, records=mutants.ClaimsNothing),
    ),
    "a cluster that is ending is taken for over": Bug(
        promise="never_too_early",
        profile=partial(FaultProfile, person_ends_cluster_per_h=60, termination_hangs_per_h=200),
        plan=mutants.with_steps_of(60),
        around=bend(emr=mutants.TakesEndingForOver),
    ),
    "a completed step is run again": Bug(promise="done_once", around=bend(store=mutants.RunsAgain)),
    "a cluster is launched twice": Bug(promise="cap_held", around=bend(emr=mutants.LaunchesTwice)),
    "a cluster is forgotten": Bug(promise="never_leaked", around=bend(emr=mutants.LaunchesAndForgets)),
    "a cluster's row is never written": Bug(
        promise="cap_held", plan=mutants.with_pool(max_clusters=1), around=bend(store=mutants.ForgetsRow)
    ),
    "auto-termination is left out": Bug(
        promise="never_leaked", around=bend(emr=mutants.LaunchesWithoutSwitch)
    ),
    "one cluster more than was agreed": Bug(
        promise="cap_held", plan=mutants.with_slots(1, max_clusters=2), settings=mutants.cap_raised
    ),
    "another deployment's cluster is ended": Bug(
        promise="others_untouched", plan=mutants.with_foreign_clusters, around=bend(emr=mutants.EndsOthers)
    ),
    "steps are added to another's cluster": Bug(
        promise="others_untouched", plan=mutants.with_foreign_clusters, around=bend(emr=mutants.AddsElsewhere)
    ),
    "success is told of a failed step": Bug(
        promise="truthful",
        around=bend(store=partial(mutants.Lies, heard=Verdict.FAILED, told=Verdict.SUCCEEDED)),
    ),
    "failure is told of a completed step": Bug(
        promise="truthful",
        around=bend(store=partial(mutants.Lies, heard=Verdict.SUCCEEDED, told=Verdict.FAILED)),
    ),
    "parked tries are not heartbeaten": Bug(
        promise="no_try_spent", plan=mutants.with_steps_of(400), around=bend(api=deaf("heartbeat"))
    ),
    "a dead scheduler's tries are not adopted": Bug(
        promise="no_try_spent",
        profile=partial(FaultProfile, scheduler_killed_per_h=60),
        stores=bend(scheduler=deaf("adopt", set())),
    ),
    "a step is left behind others": Bug(
        promise="no_idle_slot",
        plan=mutants.both(mutants.crowded, mutants.with_steps_of(300, 300, 10, 10)),
        around=bend(emr=deaf("cancel_steps")),
    ),
    "a cancelled step is left alive beside the next try's": Bug(
        promise="never_twice_at_once",
        profile=partial(FaultProfile, cleared_per_h=120),
        plan=mutants.with_steps_of(120),
        around=bend(emr=mutants.TakesCancelForDone),
    ),
}


def _planned(seed: int, bug: Bug) -> Scenario:
    return bug.plan(replace(draw_scenario(seed, workloads=WORKLOADS), profile=bug.profile()))


def _without(seed: int, bug: Bug) -> Outcome:
    return run_scenario(_planned(seed, bug), in_memory())


def _with(seed: int, bug: Bug) -> Outcome:
    stores = bug.stores(in_memory())
    return run_scenario(bug.settings(_planned(seed, bug)), stores, bug.around)


@pytest.mark.parametrize("what", sorted(BUGS))
def test_a_planted_bug_is_found(what: str) -> None:
    bug = BUGS[what]
    for seed in SEEDS:
        assert _without(seed, bug).violations == ()
        outcome = _with(seed, bug)
        promises = {violation.promise for violation in outcome.violations}
        if bug.promise in promises:
            assert outcome.stories, "and its story is told"
            return
    raise AssertionError(f"{bug.promise} was not found broken in {len(SEEDS)} seeds")


@pytest.mark.parametrize(
    "what",
    ["a doubled step is not claimed", "a completed step is run again", "failure is told of a completed step"],
)
def test_a_planted_bug_is_found_in_a_storm_too(what: str) -> None:
    bug = BUGS[what]
    promises = set()
    for seed in SEEDS:
        scenario = draw_scenario(seed, workloads=WORKLOADS)
        outcome = run_scenario(scenario, in_memory(), bug.around)
        promises |= {violation.promise for violation in outcome.violations}
    assert bug.promise in promises


def test_steps_that_are_added_twice_are_done_once() -> None:
    for seed in SEEDS:
        outcome = _with(seed, Bug(promise="", around=bend(emr=mutants.AddsTwice)))
        assert outcome.violations == ()


def test_what_heals_breaks_no_promise() -> None:
    """The last write of every phase gets lost: another one finds that Airflow was told already."""
    bug = Bug(promise="", stores=bend(phase=deaf("record_over")))
    outcome = _with(0, bug)
    assert outcome.violations == ()
    assert outcome.counts["airflow/run_refused"] > 0, "which is how the others find out"

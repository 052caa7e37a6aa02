"""Placement in whole worlds without faults: who waits, what is launched, how many calls it takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from tests.simulation import mutants
from tests.simulation.finished_world import FinishedWorld, live
from tests.simulator.fault_profile import FaultProfile
from tests.simulator.scenario import Scenario

WORKLOADS = 80
SEEDS = range(4)


def _few_slots(scenario: Scenario) -> Scenario:
    """Few slots and many tasks; a quarter of them are long."""
    calm = replace(scenario, profile=FaultProfile(), refused_share=0.0)
    return mutants.both(mutants.crowded, mutants.with_steps_of(200, 20, 40, 10))(calm)


@cache
def _lived(seed: int) -> FinishedWorld:
    return live(seed, workloads=WORKLOADS, plan=_few_slots)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_step_waits_behind_another_while_a_slot_of_its_pool_is_free(seed: int) -> None:
    assert _lived(seed).outcome.violations == ()


def test_a_cluster_that_is_launched_runs_a_step() -> None:
    for seed in SEEDS:
        emr = _lived(seed).emr
        launched = {entry.cluster_id for entry in emr if entry.event == "cluster_launched"}
        ours = {cluster_id for cluster_id in launched if _lived(seed).world.is_ours(cluster_id)}
        ran = {entry.cluster_id for entry in emr if entry.event == "process_started"}
        assert ours <= ran


def test_steps_go_eight_to_a_call_while_there_is_a_queue_and_moves_are_few() -> None:
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        counts += _lived(seed).outcome.counts
    steps = counts["emr/step_added"]
    assert counts["emr.add_steps"] / steps < 0.2
    assert counts["emr.cancel_steps"] / steps < 0.05

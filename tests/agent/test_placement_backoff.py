"""What was refused is not asked for again at once: holds by cluster, and one for the call budget."""

from __future__ import annotations

import pytest

from emr_executor.agent.placement_backoff import (
    BUDGET_HOLD_S,
    FIRST_HOLD_S,
    LONGEST_HOLD_S,
    PlacementBackoff,
    hold_after_s,
)
from emr_executor.core.model import ClusterId, ClusterUuid
from emr_executor.core.states import SubmissionState, WorkloadState
from emr_executor.errors import AwsUnavailable, BudgetSpent, StepLimitReached, Throttled, TryElsewhere
from tests.agent.fakes import ManualClock, World, ready

ONE, OTHER = ClusterUuid("one"), ClusterUuid("other")
BOTH = (ONE, OTHER)


@pytest.fixture
def holds(clock: ManualClock) -> PlacementBackoff:
    return PlacementBackoff(clock)


def test_a_refusal_holds_its_cluster_alone(holds: PlacementBackoff, clock: ManualClock) -> None:
    holds.refused(ONE, "throttled")
    assert holds.held(BOTH) == {ONE}
    clock.passed_s += FIRST_HOLD_S
    assert holds.held(BOTH) == frozenset()


def test_each_refusal_doubles_the_hold_up_to_a_minute(holds: PlacementBackoff, clock: ManualClock) -> None:
    for refusals in range(1, 12):
        holds.refused(ONE, "throttled")
        clock.passed_s += hold_after_s(refusals) - 0.001
        assert holds.held(BOTH) == {ONE}
        clock.passed_s += 0.001
        assert holds.held(BOTH) == frozenset()
    assert [hold_after_s(n) for n in (1, 2, 3)] == [2.0, 4.0, 8.0]
    assert hold_after_s(12) == hold_after_s(10_000) == LONGEST_HOLD_S


def test_a_cluster_that_takes_steps_begins_anew(holds: PlacementBackoff, clock: ManualClock) -> None:
    for _ in range(4):
        holds.refused(ONE, "throttled")
    holds.added(ONE)
    assert holds.held(BOTH) == frozenset()
    holds.refused(ONE, "throttled")
    clock.passed_s += FIRST_HOLD_S
    assert holds.held(BOTH) == frozenset()


def test_a_spent_budget_holds_all(holds: PlacementBackoff, clock: ManualClock) -> None:
    holds.budget_spent()
    assert holds.held(BOTH) == set(BOTH)
    clock.passed_s += BUDGET_HOLD_S
    assert holds.held(BOTH) == frozenset()


def test_clusters_that_are_gone_are_forgotten(holds: PlacementBackoff) -> None:
    holds.refused(ONE, "throttled")
    assert holds.held((OTHER,)) == frozenset()
    assert holds.held(BOTH) == frozenset()


@pytest.mark.parametrize(
    ("error", "hold_s"),
    [
        (BudgetSpent("not made"), BUDGET_HOLD_S),
        (Throttled("slower"), FIRST_HOLD_S),
        (AwsUnavailable("nobody"), FIRST_HOLD_S),
        (TryElsewhere("no", cluster_id="j-1"), FIRST_HOLD_S),
        (StepLimitReached("256", cluster_id="j-1"), FIRST_HOLD_S),
    ],
)
async def test_steps_that_were_refused_are_not_asked_for_again_at_once(
    world: World, error: Exception, hold_s: float
) -> None:
    await world.begin(ready())
    world.emr.refuse["add_steps"] = error
    while "add_steps" not in world.emr.calls:
        await world.tick()
    assert world.workload("w1").state is WorkloadState.READY
    await world.tick(seconds=0.0, times=50)
    assert world.emr.calls.count("add_steps") == 1, "a wake after each refusal asked again and again"
    del world.emr.refuse["add_steps"]
    await world.tick(seconds=hold_s + 1)
    assert world.emr.submissions() == ["w1-2"]
    assert [one.state for one in world.submissions("w1")] == [SubmissionState.LOST, SubmissionState.PENDING]
    assert world.workload("w1").losses == 0
    assert world.emr.clusters.keys() == {ClusterId("j-1")}

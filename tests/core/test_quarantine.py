"""Quarantine in the pure core: what the plan leaves alone, what still counts, and what contradicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emr_executor.core.contradictions import contradictions
from emr_executor.core.fact_ages import Ages
from emr_executor.core.plan import Plan, culprit
from emr_executor.core.states import ClusterTarget, StepState, SubmissionState, WorkloadState, WorkloadTarget
from tests import builders
from tests.builders import ago, make_cluster, make_limits, make_snapshot, make_submission, make_workload

HELD: dict[str, Any] = {"quarantine": "why"}
CANCEL = WorkloadTarget.CANCEL


def decide(*rows: Any, **limits: Any) -> Plan:
    return builders.decide(make_snapshot(*rows), **limits)


def test_a_held_workload_is_neither_placed_nor_expired_nor_told_to_wait_nor_launched_for() -> None:
    assert decide(make_workload(**HELD, ready_at=ago(9999)), queue_timeout_s=10.0) == Plan()
    assert decide(make_workload(**HELD), make_cluster()) == Plan()


@pytest.mark.parametrize("state", [WorkloadState.READY, WorkloadState.SUBMITTED, WorkloadState.FINISHABLE])
def test_a_held_workload_that_nobody_wants_is_dropped_once_nothing_of_it_lives(state: WorkloadState) -> None:
    held = make_workload(state=state, target=CANCEL, **HELD)
    assert decide(held).drop == (held.workload_id,)
    riding = decide(held, make_cluster(), make_submission())
    assert (riding.drop, [c.submission_id for c in riding.cancel]) == ((), ["w1-1"])


def test_no_workload_is_dropped_while_a_submission_of_it_lives() -> None:
    assert decide(make_workload(target=CANCEL), make_cluster(), make_submission()).drop == ()


def test_a_step_of_a_held_workload_is_not_cancelled_for_being_late() -> None:
    workload = make_workload(state=WorkloadState.SUBMITTED, ready_at=ago(9999), **HELD)
    pending = make_submission(state=SubmissionState.PENDING)
    assert decide(workload, make_cluster(), pending, queue_timeout_s=10.0).cancel == ()


def test_a_held_submission_is_not_cancelled_and_its_cluster_drains() -> None:
    workload = make_workload(state=WorkloadState.SUBMITTED, target=CANCEL)
    decided = decide(workload, make_workload("w2"), make_cluster(), make_submission(**HELD))
    assert (decided.cancel, decided.drop, decided.place) == ((), (), ())
    assert [(r.cluster_uuid, r.target) for r in decided.retarget] == [("c1", ClusterTarget.DRAIN)]
    assert [launch.count for launch in decided.launch] == [1]


@pytest.mark.parametrize(
    ("step_state", "ends"), [(StepState.RUNNING, False), (None, False), (StepState.FAILED, True)]
)
def test_a_draining_cluster_ends_when_emr_shows_its_held_step_over(
    step_state: StepState | None, ends: bool
) -> None:
    draining = make_cluster(target=ClusterTarget.DRAIN)
    workload = make_workload(state=WorkloadState.SUBMITTED)
    held = make_submission(step_state=step_state, **HELD)
    assert [r.target for r in decide(workload, draining, held).retarget] == [ClusterTarget.END] * ends
    other = make_submission("w2", step_state=StepState.FAILED)
    assert decide(workload, make_workload("w2"), draining, held, other).retarget == ()


def test_a_held_cluster_counts_against_the_cap_and_is_left_alone() -> None:
    held = make_cluster(idle_since=ago(9999), template_hash="old", **HELD)
    decided = decide(held, *(make_workload(f"w{i}") for i in range(9)), max_clusters=2)
    assert (decided.place, decided.retarget, decided.end) == ((), (), ())
    assert [launch.count for launch in decided.launch] == [1]
    ending = make_cluster(target=ClusterTarget.END, **HELD)
    assert decide(ending).is_empty


def test_a_held_cluster_is_none_of_the_clusters_that_are_kept() -> None:
    held, idle = make_cluster("c1", **HELD), make_cluster("c2", idle_since=ago(9999))
    assert decide(held, idle, min_clusters=1).retarget == ()


@pytest.mark.parametrize(
    ("workload", "live", "why"),
    [
        ({"state": WorkloadState.READY}, 1, "workload w1 is READY and its submission w1-1 is RUNNING"),
        (
            {"state": WorkloadState.FINISHABLE},
            1,
            "workload w1 is FINISHABLE and its submission w1-1 is RUNNING",
        ),
        ({"state": WorkloadState.SUBMITTED}, 0, "workload w1 is SUBMITTED and has no live submission"),
        ({"state": WorkloadState.SUBMITTED}, 2, "workload w1 has 2 live submissions: w1-1, w1-2"),
        ({"state": WorkloadState.SUBMITTED}, 1, None),
        ({"state": WorkloadState.READY}, 0, None),
        ({"state": WorkloadState.SUBMITTED, **HELD}, 0, None),
    ],
)
def test_what_cannot_be_true_together(workload: dict[str, Any], live: int, why: str | None) -> None:
    submissions = [make_submission(n=n) for n in range(1, live + 1)]
    found = contradictions([make_workload(**workload)], [*submissions, make_submission("other")])
    assert [str(bug) for _, bug in found] == ([] if why is None else [why])


@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_the_workload_that_keeps_all_others_from_a_plan_is_found(count: int) -> None:
    rows = [make_workload(f"w{i:02}") for i in range(count)]
    for bad in rows:
        broken = replace(bad, priority_weight=None)  # type: ignore[arg-type]
        snapshot = make_snapshot(*(broken if row is bad else row for row in rows))
        assert culprit(snapshot, {"default": make_limits()}, Ages()) is broken


def test_no_workload_is_blamed_for_what_it_does_not_cause() -> None:
    broken = make_cluster(slots=None)
    snapshot = make_snapshot(broken, make_workload("w1"), make_workload("w2"))
    assert culprit(snapshot, {"default": make_limits()}, Ages()) is None

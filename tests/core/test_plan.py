"""What ``plan`` decides, shown on small worlds; the time is always ``NOW``."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emr_executor.core.fact_ages import ages_by_rows
from emr_executor.core.model import Snapshot, StepPlan, Workload
from emr_executor.core.placement import WaitKind
from emr_executor.core.plan import Plan, plan
from emr_executor.core.scaling import Launch
from emr_executor.core.states import (
    CAPPED_CLUSTER_STATES,
    ClusterState,
    ClusterTarget,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)
from tests.builders import (
    NOW,
    ago,
    decide,
    make_cluster,
    make_limits,
    make_snapshot,
    make_submission,
    make_workload,
    named,
)


def submitted(name: str, **changes: Any) -> Workload:
    return make_workload(name, state=WorkloadState.SUBMITTED, submissions=1, **changes)


def test_a_cluster_that_just_took_no_steps_gets_none_for_a_moment() -> None:
    refuses, takes = make_cluster("c1", slots=1), make_cluster("c2", slots=1)
    waiting = [make_workload("w1"), make_workload("w2")]
    decided = decide(
        make_snapshot(refuses, takes, *waiting, place_held=frozenset({refuses.cluster_uuid})), prefetch=0
    )
    assert [(p.cluster_uuid, p.workload_ids) for p in decided.place] == [("c2", ("w1",))]
    assert [(w.workload_id, w.kind) for w in decided.waiting] == [("w2", WaitKind.FULL)]
    assert decided.launch == (), "another cluster would have to be added to as well"


def test_nothing_to_do_is_an_empty_plan() -> None:
    assert decide(make_snapshot()).is_empty


def waiting(count: int) -> list[Workload]:
    return [make_workload(f"w{i}") for i in range(count)]


def test_waiting_work_launches_as_many_clusters_as_it_fills_within_the_cap() -> None:
    assert decide(make_snapshot(*waiting(9))).launch == (
        Launch(cluster_pool="default", count=2, why="9 waiting, 0 free slots on 0 clusters"),
    )


ENDING = make_cluster("c2", target=ClusterTarget.END, end_asked_at=ago(1))
GOING = make_cluster("c1", state=ClusterState.TERMINATING, target=ClusterTarget.END)
UNRESOLVED = make_cluster("c1", state=ClusterState.INTENDED, cluster_id=None)


ONE = make_workload()


@pytest.mark.parametrize(
    ("world", "limits", "launched"),
    named(
        {
            "one waiting task": (make_snapshot(ONE), {}, 1),
            "what waits beyond the snapshot": (make_snapshot(ONE, ready_beyond=8), {}, 2),
            "an unresolved launch and an ending cluster": (
                make_snapshot(UNRESOLVED, ENDING, *waiting(9)),
                {},
                0,
            ),
            "a terminating cluster does not count": (make_snapshot(GOING, ONE), {"max_clusters": 1}, 1),
            "a held pool": (make_snapshot(ONE, launch_held=frozenset({"default"})), {}, 0),
            "min_clusters": (make_snapshot(), {"min_clusters": 1}, 1),
        }
    ),
)
def test_so_many_clusters_are_launched(world: Snapshot, limits: dict[str, Any], launched: int) -> None:
    assert sum(launch.count for launch in decide(world, **limits).launch) == launched


def test_priority_then_age_decide_who_goes_first() -> None:
    old = make_workload("old", accepted_at=ago(100))
    new = make_workload("new", accepted_at=ago(1))
    urgent = make_workload("urgent", accepted_at=ago(1), priority_weight=10)
    placed = decide(make_snapshot(make_cluster(slots=2), new, old, urgent), prefetch=0, max_clusters=1)
    assert placed.place[0].workload_ids == ("urgent", "old")
    assert [(w.workload_id, w.kind) for w in placed.waiting] == [("new", WaitKind.FULL)]


def test_the_fullest_cluster_with_a_free_slot_is_taken() -> None:
    empty, half = make_cluster("c1", idle_since=ago(5)), make_cluster("c2")
    snapshot = make_snapshot(empty, half, submitted("w0"), make_submission("w0", "c2"), make_workload("w1"))
    assert [p.cluster_uuid for p in decide(snapshot).place] == ["c2"]


def test_steps_go_to_a_starting_cluster_up_to_its_slots_only() -> None:
    starting = make_cluster(state=ClusterState.STARTING, ready_at=None, slots=2)
    placed = decide(make_snapshot(starting, *waiting(3)), max_clusters=1, prefetch=5).place
    assert [len(p.workload_ids) for p in placed] == [2]


def test_a_full_cluster_that_is_up_takes_prefetch_more() -> None:
    snapshot = make_snapshot(
        make_cluster(slots=1),
        submitted("w0"),
        make_submission("w0"),
        *[make_workload(f"w{i}") for i in (1, 2, 3)],
    )
    placed = decide(snapshot, slots=1, prefetch=2, max_clusters=1)
    assert placed.place[0].workload_ids == ("w1", "w2")


@pytest.mark.parametrize(
    "unusable",
    [
        {"state": ClusterState.TERMINATING},
        {"target": ClusterTarget.DRAIN},
        {"target": ClusterTarget.END},
        {"state": ClusterState.INTENDED, "cluster_id": None},
    ],
)
def test_no_step_goes_to_a_cluster_that_is_not_to_be_used(unusable: dict[str, Any]) -> None:
    busy = make_submission("w0")
    snapshot = make_snapshot(make_cluster(**unusable), submitted("w0"), busy, make_workload("w1"))
    assert decide(snapshot).place == ()


def test_an_unwanted_workload_without_a_step_is_dropped_and_one_with_a_step_is_cancelled() -> None:
    parked = make_workload("parked", target=WorkloadTarget.CANCEL, cancel_reason="cleared")
    running = submitted("running", target=WorkloadTarget.CANCEL, cancel_reason="cleared")
    decided = decide(make_snapshot(make_cluster(), parked, running, make_submission("running")))
    assert decided.drop == ("parked",)
    assert [(c.submission_id, c.why) for c in decided.cancel] == [("running-1", "cleared")]


@pytest.mark.parametrize(("asked_s", "again"), [(1, 0), (59, 0), (61, 1)])
def test_a_cancel_is_asked_again_only_after_a_while(asked_s: int, again: int) -> None:
    running = submitted("w1", target=WorkloadTarget.CANCEL, cancel_reason="cleared")
    snapshot = make_snapshot(make_cluster(), running, make_submission("w1", cancel_asked_at=ago(asked_s)))
    assert len(decide(snapshot).cancel) == again


def test_a_submission_that_emr_may_not_have_is_not_cancelled() -> None:
    running = submitted("w1", target=WorkloadTarget.CANCEL)
    intended = make_submission("w1", state=SubmissionState.INTENDED, step_id=None)
    assert decide(make_snapshot(make_cluster(), running, intended)).cancel == ()


@pytest.mark.parametrize(("ran_s", "cancelled"), [(100, 0), (159, 0), (161, 1)])
def test_the_deadline_is_enforced_when_the_wrapper_did_not(ran_s: int, cancelled: int) -> None:
    step = StepPlan(command=("x",), spec_uri="s3://b/s", wrapper_uri="s3://b/w", execution_timeout_s=100.0)
    snapshot = make_snapshot(
        make_cluster(), submitted("w1", step=step), make_submission("w1", started_at=ago(ran_s))
    )
    assert [cancel.timed_out for cancel in decide(snapshot).cancel] == [True] * cancelled


BUSY = (submitted("w1"), make_submission("w1"))


DRAINING = make_cluster(target=ClusterTarget.DRAIN)


@pytest.mark.parametrize(
    ("rows", "min_clusters", "targets"),
    named(
        {
            "idle, not for idle_timeout": ([make_cluster(idle_since=ago(299))], 0, []),
            "idle for too long": ([make_cluster(idle_since=ago(301))], 0, [ClusterTarget.END]),
            "min_clusters": ([make_cluster(idle_since=ago(1000))], 1, []),
            "a changed template": ([make_cluster(template_hash="old"), *BUSY], 0, [ClusterTarget.DRAIN]),
            "drained": ([DRAINING], 0, [ClusterTarget.END]),
            "draining and busy": ([DRAINING, *BUSY], 0, []),
        }
    ),
)
def test_a_cluster_stays_drains_or_ends(
    rows: list[Any], min_clusters: int, targets: list[ClusterTarget]
) -> None:
    decided = decide(make_snapshot(*rows), min_clusters=min_clusters)
    assert [change.target for change in decided.retarget] == targets


def test_a_cluster_to_be_ended_is_terminated_once_and_again_when_nothing_happened() -> None:
    ending = make_cluster(target=ClusterTarget.END)
    assert decide(make_snapshot(ending)).end == ("c1",)
    assert decide(make_snapshot(replace(ending, end_asked_at=ago(5)))).end == ()
    assert decide(make_snapshot(replace(ending, end_asked_at=ago(500)))).end == ("c1",)


def test_queue_timeout_ends_the_wait() -> None:
    late, fresh = make_workload("late", ready_at=ago(100)), make_workload("fresh", ready_at=ago(10))
    assert decide(make_snapshot(late, fresh), queue_timeout_s=60.0).expire == ("late",)


def test_queue_timeout_also_ends_the_wait_on_a_cluster_that_does_not_come_up() -> None:
    starting = make_cluster(state=ClusterState.STARTING, ready_at=None)
    late, fresh = submitted("late", ready_at=ago(100)), submitted("fresh", ready_at=ago(10))
    pending = [
        make_submission(name, state=SubmissionState.PENDING, started_at=None) for name in ("late", "fresh")
    ]
    unseen = decide(make_snapshot(starting, late, fresh, *pending), queue_timeout_s=60.0)
    assert (unseen.cancel, unseen.poll) == ((), {"c1"}), "it may have begun since EMR was asked"
    shown = frozenset(one.submission_id for one in pending)
    decided = decide(make_snapshot(starting, late, fresh, *pending, shown=shown), queue_timeout_s=60.0)
    assert [(c.submission_id, c.why, c.timed_out) for c in decided.cancel] == [
        ("late-1", "queue_timeout", False)
    ]


UNWANTED = submitted("w1", target=WorkloadTarget.CANCEL)
OVERDUE = submitted("w1", step=StepPlan(command=("x",), execution_timeout_s=100.0))


@pytest.mark.parametrize(
    ("world", "limits", "stands_s"),
    named(
        {
            "nothing": (make_snapshot(make_cluster(), *BUSY), {}, math.inf),
            "idle_timeout": (make_snapshot(make_cluster(idle_since=ago(299))), {}, 1.0),
            "queue_timeout": (
                make_snapshot(make_workload(ready_at=ago(50))),
                {"queue_timeout_s": 60.0},
                10.0,
            ),
            "the pause of a refused step": (make_snapshot(make_workload(not_before=ago(-5))), {}, 5.0),
            "a cancel that is asked again": (
                make_snapshot(make_cluster(), UNWANTED, make_submission(cancel_asked_at=ago(59))),
                {},
                1.0,
            ),
            "execution_timeout": (
                make_snapshot(make_cluster(), OVERDUE, make_submission(started_at=ago(150))),
                {},
                10.0,
            ),
            "an end that is asked again": (
                make_snapshot(make_cluster(target=ClusterTarget.END, end_asked_at=ago(100))),
                {},
                20.0,
            ),
        }
    ),
)
def test_a_plan_stands_until_the_first_time_that_it_waits_for(
    world: Snapshot, limits: dict[str, Any], stands_s: float
) -> None:
    ages = ages_by_rows(world.clusters, world.submissions, now=NOW)
    plan(world, {"default": make_limits(**limits)}, ages)
    assert ages.same_s == stands_s


CLUSTERS = st.builds(
    lambda name, state, target, idle_s: make_cluster(
        name,
        state=state,
        target=target,
        cluster_id=None if state is ClusterState.INTENDED else f"j-{name}",
        idle_since=ago(idle_s) if idle_s else None,
    ),
    name=st.sampled_from("abcdef"),
    state=st.sampled_from([*CAPPED_CLUSTER_STATES, ClusterState.TERMINATING]),
    target=st.sampled_from(ClusterTarget),
    idle_s=st.sampled_from([0, 10, 1000]),
)
WORKLOADS = st.builds(
    lambda name, state, target: make_workload(
        name, state=state, target=target, submissions=int(state is WorkloadState.SUBMITTED)
    ),
    name=st.sampled_from([f"w{i}" for i in range(12)]),
    state=st.sampled_from([WorkloadState.READY, WorkloadState.SUBMITTED]),
    target=st.sampled_from(WorkloadTarget),
)


@st.composite
def worlds(draw: st.DrawFn) -> Snapshot:
    clusters = draw(st.lists(CLUSTERS, max_size=5, unique_by=lambda c: c.cluster_uuid))
    workloads = draw(st.lists(WORKLOADS, max_size=12, unique_by=lambda w: w.workload_id))
    submissions = [
        make_submission(w.workload_id, draw(st.sampled_from(clusters)).cluster_uuid)
        for w in workloads
        if w.state is WorkloadState.SUBMITTED and clusters
    ]
    return make_snapshot(*clusters, *workloads, *submissions)


@settings(max_examples=300, deadline=None)
@given(world=worlds(), max_clusters=st.integers(1, 4), prefetch=st.integers(0, 3))
def test_whatever_the_world_the_plan_is_safe(world: Snapshot, max_clusters: int, prefetch: int) -> None:
    decided = decide(world, max_clusters=max_clusters, prefetch=prefetch)
    capped = sum(c.state in CAPPED_CLUSTER_STATES for c in world.clusters)
    launched = sum(launch.count for launch in decided.launch)
    assert launched == 0 or capped + launched <= max_clusters
    clusters = {c.cluster_uuid: c for c in world.clusters}
    placed = [w for p in decided.place for w in p.workload_ids]
    assert len(placed) == len(set(placed))
    ready = {w.workload_id for w in world.workloads if w.state is WorkloadState.READY}
    assert set(placed) <= ready - set(decided.drop)
    live_on = {s.cluster_uuid for s in world.submissions}
    for placement in decided.place:
        cluster = clusters[placement.cluster_uuid]
        live = sum(s.cluster_uuid == cluster.cluster_uuid for s in world.submissions)
        assert cluster.target is ClusterTarget.KEEP
        assert live + len(placement.workload_ids) <= max(live, cluster.slots + prefetch)
    for change in decided.retarget:
        assert change.target is not ClusterTarget.END or change.cluster_uuid not in live_on
    assert {*placed, *decided.drop, *decided.expire, *(w.workload_id for w in decided.waiting)} >= ready


@settings(max_examples=200, deadline=None)
@given(world=worlds())
def test_an_applied_plan_leaves_nothing_to_do_at_the_same_moment(world: Snapshot) -> None:
    decided = decide(world)
    again = decide(_applied(world, decided))
    assert (again.place, again.cancel, again.end, again.drop, again.expire, again.launch) == ((),) * 6


def _applied(world: Snapshot, decided: Plan) -> Snapshot:
    """The world after the agent wrote every intent of the plan, over and over until targets settle."""
    clusters = {c.cluster_uuid: c for c in world.clusters}
    workloads = {w.workload_id: w for w in world.workloads}
    submissions = list(world.submissions)
    for _ in range(3):
        for change in decided.retarget:
            clusters[change.cluster_uuid] = replace(clusters[change.cluster_uuid], target=change.target)
        for cluster_uuid in decided.end:
            clusters[cluster_uuid] = replace(clusters[cluster_uuid], end_asked_at=NOW)
        for placement in decided.place:
            for workload_id in placement.workload_ids:
                workloads[workload_id] = replace(workloads[workload_id], state=WorkloadState.SUBMITTED)
                submissions.append(make_submission(workload_id, placement.cluster_uuid, step_id=None))
        asked = {c.submission_id for c in decided.cancel}
        submissions = [
            replace(s, cancel_asked_at=NOW) if s.submission_id in asked else s for s in submissions
        ]
        for workload_id in (*decided.drop, *decided.expire):
            workloads.pop(workload_id, None)
        for launch in decided.launch:
            for i in range(launch.count):
                name = f"new{len(clusters)}{i}"
                clusters[name] = make_cluster(name, state=ClusterState.INTENDED, cluster_id=None)  # type: ignore[index]
        world = make_snapshot(*clusters.values(), *workloads.values(), *submissions)
        decided = decide(world)
    return world

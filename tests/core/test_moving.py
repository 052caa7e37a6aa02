"""No step waits behind another while a slot of its pool is free: what is taken back, queued and launched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emr_executor.core.fact_ages import Ages, Fact, ages_by_rows
from emr_executor.core.model import Cluster, Snapshot, Submission, Workload
from emr_executor.core.plan import Plan
from emr_executor.core.states import ClusterState, ClusterTarget, StepState, SubmissionState, WorkloadState
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

Row = Workload | Cluster | Submission


def on(cluster: str, name: str, *, ran_s: float | None = None, weight: int = 1, **changes: Any) -> list[Row]:
    """A workload and its step: PENDING, or begun ``ran_s`` ago."""
    mine: dict[str, Any] = {
        "intended_at": ago(600),
        "state": SubmissionState.PENDING if ran_s is None else SubmissionState.RUNNING,
        "started_at": None if ran_s is None else ago(ran_s),
    }
    return [
        make_workload(name, state=WorkloadState.SUBMITTED, submissions=1, priority_weight=weight),
        make_submission(name, cluster, **{**mine, **changes}),
    ]


def seen(*rows: Row, shown: bool = True, **changes: Any) -> Snapshot:
    """The rows, with all steps just shown by EMR."""
    names = frozenset(row.submission_id for row in rows if isinstance(row, Submission))
    return make_snapshot(*rows, **{"shown": names if shown else frozenset(), **changes})


def busy(name: str = "c1", slots: int = 1, **changes: Any) -> Cluster:
    return make_cluster(name, slots=slots, state=ClusterState.RUNNING, **changes)


def taken(decided: Plan) -> list[str]:
    return [move.submission_id for move in decided.move]


FULL = [busy(), *on("c1", "w0", ran_s=100)]
FREE = busy("c2")
NOT_UP = {"state": ClusterState.STARTING, "ready_at": None}


def behind(count: int, name: str = "w") -> list[Row]:
    return [row for i in range(count) for row in on("c1", f"{name}{i + 1}", submitted_at=ago(50 - i))]


# -- moves


@pytest.mark.parametrize(
    ("waiting_rows", "elsewhere", "names"),
    named(
        {
            "the last step behind others": (behind(2), FREE, ["w2-1"]),
            "the last of a call": ([*on("c1", "w1", weight=9), *on("c1", "w2")], FREE, ["w2-1"]),
            "as many as there are free slots": (behind(5), busy("c2", slots=2), ["w5-1", "w4-1"]),
            "twice": (on("c1", "w1", submitted_at=ago(50), intended_at=ago(40)), FREE, []),
            "in quarantine": (on("c1", "w1", quarantine="why"), FREE, []),
            "not added yet": (on("c1", "w1", state=SubmissionState.INTENDED, step_id=None), FREE, []),
            "running": (on("c1", "w1", state=SubmissionState.RUNNING), FREE, []),
            "a slot of another pool": (behind(1), make_cluster("c2", cluster_pool="other"), []),
            "a cluster that is not up": (behind(1), make_cluster("c2", **NOT_UP), []),
            "a cluster that is going": (behind(1), make_cluster("c2", state=ClusterState.TERMINATING), []),
            "a cluster that drains": (behind(1), make_cluster("c2", target=ClusterTarget.DRAIN), []),
            "a cluster in quarantine": (behind(1), make_cluster("c2", quarantine="why"), []),
            "a cluster of an old template": (behind(1), make_cluster("c2", template_hash="old"), []),
        }
    ),
)
def test_of_the_steps_that_wait_are_taken_back(
    waiting_rows: list[Row], elsewhere: Cluster, names: list[str]
) -> None:
    assert taken(decide(seen(*FULL, elsewhere, *waiting_rows))) == names


def test_what_is_about_to_begin_where_it_is_stays() -> None:
    """Ten steps began in the last ten seconds: the next five will before they could be moved."""
    begun = [row for i in range(10) for row in on("c1", f"r{i}", ran_s=3)]
    rows = [busy(slots=10), busy("c2", slots=10), *begun, *behind(6)]
    assert taken(decide(seen(*rows))) == ["w6-1"]


def test_a_step_on_a_cluster_that_starts_moves_to_a_slot_that_is_free_now() -> None:
    starting = make_cluster("c1", slots=1, **NOT_UP)
    assert taken(decide(seen(starting, FREE, *behind(1)))) == ["w1-1"]


def test_a_step_is_taken_back_with_the_reason_and_nothing_else_is_done() -> None:
    decided = decide(seen(*FULL, FREE, *behind(2)))
    assert [move.why for move in decided.move] == ["a slot is free on j-c2"]
    assert (decided.launch, decided.cancel, decided.place) == ((), (), ())


def test_a_step_that_emr_has_not_just_shown_pending_is_looked_at_first() -> None:
    decided = decide(seen(*FULL, FREE, *behind(1), shown=False))
    assert (decided.move, decided.poll) == ((), {"c1"})
    assert decided.is_empty, "looking is not doing"


def test_what_is_ready_goes_first() -> None:
    decided = decide(seen(*FULL, FREE, *behind(1), make_workload("w9")))
    assert ([p.workload_ids for p in decided.place], decided.move) == ([("w9",)], ())


def test_a_slot_is_kept_for_the_step_that_is_being_taken_back() -> None:
    """Neither another step is taken back for it, nor a younger workload placed on it."""
    rows = [*FULL, FREE, *behind(1), *on("c1", "w2", submitted_at=ago(40), cancel_asked_at=ago(5))]
    decided = decide(seen(*rows, make_workload("young", accepted_at=ago(1))), prefetch=0)
    assert (decided.move, decided.place) == ((), ())
    urgent = make_workload("urgent", priority_weight=9)
    assert [p.workload_ids for p in decide(seen(*rows, urgent), prefetch=0).place] == [("urgent",)]


def test_a_slot_is_not_kept_for_ever_for_a_step_that_emr_does_not_cancel() -> None:
    young = make_workload("young", accepted_at=ago(1))
    decided = decide(seen(*FULL, FREE, *on("c1", "w1", cancel_asked_at=ago(31)), young))
    assert [p.workload_ids for p in decided.place] == [("young",)]
    assert taken(decide(seen(*FULL, FREE, *on("c1", "w1", cancel_asked_at=ago(61))))) == ["w1-1"]


@pytest.mark.parametrize("held", ["place_held", "stalled"])
def test_nothing_is_taken_back_for_a_cluster_that_takes_or_starts_no_steps(held: str) -> None:
    assert decide(seen(*FULL, FREE, *behind(1), **{held: frozenset({"c2"})})).move == ()


def test_an_idle_cluster_stays_while_a_step_is_being_taken_back_for_it() -> None:
    idle = make_cluster("c2", slots=1, idle_since=ago(9999))
    assert decide(seen(*FULL, idle, *on("c1", "w1", cancel_asked_at=ago(5)))).retarget == ()


def test_a_step_that_began_before_it_was_cancelled_runs_on_when_emr_lets_it() -> None:
    asked: dict[str, Any] = {"ran_s": 100, "cancel_asked_at": ago(90)}
    began = on("c1", "w1", **asked, step_state=StepState.RUNNING)
    assert decide(seen(busy(), *began)).runs_on == ("w1-1",)
    assert decide(seen(busy(), *began, shown=False)).runs_on == ()
    leaving = on("c1", "w1", **asked, step_state=StepState.CANCEL_PENDING)
    assert decide(seen(busy(), *leaving)).runs_on == ()


def test_a_step_that_began_is_left_alone_by_queue_timeout() -> None:
    decided = decide(seen(busy(), *on("c1", "w1", ran_s=5), *on("c1", "w2")), queue_timeout_s=10.0)
    assert [(c.submission_id, c.why) for c in decided.cancel] == [("w2-1", "queue_timeout")]


# -- who is put behind others, and what is launched


def test_nobody_is_put_behind_others_whom_a_launch_of_this_plan_will_serve() -> None:
    decided = decide(seen(*FULL, make_workload("w1")), slots=1)
    assert (decided.place, [launch.count for launch in decided.launch]) == ((), [1])


@pytest.mark.parametrize("state", [ClusterState.INTENDED, ClusterState.STARTING, ClusterState.BOOTSTRAPPING])
def test_nobody_is_put_behind_others_whom_a_launch_under_way_will_serve(state: ClusterState) -> None:
    coming = make_cluster(
        "c2",
        slots=1,
        state=state,
        ready_at=None,
        cluster_id=None if state is ClusterState.INTENDED else "j-c2",
    )
    decided = decide(seen(*FULL, coming, make_workload("w1"), make_workload("w2")), slots=1, prefetch=1)
    placed = {p.cluster_uuid: p.workload_ids for p in decided.place}
    on_its_way = {} if state is ClusterState.INTENDED else {"c2": ("w1",)}
    behind = "w1" if state is ClusterState.INTENDED else "w2"
    assert placed == {**on_its_way, "c1": (behind,)}, "two wait, and one slot comes"
    assert decided.launch == ()


def test_when_launches_are_held_back_steps_are_put_behind_others() -> None:
    held = seen(*FULL, make_workload("w1"), launch_held=frozenset({"default"}))
    decided = decide(held, slots=1)
    assert [p.workload_ids for p in decided.place] == [("w1",)]


def test_what_was_placed_launches_nothing() -> None:
    assert decide(seen(*FULL, *behind(2)), slots=1).launch == ()


@pytest.mark.parametrize("in_snapshot", [True, False])
def test_the_steps_of_a_cluster_that_is_ending_or_lost_launch_its_replacement(in_snapshot: bool) -> None:
    dying = [make_cluster("c1", slots=2, state=ClusterState.TERMINATING)] if in_snapshot else []
    rows = [*dying, *on("c1", "w0", ran_s=100), *on("c1", "w1")]
    decided = decide(make_snapshot(*rows), max_clusters=1)
    assert [(launch.count, launch.why) for launch in decided.launch] == [
        (1, "0 waiting, 0 free slots on 0 clusters, 2 to leave a cluster that is ending")
    ]


def test_the_replacement_of_a_cluster_that_is_ending_is_launched_once() -> None:
    dying = make_cluster("c1", state=ClusterState.TERMINATING)
    coming = make_cluster("c2", state=ClusterState.INTENDED, cluster_id=None, ready_at=None)
    rows = [dying, *on("c1", "w0", ran_s=100), coming]
    assert decide(make_snapshot(*rows)).launch == ()
    ended = on("c1", "w0", ran_s=100, wrapper_ended=True, exit_code=1)
    assert decide(make_snapshot(dying, *ended)).launch == (), "it will not be READY again"
    spent = on("c1", "w0", ran_s=100)
    spent[0] = replace(spent[0], losses=2)  # type: ignore[type-var]
    assert decide(make_snapshot(dying, *spent), max_submissions=3).launch == ()


# -- steps a call


def full(queued: int, *, slots: int = 4, ran_s: float = 100) -> list[Row]:
    running = [row for i in range(slots) for row in on("c1", f"r{i}", ran_s=ran_s)]
    return [busy(slots=slots), *running, *(row for i in range(queued) for row in on("c1", f"q{i}"))]


def waiting(count: int) -> list[Workload]:
    return [make_workload(f"w{i:02}") for i in range(count)]


@pytest.mark.parametrize(
    ("queued", "ready", "added"),
    [
        (0, 20, 9),  # its queue is empty
        (1, 20, 8),  # a call's worth
        (2, 20, 0),  # seven would go: they are gathered
        (2, 3, 0),
        (1, 3, 3),  # the next slot that frees would leave it with nothing
    ],
)
def test_steps_behind_others_are_gathered_while_a_queue_lasts(queued: int, ready: int, added: int) -> None:
    decided = decide(seen(*full(queued), *waiting(ready)), prefetch=9, max_clusters=1)
    assert sum(len(p.workload_ids) for p in decided.place) == added


def test_a_call_that_is_made_for_a_free_slot_takes_the_queue_along() -> None:
    rows = full(0)[:-2]
    decided = decide(seen(*rows, *waiting(20)), prefetch=9, max_clusters=1)
    assert [len(p.workload_ids) for p in decided.place] == [10]


def test_a_queue_that_moves_fast_is_filled_up_early() -> None:
    """Four steps began within ten seconds: a queue of four may be gone before the next call."""
    slow, fast = full(4, ran_s=100), full(4, ran_s=5)
    gathered = decide(seen(*slow, *waiting(20)), prefetch=9, max_clusters=1)
    assert gathered.place == ()
    filled = decide(seen(*fast, *waiting(20)), prefetch=9, max_clusters=1)
    assert [len(p.workload_ids) for p in filled.place] == [5]


# -- properties


@st.composite
def pools(draw: st.DrawFn) -> Snapshot:
    """Clusters that are up, each full with a queue, or with free slots; READY workloads; some being moved."""
    rows: list[Row] = []
    for c in range(draw(st.integers(1, 4))):
        name, slots = f"c{c}", draw(st.integers(1, 3))
        running = draw(st.integers(0, slots))
        queued = draw(st.integers(0, 4)) if running == slots else 0
        state = ClusterState.RUNNING if running else ClusterState.WAITING
        rows.append(make_cluster(name, slots=slots, state=state))
        for i in range(running):
            rows += on(name, f"{name}r{i}", ran_s=draw(st.sampled_from([1, 100])))
        for i in range(queued):
            asked_at = draw(st.sampled_from([None, None, ago(5), ago(90)]))
            rows += on(name, f"{name}q{i}", submitted_at=ago(90 - i), cancel_asked_at=asked_at)
    rows += [make_workload(f"w{i}") for i in range(draw(st.integers(0, 5)))]
    return seen(*rows)


@settings(max_examples=300, deadline=None)
@given(world=pools(), prefetch=st.integers(0, 9), max_clusters=st.integers(1, 6))
def test_no_step_waits_behind_another_while_a_slot_of_its_pool_is_free(
    world: Snapshot, prefetch: int, max_clusters: int
) -> None:
    ages = ages_by_rows(world.clusters, world.submissions, now=NOW)
    decided = decide(world, prefetch=prefetch, max_clusters=max_clusters)
    slots = {c.cluster_uuid: c.slots for c in world.clusters}
    live = {key: sum(s.cluster_uuid == key for s in world.submissions) for key in slots}
    placed = {p.cluster_uuid: len(p.workload_ids) for p in decided.place}
    free = sum(max(0, slots[key] - live[key] - placed.get(key, 0)) for key in slots)
    kept = sum(_is_going(s, ages, 30.0) for s in world.submissions)
    going = {s.submission_id for s in world.submissions if _is_going(s, ages, 60.0)}
    moving = {move.submission_id for move in decided.move}
    assert len(moving) <= max(0, free - kept), "never more than there are slots that nobody takes"
    assert not moving & going
    left = 0
    for key, at_once in slots.items():
        behind = live[key] - at_once - sum(s.submission_id in going for s in _on(world, key))
        soon = sum(ages.of(Fact.RUNNING, s.submission_id) < 10 for s in _on(world, key) if s.started_at) // 2
        took = sum(s.submission_id in moving for s in _on(world, key))
        left += max(0, behind - soon - took)
    assert left == 0 or len(moving) == max(0, free - kept) or _sources(world, moving) == 3
    served = sum(launch.count for launch in decided.launch) * make_limits().slots
    queued = sum(max(0, live[k] + n - slots[k]) - max(0, live[k] - slots[k]) for k, n in placed.items())
    ready = sum(w.state is WorkloadState.READY for w in world.workloads)
    if served:
        assert queued <= max(0, ready - served - (sum(placed.values()) - queued)), "a launch will serve them"


def _on(world: Snapshot, cluster_uuid: str) -> list[Submission]:
    return [s for s in world.submissions if s.cluster_uuid == cluster_uuid]


def _is_going(submission: Submission, ages: Ages, within_s: float) -> bool:
    asked = submission.cancel_asked_at is not None
    return asked and ages.of(Fact.CANCEL_ASKED, submission.submission_id) < within_s


def _sources(world: Snapshot, moving: set[Any]) -> int:
    return len({s.cluster_uuid for s in world.submissions if s.submission_id in moving})

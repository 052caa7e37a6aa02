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
)

Row = Workload | Cluster | Submission


def on(cluster: str, name: str, **changes: Any) -> list[Row]:
    """A workload and its step: PENDING, or begun ``ran_s`` ago."""
    ran_s = changes.pop("ran_s", None)
    state = SubmissionState.PENDING if ran_s is None else SubmissionState.RUNNING
    started_at = None if ran_s is None else ago(ran_s)
    changes = {"intended_at": ago(600), **changes}
    return [
        make_workload(name, state=WorkloadState.SUBMITTED, submissions=1),
        make_submission(name, cluster, state=state, started_at=started_at, **changes),
    ]


def seen(*rows: Row, shown: bool = True, **changes: Any) -> Snapshot:
    """The rows, with all steps just shown by EMR."""
    names = frozenset(row.submission_id for row in rows if isinstance(row, Submission))
    return make_snapshot(*rows, **{"shown": names if shown else frozenset(), **changes})


def busy(name: str = "c1", slots: int = 1, **changes: Any) -> Cluster:
    return make_cluster(name, slots=slots, state=ClusterState.RUNNING, **changes)


def moved(decided: Plan) -> list[tuple[str, str]]:
    return [(move.submission_id, move.why) for move in decided.move]


# -- moves


def test_the_last_step_behind_others_is_taken_back_when_a_slot_is_free_elsewhere() -> None:
    rows = [
        busy(),
        busy("c2", slots=1),
        *on("c1", "w0", ran_s=100),
        *on("c1", "w1", submitted_at=ago(50)),
        *on("c1", "w2", submitted_at=ago(40)),
    ]
    decided = decide(seen(*rows))
    assert moved(decided) == [("w2-1", "a slot is free on j-c2")]
    assert (decided.launch, decided.cancel) == ((), ())


def test_a_step_that_emr_may_have_twice_stays() -> None:
    twice = on("c1", "w1", submitted_at=ago(50), intended_at=ago(40))
    rows = [busy(), busy("c2"), *on("c1", "w0", ran_s=100), *twice]
    assert moved(decide(seen(*rows))) == []


def test_steps_of_one_call_are_taken_back_in_the_reverse_of_the_order_of_the_call() -> None:
    urgent, late = on("c1", "w1", submitted_at=ago(40)), on("c1", "w2", submitted_at=ago(40))
    urgent[0] = replace(urgent[0], priority_weight=9)  # type: ignore[type-var]
    rows = [busy(), busy("c2"), *on("c1", "w0", ran_s=100), *urgent, *late]
    assert [name for name, _ in moved(decide(seen(*rows)))] == ["w2-1"]


def test_a_step_that_emr_has_not_just_shown_pending_is_looked_at_first() -> None:
    rows = [busy(), busy("c2"), *on("c1", "w0", ran_s=100), *on("c1", "w1")]
    decided = decide(seen(*rows, shown=False))
    assert (decided.move, decided.look) == ((), {"c1"})
    assert decided.is_empty, "looking is not doing"


def test_never_more_is_taken_back_than_there_are_free_slots() -> None:
    queue = [row for i in range(1, 6) for row in on("c1", f"w{i}", submitted_at=ago(50 - i))]
    rows = [busy(), busy("c2", slots=2), *on("c1", "w0", ran_s=100), *queue]
    assert [name for name, _ in moved(decide(seen(*rows)))] == ["w5-1", "w4-1"]


def test_what_is_ready_goes_first() -> None:
    rows = [busy(), busy("c2"), *on("c1", "w0", ran_s=100), *on("c1", "w1"), make_workload("w9")]
    decided = decide(seen(*rows))
    assert ([p.workload_ids for p in decided.place], decided.move) == ([("w9",)], ())


def test_a_slot_is_kept_for_the_step_that_is_being_taken_back() -> None:
    """Neither another step is taken back for it, nor a younger workload placed on it."""
    moving = on("c1", "w2", submitted_at=ago(40), cancel_asked_at=ago(5))
    rows = [busy(), busy("c2"), *on("c1", "w0", ran_s=100), *on("c1", "w1", submitted_at=ago(50)), *moving]
    young = make_workload("young", accepted_at=ago(1))
    decided = decide(seen(*rows, young), prefetch=0)
    assert (decided.move, decided.place) == ((), ())
    urgent = make_workload("urgent", priority_weight=9)
    assert [p.workload_ids for p in decide(seen(*rows, urgent), prefetch=0).place] == [("urgent",)]


def test_a_slot_is_not_kept_for_ever_for_a_step_that_emr_does_not_cancel() -> None:
    moving = on("c1", "w1", cancel_asked_at=ago(31))
    rows = [busy(), busy("c2"), *on("c1", "w0", ran_s=100), *moving]
    young = make_workload("young", accepted_at=ago(1))
    assert [p.workload_ids for p in decide(seen(*rows, young)).place] == [("young",)]
    asked_again = [*rows[:-1], replace(moving[1], cancel_asked_at=ago(61))]  # type: ignore[type-var]
    assert [name for name, _ in moved(decide(seen(*asked_again)))] == ["w1-1"]


@pytest.mark.parametrize(
    "elsewhere",
    [
        make_cluster("c2", cluster_pool="other"),
        make_cluster("c2", state=ClusterState.STARTING, ready_at=None),
        make_cluster("c2", state=ClusterState.TERMINATING),
        make_cluster("c2", target=ClusterTarget.DRAIN),
        make_cluster("c2", quarantine="why"),
        make_cluster("c2", template_hash="old"),
    ],
)
def test_nothing_is_taken_back_for_a_slot_that_cannot_be_had(elsewhere: Cluster) -> None:
    rows = [busy(), elsewhere, *on("c1", "w0", ran_s=100), *on("c1", "w1")]
    assert decide(seen(*rows)).move == ()


@pytest.mark.parametrize("held", ["place_held", "stalled"])
def test_nothing_is_taken_back_for_a_cluster_that_takes_or_starts_no_steps(held: str) -> None:
    rows = [busy(), busy("c2"), *on("c1", "w0", ran_s=100), *on("c1", "w1")]
    assert decide(seen(*rows, **{held: frozenset({"c2"})})).move == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"quarantine": "why"},
        {"state": SubmissionState.INTENDED, "step_id": None},
        {"state": SubmissionState.RUNNING},
    ],
)
def test_only_a_step_that_waits_is_taken_back(changes: dict[str, Any]) -> None:
    waits = on("c1", "w1")
    waits[1] = replace(waits[1], **changes)  # type: ignore[type-var]
    rows = [busy(), busy("c2"), *on("c1", "w0", ran_s=100), *waits]
    assert decide(seen(*rows)).move == ()


def test_what_is_about_to_begin_where_it_is_stays() -> None:
    """Ten steps began in the last ten seconds: the next five will before they could be moved."""
    running = [row for i in range(10) for row in on("c1", f"r{i}", ran_s=3)]
    queue = [row for i in range(6) for row in on("c1", f"w{i}", submitted_at=ago(50 - i))]
    decided = decide(seen(busy(slots=10), busy("c2", slots=10), *running, *queue))
    assert [name for name, _ in moved(decided)] == ["w5-1"]


def test_a_step_on_a_cluster_that_starts_moves_to_a_slot_that_is_free_now() -> None:
    starting = make_cluster("c1", slots=1, state=ClusterState.STARTING, ready_at=None)
    rows = [starting, busy("c2"), *on("c1", "w1")]
    assert [name for name, _ in moved(decide(seen(*rows)))] == ["w1-1"]


def test_an_idle_cluster_stays_while_a_step_is_being_taken_back_for_it() -> None:
    idle = make_cluster("c2", slots=1, idle_since=ago(9999))
    rows = [busy(), idle, *on("c1", "w0", ran_s=100), *on("c1", "w1", cancel_asked_at=ago(5))]
    assert decide(seen(*rows)).retarget == ()


def test_a_step_that_began_before_it_was_cancelled_runs_on_when_emr_lets_it() -> None:
    began = on("c1", "w1", ran_s=100)
    began[1] = replace(began[1], cancel_asked_at=ago(90), step_state=StepState.RUNNING)  # type: ignore[type-var]
    assert decide(seen(busy(), *began)).runs_on == ("w1-1",)
    assert decide(seen(busy(), *began, shown=False)).runs_on == ()
    pending = replace(began[1], step_state=StepState.CANCEL_PENDING)  # type: ignore[type-var]
    assert decide(seen(busy(), began[0], pending)).runs_on == ()


def test_a_step_that_began_is_left_alone_by_queue_timeout() -> None:
    began = on("c1", "w1", ran_s=5)
    waits = on("c1", "w2")
    decided = decide(seen(busy(), *began, *waits), queue_timeout_s=10.0)
    assert [(c.submission_id, c.why) for c in decided.cancel] == [("w2-1", "queue_timeout")]


# -- who is put behind others, and what is launched


def test_nobody_is_put_behind_others_whom_a_launch_of_this_plan_will_serve() -> None:
    rows = [busy(), *on("c1", "w0", ran_s=100), make_workload("w1")]
    decided = decide(seen(*rows), slots=1)
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
    rows = [busy(), coming, *on("c1", "w0", ran_s=100), make_workload("w1"), make_workload("w2")]
    decided = decide(seen(*rows), slots=1, prefetch=1)
    placed = {p.cluster_uuid: p.workload_ids for p in decided.place}
    on_its_way = {} if state is ClusterState.INTENDED else {"c2": ("w1",)}
    behind = "w1" if state is ClusterState.INTENDED else "w2"
    assert placed == {**on_its_way, "c1": (behind,)}, "two wait, and one slot comes"
    assert decided.launch == ()


def test_when_launches_are_held_back_steps_are_put_behind_others() -> None:
    rows = [busy(), *on("c1", "w0", ran_s=100), make_workload("w1")]
    decided = decide(seen(*rows, launch_held=frozenset({"default"})), slots=1)
    assert [p.workload_ids for p in decided.place] == [("w1",)]


def test_what_was_placed_launches_nothing() -> None:
    rows = [busy(), *on("c1", "w0", ran_s=100), *on("c1", "w1"), *on("c1", "w2")]
    assert decide(seen(*rows), slots=1).launch == ()


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

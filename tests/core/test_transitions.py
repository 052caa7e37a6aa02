"""The tables themselves, and what follows from them."""

from __future__ import annotations

import runpy
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from emr_executor.core.model import ClusterId, ObservedCluster
from emr_executor.core.observe import observe_cluster
from emr_executor.core.states import (
    LIVE_SUBMISSION_STATES,
    OVER_CLUSTER_STATES,
    ClusterState,
    ClusterTarget,
    SubmissionState,
    WorkloadState,
)
from emr_executor.core.transitions import (
    CLUSTER,
    SHOWN,
    SUBMISSION,
    WORKLOAD,
    ClusterEvent,
    Edge,
    StateMachine,
    SubmissionEvent,
    WorkloadEvent,
    apply_observation,
    check_change,
    transition,
)
from emr_executor.errors import InvalidTransition
from emr_executor.store.clauses import OVER_WORKLOAD_STATES
from emr_executor.store.phase_store import CLAIMED_FROM
from tests.builders import NOW, ago, make_cluster, make_submission, make_workload

ROOT = Path(__file__).parents[2]
TABLES: dict[str, tuple[StateMachine[Any, Any], Any, Any]] = {
    "workload": (WORKLOAD, WorkloadState, WorkloadEvent),
    "submission": (SUBMISSION, SubmissionState, SubmissionEvent),
    "cluster": (CLUSTER, ClusterState, ClusterEvent),
}
MAKE: dict[str, Any] = {"workload": make_workload, "submission": make_submission, "cluster": make_cluster}
OVER: dict[str, set[Any]] = {
    "workload": set(OVER_WORKLOAD_STATES),
    "submission": set(SubmissionState) - LIVE_SUBMISSION_STATES,
    "cluster": set(OVER_CLUSTER_STATES),
}


@pytest.fixture(params=TABLES)
def entity(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- the tables


def test_every_state_is_reached_from_nothing(entity: str) -> None:
    table, states, _ = TABLES[entity]
    reached: set[Any] = {None}
    while more := {edge.end for edge in table.edges if edge.start in reached} - reached:
        reached |= more
    assert reached == {None, *states}


def test_every_observation_causes_an_edge_and_every_edge_says_why(entity: str) -> None:
    table, _, observations = TABLES[entity]
    assert {edge.event for edge in table.edges} == set(observations)
    assert all(edge.why.endswith(".") and edge.start is not edge.end for edge in table.edges)


def test_what_is_over_has_no_way_out_but_those_that_are_written_down(entity: str) -> None:
    table, _, _ = TABLES[entity]
    out = {(edge.start, edge.event) for edge in table.edges if edge.start in OVER[entity]}
    assert (
        out
        == {
            "workload": {(state, WorkloadEvent.HANDED_OVER) for state in OVER_WORKLOAD_STATES},
            "submission": set(),
            "cluster": {(ClusterState.NEVER_LAUNCHED, shown) for shown in SHOWN.values()},
        }[entity]
    )


def test_from_every_state_that_is_not_over_an_end_can_be_reached(entity: str) -> None:
    table, states, _ = TABLES[entity]
    ends = set(OVER[entity])
    while more := {edge.start for edge in table.edges if edge.end in ends and edge.start} - ends:
        ends |= more
    assert ends == set(states)


def test_a_start_and_an_observation_have_one_end() -> None:
    twice = (
        Edge(None, ClusterEvent.DECIDED, ClusterState.INTENDED, "a."),
        Edge(None, ClusterEvent.DECIDED, ClusterState.STARTING, "b."),
    )
    with pytest.raises(ValueError, match="cluster: two edges"):
        StateMachine("cluster", twice)


def test_every_pair_that_is_no_edge_is_refused_and_named(entity: str) -> None:
    table, states, _ = TABLES[entity]
    make = MAKE[entity]
    refused_pairs = 0
    for start, end in product((None, *states), states):
        old = None if start is None else make(state=start)
        if start is end or (start, end) in table.pairs:
            check_change(old, make(state=end))
            continue
        refused_pairs += 1
        with pytest.raises(InvalidTransition) as bug:
            check_change(old, make(state=end))
        assert (bug.value.entity, bug.value.row) == (
            entity,
            {"workload": "w1", "submission": "w1-1"}.get(entity, "c1"),
        )
        assert (bug.value.start, bug.value.event) == (start or "nothing", f"a change to {end}")
    assert refused_pairs == (len(states) + 1) * len(states) - len(states) - len(table.pairs)


def test_every_step_that_is_no_edge_is_refused(entity: str) -> None:
    table, states, observations = TABLES[entity]
    edges = {(edge.start, edge.event): edge.end for edge in table.edges}
    for start, seen in product((None, *states), observations):
        if (start, seen) in edges:
            assert transition(table, start, seen) is edges[start, seen]
        else:
            with pytest.raises(InvalidTransition, match=f"no edge from {start or 'nothing'} on {seen}"):
                transition(table, start, seen)


def test_old_news_changes_nothing_and_impossible_news_is_a_bug() -> None:
    c, of_cluster, s, of_submission = ClusterState, ClusterEvent, SubmissionState, SubmissionEvent
    assert apply_observation(CLUSTER, c.TERMINATING, of_cluster.SHOWN_RUNNING) is c.TERMINATING
    assert apply_observation(CLUSTER, c.WAITING, of_cluster.SHOWN_WAITING) is c.WAITING
    assert apply_observation(CLUSTER, c.WAITING, of_cluster.SHOWN_RUNNING) is c.RUNNING
    assert apply_observation(SUBMISSION, s.RUNNING, of_submission.SHOWN_PENDING) is s.RUNNING
    with pytest.raises(InvalidTransition):
        apply_observation(CLUSTER, c.TERMINATED, of_cluster.SHOWN_TERMINATED_WITH_ERRORS)
    with pytest.raises(InvalidTransition):
        apply_observation(SUBMISSION, s.INTENDED, of_submission.CANCELLED_BY_US)


def test_a_cluster_that_is_over_hears_no_news_but_a_given_up_launch_comes_back_to_be_ended() -> None:
    over = make_cluster(state=ClusterState.TERMINATED)
    running = ObservedCluster(cluster_id=ClusterId("j-c1"), name="n", state=ClusterState.RUNNING)
    assert observe_cluster(over, running, now=NOW) == over
    given_up = make_cluster(
        state=ClusterState.NEVER_LAUNCHED, cluster_id=None, ended_at=ago(5), reason="gave up", ready_at=None
    )
    back = observe_cluster(given_up, running, now=NOW)
    assert (back.state, back.target, back.cluster_id) == (ClusterState.RUNNING, ClusterTarget.END, "j-c1")
    assert (back.ended_at, back.reason) == (None, None)


def test_what_sql_says_of_states_is_what_the_tables_say() -> None:
    assert CLAIMED_FROM == {
        WorkloadState.PREPARING: WorkloadState.ACCEPTED,
        WorkloadState.FINISHING: WorkloadState.FINISHABLE,
    }
    starts_anew = WORKLOAD.ends(WorkloadEvent.HANDED_OVER)
    assert starts_anew.keys() == {None, *OVER_WORKLOAD_STATES}
    assert set(starts_anew.values()) == {WorkloadState.ACCEPTED}
    for seen in (WorkloadEvent.TO_REPEAT, WorkloadEvent.FELL_SILENT):
        assert WORKLOAD.ends(seen) == CLAIMED_FROM
    assert WORKLOAD.ends(WorkloadEvent.REPORTED) == dict.fromkeys(CLAIMED_FROM, WorkloadState.FINISHED)


# -- the page that is made from them


def test_the_page_of_the_states_is_what_the_tables_make() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_states.py"))["page"]()
    assert (ROOT / "docs" / "states.md").read_text() == made, "run `make docs`"
    for table, states, observations in TABLES.values():
        assert all(f"`{member}`" in made for member in (*states, *observations))
        assert all(edge.why in made for edge in table.edges)

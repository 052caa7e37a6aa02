"""``clusters`` and ``steps``: a row each, readable at 100 columns, and the same as JSON."""

from __future__ import annotations

from functools import partial
from typing import Any

from emr_executor.cli.listings import clusters_view, read_clusters, read_steps, steps_view
from emr_executor.cli.read_only import read
from emr_executor.core.model import ClusterId, StepId, TaskKey
from emr_executor.core.states import ClusterState, ClusterTarget, StepState, SubmissionState, WorkloadState
from tests.cli.world import World, plain, rendered
from tests.store.builders import a_cluster, a_parked, a_submission, at

NOW = at(4000)


def fill(world: World) -> None:
    up = a_cluster(
        cluster_id=ClusterId("j-2AXXXXXXGAPLF"),
        intended_at=at(0),
        ready_at=at(400),
        target=ClusterTarget.DRAIN,
        slots=8,
    )
    launching = a_cluster(state=ClusterState.INTENDED, intended_at=at(3990))
    over = a_cluster(
        cluster_id=ClusterId("j-3BXXXXXXGAPLF"),
        state=ClusterState.TERMINATED_WITH_ERRORS,
        intended_at=at(-1000),
        ready_at=at(-700),
        ended_at=at(-100),
        reason_code="INSTANCE_FAILURE",
        reason="all [SPOT] nodes were reclaimed",
    )
    key = TaskKey(dag_id="salaries", task_id="average", run_id="r1", try_number=2, map_index=3)
    mine = a_parked(key=key, state=WorkloadState.SUBMITTED, losses=1)
    other = a_parked(key=TaskKey(dag_id="other", task_id="t", run_id="r1", try_number=1))
    lost = a_submission(
        mine,
        over,
        step_id=StepId("s-09864721H9UL1DBVKEQW"),
        state=SubmissionState.LOST,
        intended_at=at(-600),
        started_at=at(-500),
        ended_at=at(-90),
        cause="cluster j-3BXXXXXXGAPLF ended",
    )
    runs = a_submission(
        mine,
        up,
        2,
        step_id=StepId("s-19864721H9UL1DBVKEQW"),
        state=SubmissionState.RUNNING,
        intended_at=at(390),
        started_at=at(400),
    )
    world.store(up, launching, over, mine, other, lost, runs, a_submission(other, up, intended_at=at(3999)))


def clusters(world: World, *, with_past: bool = False) -> tuple[Any, ...]:
    return read(partial(read_clusters, with_past=with_past), world.engine)


def steps(world: World, *, with_past: bool = False, dag_id: str | None = None) -> tuple[Any, ...]:
    return read(partial(read_steps, with_past=with_past, dag_id=dag_id), world.engine)


def test_clusters_that_are_not_over(world: World) -> None:
    fill(world)
    rows = clusters(world)
    assert rendered(clusters_view(rows, NOW)) == (
        "cluster          pool     state     target  slots  age        ready for  idle for\n"
        "j-2AXXXXXXGAPLF  default  RUNNING   DRAIN   1/8    1 h 6 min  1 h        -\n"
        "(launching)      default  INTENDED  KEEP    0/4    10 s       -          -"
    )


def test_all_clusters_with_the_reason_of_their_end(world: World) -> None:
    fill(world)
    rows = clusters(world, with_past=True)
    text = rendered(clusters_view(rows, NOW))
    assert " ".join(text.splitlines()[1].split()) == (
        "j-3BXXXXXXGAPLF default TERMINATED_WITH_ERRORS KEEP 0/4 15 min 10 min -"
    )
    assert text.endswith("\n\nj-3BXXXXXXGAPLF: INSTANCE_FAILURE: all [SPOT] nodes were reclaimed")
    told = plain(rows)[0]
    assert " ".join(told) == (
        "cluster_id cluster_uuid cluster_pool state target slots_used slots steps intended_at ready_at "
        "idle_since ended_at reason quarantine"
    )
    assert (told["ended_at"], told["idle_since"]) == ("2031-05-06T07:06:29.123456+00:00", None)


def test_live_steps_of_one_dag(world: World) -> None:
    fill(world)
    rows = steps(world, dag_id="salaries")
    assert rendered(steps_view(rows, NOW), 80) == (
        "task and run         try  step and cluster        state and time  losses\n"
        "salaries.average[3]    2  s-19864721H9UL1DBVKEQW  RUNNING              1\n"
        "r1                        j-2AXXXXXXGAPLF         1 h"
    )


def test_all_steps_with_the_cause_of_their_end(world: World) -> None:
    fill(world)
    rows = steps(world, with_past=True)
    text = rendered(steps_view(rows, NOW))
    assert [line.split()[0] for line in text.splitlines()[1:7:2]] == [
        "salaries.average[3]",
        "salaries.average[3]",
        "other.t",
    ]
    assert text.endswith("\n\nsalaries.average[3] try 2 LOST: cluster j-3BXXXXXXGAPLF ended")
    told = plain(rows)[0]
    assert " ".join(told) == (
        "submission_id dag_id task_id run_id map_index try_number cluster_id step_id state intended_at "
        "started_at ended_at losses cause quarantine"
    )
    assert (told["run_id"], told["ended_at"]) == ("r1", "2031-05-06T07:06:39.123456+00:00")


def test_what_is_in_quarantine_says_so_and_what_can_be_done(world: World) -> None:
    bug = "no edge from WAITING to STARTING\nwhat happened before"
    up = a_cluster(cluster_id=ClusterId("j-2AXXXXXXGAPLF"), quarantine=bug)
    mine = a_parked(key=TaskKey(dag_id="d", task_id="t", run_id="r1", try_number=1))
    world.store(up, mine, a_submission(mine, up, step_id=StepId("s-1"), quarantine=bug))
    of_clusters, of_steps = (
        rendered(clusters_view(clusters(world), NOW)),
        rendered(steps_view(steps(world), NOW)),
    )
    assert "\n\nj-2AXXXXXXGAPLF is in quarantine: no edge from WAITING to STARTING. It" in of_clusters
    assert "\n\nd.t try 1 is in quarantine: no edge from WAITING to STARTING. Its step" in of_steps
    for text in (of_clusters, of_steps):
        assert "terminate j-2AXXXXXXGAPLF in Amazon EMR" in " ".join(text.split())
        assert "what happened before" not in text
    assert {row.quarantine for row in (*clusters(world), *steps(world))} == {
        "no edge from WAITING to STARTING"
    }


def test_a_step_that_emr_is_cancelling_is_shown_so(world: World) -> None:
    mine, up = a_parked(state=WorkloadState.SUBMITTED), a_cluster(cluster_id=ClusterId("j-1"))
    leaving = {"step_id": StepId("s-1"), "step_state": StepState.CANCEL_PENDING}
    world.store(mine, up, a_submission(mine, up, state=SubmissionState.RUNNING, **leaving))
    (row,) = steps(world)
    assert row.state == "CANCEL_PENDING"


def test_a_cluster_that_the_agent_ended_is_not_by_user_request_and_says_why(world: World) -> None:
    emr_says = {"reason_code": "USER_REQUEST", "reason": "Terminated by user request"}
    over = {"state": ClusterState.TERMINATED, "ended_at": at(200), **emr_says}
    ours = a_cluster(cluster_id=ClusterId("j-1"), end_asked_at=at(100), **over)
    forgotten = a_cluster(cluster_id=ClusterId("j-2"), end_asked_at=at(100), **over)
    by_hand = a_cluster(cluster_id=ClusterId("j-3"), **over)
    world.store(ours, forgotten, by_hand)
    world.tell("cluster", ours.cluster_uuid, "ending", "ending j-1: idle for 300 s (idle_timeout 300 s)", 99)
    rows = clusters(world, with_past=True)
    assert {row.cluster_id: row.reason for row in rows} == {
        "j-1": "the agent ended it: idle for 300 s (idle_timeout 300 s)",
        "j-2": "the agent ended it",
        "j-3": "USER_REQUEST: Terminated by user request",
    }


def test_a_long_name_is_folded_and_never_cut(world: World) -> None:
    name = "a_task_with_a_name_that_is_much_longer_than_any_column_has_room_for"
    run_id = "manual__2026-12-01T00:00:00+00:00"
    key = TaskKey(dag_id="salaries", task_id=name, run_id=run_id, try_number=1)
    mine, up = a_parked(key=key), a_cluster(cluster_id=ClusterId("j-2AXXXXXXGAPLF"))
    world.store(mine, up, a_submission(mine, up, step_id=StepId("s-19864721H9UL1DBVKEQW")))
    rows = steps(world)
    lines = rendered(steps_view(rows, NOW), 80).splitlines()[1:]
    assert "".join(line[:28].split(" ")[0] for line in lines) == f"salaries.{name}{run_id}", lines
    assert "s-19864721H9UL1DBVKEQW" in lines[0]


def test_nothing_to_list_says_so(world: World) -> None:
    assert rendered(clusters_view((), NOW)) == (
        "No cluster of this deployment is up. `--all` shows those that are over."
    )
    assert rendered(steps_view((), NOW)) == "No step is live. `--all` shows those that are over."

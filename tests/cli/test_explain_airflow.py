"""Airflow's half of ``explain``: the limit that holds a task is named, and only that one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.jobs.job import Job
from airflow.utils.state import DagRunState
from sqlalchemy import update

from emr_executor.cli.airflow_facts import Limit
from emr_executor.cli.airflow_text import NOTHING_HOLDS
from emr_executor.cli.read_only import CannotTell
from tests.cli.world import World, flat, workload_of
from tests.store.builders import at

GETS_IT = "EmrExecutor gets it once Airflow queues it."


@pytest.fixture(autouse=True)
def scheduler(world: World) -> int:
    return world.scheduler()


def test_nothing_holds_a_task_that_was_just_scheduled(world: World) -> None:
    world.run()
    world.scheduled(seconds=98)
    facts = world.explain()
    assert facts.sentences == (
        "Airflow scheduled it 2 s ago and has not queued it yet.",
        NOTHING_HOLDS,
        GETS_IT,
    )
    assert facts.airflow.limits == (
        Limit(name="pool", used=0, allowed=2, subject="spark"),
        Limit(name="max_active_tasks", used=0, allowed=3),
        Limit(name="max_active_tis_per_dag", used=0, allowed=2),
        Limit(name="parallelism", used=0, allowed=32),
    )


FULL = {"state": "running", "pool": "spark", "pool_slots": 2}


@pytest.mark.parametrize(
    ("arrange", "sentence"),
    [
        (
            lambda world: (world.scheduled(), world.set_task("local", **FULL)),
            """Airflow's pool 'spark' is full: 2 of 2 slots are taken. Parked tasks hold theirs too: give such
            tasks a pool of their own with more slots.""",
        ),
        (
            lambda world: world.scheduled(pool="nowhere"),
            "Airflow's pool 'nowhere' has no slot or does not exist: make one in Admin > Pools.",
        ),
        (
            lambda world: (world.scheduled(), world.set_task("local", **FULL), world.set_pool(-1)),
            NOTHING_HOLDS,
        ),
        (
            lambda world: (
                world.set_dag(max_active_tasks=1),
                world.scheduled(),
                world.set_task("local", state="queued"),
            ),
            """max_active_tasks of the DAG holds it: 1 of 1 tasks of this run are queued or running, parked
            ones included. Raise max_active_tasks on the DAG.""",
        ),
        (
            lambda world: (
                world.set_dag(max_active_tasks=1),
                world.scheduled(),
                world.run("r0", after=at(-10)),
                world.set_task("local", "r0", state="running"),
            ),
            NOTHING_HOLDS,
        ),
        (
            lambda world: (
                world.set_pool(-1),
                world.scheduled(),
                world.run("r2"),
                world.set_task("average", "r2", state="running"),
                world.run("r3"),
                world.set_task("average", "r3", state="deferred"),
            ),
            "max_active_tis_per_dag of the task holds it: 2 of 2 of its instances are active.",
        ),
        (
            lambda world: world.scheduled(executor="Gone"),
            """Its executor 'Gone' is not in [core] executor, so no scheduler ever takes it: name it there and
            restart the scheduler, or take it from the task.""",
        ),
        (
            lambda world: world.execute(update(Job).values(state="failed")),
            "No scheduler of Airflow is alive, so nothing is scheduled: start `airflow scheduler`.",
        ),
        (
            lambda world: world.set_task("extract", state="running"),
            "It waits for upstream tasks (trigger rule all_success): extract (running).",
        ),
    ],
)
def test_what_holds_a_task_is_named(world: World, arrange: Callable[[World], Any], sentence: str) -> None:
    world.run()
    arrange(world)
    assert world.explain(run_id="r1").sentences[1] == flat(sentence)


def test_parallelism_counts_what_other_executors_run(
    world: World, scheduler: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "1")
    world.run()
    world.scheduled()
    ti_id = world.set_task("local", state="running", queued_by_job_id=scheduler)
    assert world.explain().sentences[1] == (
        "[core] parallelism holds it: 1 of 1 tasks of other executors run in the scheduler with most room "
        "(parked ones do not count)."
    )
    world.store(workload_of(ti_id, scheduler_job_id=scheduler))
    assert not [limit for limit in world.explain().airflow.limits if limit.holds]


def test_a_paused_dag_and_a_run_that_waits_for_others(world: World) -> None:
    world.set_dag(is_paused=True)
    world.run("r1", after=at(-3))
    world.run("r2", after=at(-2))
    world.run("r3", DagRunState.QUEUED, after=at(-1))
    sentences = world.explain("extract").sentences
    assert sentences[:3] == (
        "Airflow has not scheduled it yet (its DAG run is queued).",
        "Its DAG is paused: unpause it in the UI or with `airflow dags unpause`.",
        "Its DAG run is queued: 2 runs of the DAG are active and max_active_runs is 2.",
    )


def test_a_retry_has_its_time(world: World) -> None:
    world.run()
    world.set_task("average", state="up_for_retry", try_number=1, max_tries=2, end_date=at(50))
    said = world.explain().sentences[0]
    assert said.startswith("It failed and waits for its retry at ")
    assert said.endswith("(try 1 of 3).")


def test_what_airflows_own_checks_say_is_passed_on(world: World) -> None:
    world.run()
    world.set_task("extract", state="failed")
    said = world.explain().sentences[1]
    assert said.startswith("Airflow's check says: Trigger Rule: Task's trigger rule 'all_success' requires")


def test_a_queue_of_another_executor(world: World) -> None:
    world.run()
    world.set_task("local", state="running", start_date=at(90), try_number=1, max_tries=0)
    assert world.explain("local").sentences == (
        "Airflow has had it running for 10 s (try 1 of 1).",
        "Its queue 'default' is none of ours (emr), so another executor runs it.",
    )


def test_the_latest_run_is_meant_unless_one_is_named(world: World) -> None:
    world.run("old", after=at(-50))
    world.run("new", after=at(-5))
    assert world.explain().airflow.run_id == "new"
    assert world.explain(run_id="old").airflow.run_id == "old"


@pytest.mark.parametrize(
    ("runs", "asked", "message"),
    [
        (1, {"dag_id": "salary"}, "Airflow knows no DAG 'salary'; did you mean salaries?"),
        (1, {"task_id": "averag"}, "run 'r1' of DAG 'salaries' has no task 'averag'; did you mean average?"),
        (1, {"run_id": "r9"}, "DAG 'salaries' has no run 'r9'"),
        (1, {"map_index": 4}, "task 'average' has no map index 4; it has none: it is not mapped"),
        (0, {}, "DAG 'salaries' has never run: trigger it, or wait for its schedule"),
    ],
)
def test_what_is_not_there_is_named(world: World, runs: int, asked: dict[str, Any], message: str) -> None:
    for _ in range(runs):
        world.run()
    with pytest.raises(CannotTell) as told:
        world.explain(**asked)
    assert str(told.value) == message


def test_of_a_mapped_task_the_first_that_is_not_over_is_meant(world: World) -> None:
    world.run()
    world.map_task("average", ["success", "running", None])
    facts = world.explain()
    assert facts.airflow.instances == {"success": 1, "running": 1, "not scheduled": 1}
    assert facts.sentences[1] == (
        "The task has 3 instances (1 not scheduled, 1 running, 1 success) in this run; this is about map "
        "index 1, --map-index names another."
    )
    assert world.explain(map_index=2).airflow.state is None
    with pytest.raises(CannotTell) as told:
        world.explain(map_index=7)
    assert str(told.value) == "task 'average' has no map index 7; it has 0 to 2"

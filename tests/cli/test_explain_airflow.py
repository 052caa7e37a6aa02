"""Airflow's half of ``explain``: the limit that holds a task is named, and only that one."""

from __future__ import annotations

import pytest
from airflow.jobs.job import Job
from airflow.utils.state import DagRunState
from sqlalchemy import update
from sqlalchemy.orm import Session

from emr_executor.cli.airflow_limits import Limit
from emr_executor.cli.airflow_text import NOTHING_HOLDS
from emr_executor.cli.read_only import CannotTell
from emr_executor.config import Settings
from tests.cli.world import World, workload_of
from tests.store.builders import at

GETS_IT = "EmrExecutor gets it once Airflow queues it."


@pytest.fixture(autouse=True)
def scheduler(world: World) -> int:
    return world.scheduler()


def test_upstream_that_is_not_done(world: World, settings: Settings) -> None:
    world.run()
    world.set_task("extract", state="running")
    assert world.explain(settings).sentences == (
        "Airflow has not scheduled it yet (its DAG run is running).",
        "It waits for upstream tasks (trigger rule all_success): extract (running).",
        GETS_IT,
    )


def test_nothing_holds_a_task_that_was_just_scheduled(world: World, settings: Settings) -> None:
    world.run()
    world.set_task("extract", state="success")
    world.set_task("average", state="scheduled", scheduled_dttm=at(98))
    facts = world.explain(settings)
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


def test_a_full_pool_of_airflow(world: World, settings: Settings) -> None:
    world.run()
    world.set_task("average", state="scheduled", scheduled_dttm=at(40))
    world.set_task("local", state="running", pool="spark", pool_slots=2)
    assert world.explain(settings).sentences[1] == (
        "Airflow's pool 'spark' is full: 2 of 2 slots are taken. Parked tasks hold theirs too: give such "
        "tasks a pool of their own with more slots."
    )
    world.set_task("average", pool="nowhere")
    assert world.explain(settings).sentences[1].startswith("Airflow's pool 'nowhere' has no slot or does not")


def test_an_unlimited_pool_holds_nothing(world: World, settings: Settings) -> None:
    world.run()
    world.set_pool(-1)
    world.set_task("local", state="running", pool="spark", pool_slots=50)
    world.set_task("average", state="scheduled", scheduled_dttm=at(40))
    assert NOTHING_HOLDS in world.explain(settings).sentences


def test_max_active_tasks_counts_one_run_as_the_scheduler_does(world: World, settings: Settings) -> None:
    world.set_dag(max_active_tasks=1)
    world.run("r0", after=at(-10))
    world.run("r1")
    world.set_task("local", "r0", state="running")
    world.set_task("average", state="scheduled", scheduled_dttm=at(40))
    assert NOTHING_HOLDS in world.explain(settings).sentences
    world.set_task("local", "r1", state="queued")
    assert world.explain(settings).sentences[1] == (
        "max_active_tasks of the DAG holds it: 1 of 1 tasks of this run are queued or running, parked ones "
        "included. Raise max_active_tasks on the DAG."
    )


def test_max_active_tis_per_dag_counts_all_runs(world: World, settings: Settings) -> None:
    for number in (1, 2, 3):
        world.run(f"r{number}", after=at(number))
    world.set_pool(-1)
    world.set_task("average", "r1", state="running")
    world.set_task("average", "r2", state="deferred")
    world.set_task("average", "r3", state="scheduled", scheduled_dttm=at(40))
    assert world.explain(settings).sentences[1] == (
        "max_active_tis_per_dag of the task holds it: 2 of 2 of its instances are active."
    )


def test_parallelism_counts_what_other_executors_run(
    world: World, settings: Settings, scheduler: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "1")
    world.run()
    world.set_task("average", state="scheduled", scheduled_dttm=at(40))
    ti_id = world.set_task("local", state="running", queued_by_job_id=scheduler)
    assert world.explain(settings).sentences[1] == (
        "[core] parallelism holds it: 1 of 1 tasks of other executors run in the scheduler with most room "
        "(parked ones do not count)."
    )
    world.store(workload_of(ti_id, scheduler_job_id=scheduler))
    assert not [limit for limit in world.explain(settings).airflow.limits if limit.holds]


def test_a_paused_dag_and_a_run_that_waits_for_others(world: World, settings: Settings) -> None:
    world.set_dag(is_paused=True)
    world.run("r1", after=at(-3))
    world.run("r2", after=at(-2))
    world.run("r3", DagRunState.QUEUED, after=at(-1))
    sentences = world.explain(settings, "extract").sentences
    assert sentences[:3] == (
        "Airflow has not scheduled it yet (its DAG run is queued).",
        "Its DAG is paused: unpause it in the UI or with `airflow dags unpause`.",
        "Its DAG run is queued: 2 runs of the DAG are active and max_active_runs is 2.",
    )


def test_an_executor_that_no_scheduler_has(world: World, settings: Settings) -> None:
    world.run()
    world.set_task("average", state="scheduled", scheduled_dttm=at(40), executor="Gone")
    assert world.explain(settings).sentences[1] == (
        "Its executor 'Gone' is not in [core] executor, so no scheduler ever takes it: name it there and "
        "restart the scheduler, or take it from the task."
    )


def test_no_scheduler_is_alive(world: World, settings: Settings) -> None:
    with Session(world.engine) as session:
        session.execute(update(Job).values(state="failed"))
        session.commit()
    world.run()
    assert world.explain(settings, "extract").sentences[1] == (
        "No scheduler of Airflow is alive, so nothing is scheduled: start `airflow scheduler`."
    )


def test_a_retry_has_its_time(world: World, settings: Settings) -> None:
    world.run()
    world.set_task("average", state="up_for_retry", try_number=1, max_tries=2, end_date=at(50))
    said = world.explain(settings).sentences[0]
    assert said.startswith("It failed and waits for its retry at ")
    assert said.endswith("(try 1 of 3).")


def test_what_airflows_own_checks_say_is_passed_on(world: World, settings: Settings) -> None:
    world.run()
    world.set_task("extract", state="failed")
    said = world.explain(settings).sentences[1]
    assert said.startswith("Airflow's check says: Trigger Rule: Task's trigger rule 'all_success' requires")


def test_a_queue_of_another_executor(world: World, settings: Settings) -> None:
    world.run()
    world.set_task("local", state="running", start_date=at(90), try_number=1, max_tries=0)
    assert world.explain(settings, "local").sentences == (
        "Airflow has had it running for 10 s (try 1 of 1).",
        "Its queue 'default' is none of ours (emr), so another executor runs it.",
    )


def test_the_latest_run_is_meant_unless_one_is_named(world: World, settings: Settings) -> None:
    world.run("old", after=at(-50))
    world.run("new", after=at(-5))
    assert world.explain(settings).airflow.run_id == "new"
    assert world.explain(settings, run_id="old").airflow.run_id == "old"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"dag_id": "salary"}, "Airflow knows no DAG 'salary'; did you mean salaries?"),
        ({"task_id": "averag"}, "run 'r1' of DAG 'salaries' has no task 'averag'; did you mean average?"),
        ({"run_id": "r9"}, "DAG 'salaries' has no run 'r9'"),
        ({"map_index": 4}, "task 'average' has no map index 4; it has none: it is not mapped"),
    ],
)
def test_what_is_not_there_is_named(world: World, settings: Settings, asked: dict, message: str) -> None:
    world.run()
    with pytest.raises(CannotTell) as told:
        world.explain(settings, **asked)
    assert str(told.value) == message


def test_a_dag_without_a_run(world: World, settings: Settings) -> None:
    with pytest.raises(CannotTell) as told:
        world.explain(settings)
    assert str(told.value) == "DAG 'salaries' has never run: trigger it, or wait for its schedule"


def test_of_a_mapped_task_the_first_that_is_not_over_is_meant(world: World, settings: Settings) -> None:
    world.run()
    world.map_task("average", ["success", "running", None])
    facts = world.explain(settings)
    assert facts.airflow.instances == {"success": 1, "running": 1, "not scheduled": 1}
    assert facts.sentences[1] == (
        "The task has 3 instances (1 not scheduled, 1 running, 1 success) in this run; this is about map "
        "index 1, --map-index names another."
    )
    assert world.explain(settings, map_index=2).airflow.state is None
    with pytest.raises(CannotTell) as told:
        world.explain(settings, map_index=7)
    assert str(told.value) == "task 'average' has no map index 7; it has 0 to 2"

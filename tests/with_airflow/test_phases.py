"""The provider's own SparkSubmitOperator with queue="emr", under a real scheduler."""

from __future__ import annotations

import pytest

from tests.with_airflow.conftest import Bench

ONCE_A_TRY = ("pre_execute", "on_execute", "on_success")


def test_every_task_succeeds_on_its_first_try(bench: Bench) -> None:
    run = bench.finished("phases")
    assert set(run.states().values()) == {"success"}
    assert {task.try_number for task in run.tasks} == {1}


def test_the_operator_is_the_providers_class_itself(bench: Bench) -> None:
    bench.finished("phases")
    rows = bench.rows(
        "select distinct operator, executor, queue from task_instance"
        " where dag_id = 'phases' and task_id = 'plain'"
    )
    assert rows == [
        {"operator": "SparkSubmitOperator", "executor": "emr_executor.EmrExecutor", "queue": "emr"}
    ]


def test_arguments_templated_from_xcom_arrive_at_the_driver(bench: Bench) -> None:
    bench.finished("phases")
    assert "driver says rendered-from-xcom" in bench.log("phases", "plain")
    assert "driver says second" in bench.log("phases", "mapped", map_index=1)


@pytest.mark.parametrize("task", ["plain -1", "around -1", "mapped 0", "mapped 1", "slow -1"])
def test_callbacks_and_pre_execute_run_once_a_try(bench: Bench, task: str) -> None:
    bench.finished("phases")
    counts = bench.events("phases")
    assert {event: counts[f"{task} 1 {event}"] for event in ONCE_A_TRY} == dict.fromkeys(ONCE_A_TRY, 1)
    assert counts[f"{task} 1 on_failure"] == counts[f"{task} 1 on_retry"] == 0


def test_a_subclass_runs_the_code_on_both_sides_of_the_spark_call(bench: Bench) -> None:
    bench.finished("phases")
    assert bench.events("phases")["around -1 1 after_submit"] == 1
    run_id = bench.start("phases")
    assert bench.stack.client.xcom("phases", run_id, "around") == "from the other side"


def test_a_phase_of_15_seconds_is_not_killed_by_its_own_heartbeat(bench: Bench) -> None:
    bench.finished("phases")
    log = bench.log("phases", "slow")
    assert "driver says slow" in log
    assert "Server indicated the task shouldn't be running anymore" not in log
    rows = bench.rows(
        "select phase_attempts, submissions from emr_workload where dag_id = 'phases' and task_id = 'slow'"
    )
    assert rows[0]["submissions"] == 1


def test_the_task_log_tells_the_story_in_order(bench: Bench) -> None:
    bench.finished("phases")
    log = bench.log("phases", "plain")
    story = [
        "Parked",
        "queued on j-",
        "running as step s-",
        "driver says",
        "driver is done",
        "completed",
    ]
    assert [text for text in story if text not in log] == []
    assert sorted(story, key=log.index) == story


def test_what_ran_where_is_an_xcom_of_its_own(bench: Bench) -> None:
    bench.finished("phases")
    run_id = bench.start("phases")
    ran = bench.stack.client.xcom("phases", run_id, "plain", key="emr_step")
    assert bench.stack.client.xcom("phases", run_id, "plain") is None
    stored = next(s for s in bench.submissions("phases") if s["task_id"] == "plain")
    assert stored["step_id"] in str(ran)


def test_each_workload_had_one_step_and_the_cap_held(bench: Bench) -> None:
    bench.finished("phases")
    assert len(bench.steps_run("phases")) == 5
    bench.check_ledger()


def test_every_cluster_carries_the_deployment_and_a_dead_mans_switch(bench: Bench) -> None:
    bench.finished("phases")
    (deployment,) = bench.rows("select deployment_id from emr_deployment")
    clusters = bench.emr.list_clusters()["Clusters"]
    assert clusters
    for cluster in clusters:
        assert cluster["Name"].startswith(f"airflow-emr/{deployment['deployment_id']}/default/")
        policy = bench.emr.get_auto_termination_policy(ClusterId=cluster["Id"])["AutoTerminationPolicy"]
        assert policy["IdleTimeout"] >= 3600

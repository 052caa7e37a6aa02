"""What people, Airflow and AWS do to a step that runs: losses, clears, marks, timeouts, long absences."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.with_airflow.conftest import Bench, running_bench

HEARTBEAT_TIMEOUT_S = 40
WITHIN_S = 10.0
"""A step that is no longer wanted is cancelled within this."""


@pytest.fixture(scope="module")
def duo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A pool of two clusters, and an Airflow that purges silent tries soon."""
    with running_bench(
        tmp_path_factory.mktemp("duo"),
        max_clusters=2,
        scheduler={"task_instance_heartbeat_timeout": str(HEARTBEAT_TIMEOUT_S)},
        emr_executor={"loss_hold": "15"},
    ) as made:
        yield made


def api(duo: Bench, method: str, path: str, body: dict[str, object]) -> None:
    response = duo.stack.client.call(method, path, json=body)
    assert response.is_success, response.text


def task_path(duo: Bench, dag_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{duo.start(dag_id)}/taskInstances/waits"


def wait_until_dead(duo: Bench, dag_id: str, since: float) -> None:
    """The first step of the DAG is dead, and died soon enough."""
    duo.wait(lambda: not duo.lives(dag_id)[0], f"the end of the first step of {dag_id}", timeout_s=30)
    assert time.monotonic() - since < WITHIN_S


@pytest.mark.parametrize("steps_become", ["CANCELLED", "FAILED", "INTERRUPTED"])
def test_a_lost_cluster_costs_no_try(duo: Bench, steps_become: str) -> None:
    dag_id = f"lost_{steps_become.lower()}"
    first = duo.run_until_running(dag_id)
    duo.control.lose_cluster(first["cluster_id"], notice_after_s=4.0, steps_become=steps_become)
    duo.open_gate(dag_id)
    run = duo.finished(dag_id)
    assert [(task.state, task.try_number) for task in run.tasks] == [("success", 1)]
    states = [s["state"] for s in duo.submissions(dag_id)]
    assert states == ["LOST", "COMPLETED"]
    assert "the step will run again elsewhere (loss 1 of 3)" in duo.log(dag_id, "waits")
    assert duo.events(dag_id)["waits -1 1 on_success"] == 1
    duo.check_ledger()


def test_a_cleared_task_ends_its_step_and_its_next_try_waits_for_that(duo: Bench) -> None:
    duo.run_until_running("cleared")
    cleared_at = time.monotonic()
    body = {"dry_run": False, "task_ids": ["waits"], "dag_run_id": duo.start("cleared"), "only_failed": False}
    api(duo, "POST", "/dags/cleared/clearTaskInstances", body)
    wait_until_dead(duo, "cleared", cleared_at)
    duo.open_gate("cleared")
    run = duo.finished("cleared")
    assert [(task.state, task.try_number) for task in run.tasks] == [("success", 2)]
    assert [s["state"] for s in duo.submissions("cleared")] == ["CANCELLED", "COMPLETED"]
    duo.check_ledger()


@pytest.mark.parametrize("state", ["success", "failed"])
def test_a_marked_task_ends_its_step_and_stays_marked(duo: Bench, state: str) -> None:
    dag_id = f"marked_{state}"
    duo.run_until_running(dag_id)
    marked_at = time.monotonic()
    api(duo, "PATCH", task_path(duo, dag_id), {"new_state": state})
    wait_until_dead(duo, dag_id, marked_at)
    run = duo.finished(dag_id)
    assert [(task.state, task.try_number) for task in run.tasks] == [(state, 1)]
    assert duo.lives(dag_id) == [False]


def test_an_execution_timeout_ends_the_step_and_fails_the_try(duo: Bench) -> None:
    run = duo.finished("overtime")
    assert run.states() == {"waits": "failed"}
    assert duo.lives("overtime") == [False]
    log = duo.log("overtime", "waits")
    assert "ran longer than the task's execution_timeout" in log
    assert duo.events("overtime")["waits -1 1 on_failure"] == 1


def test_a_dag_run_timeout_ends_the_step(duo: Bench) -> None:
    duo.run_until_running("run_overtime")
    run = duo.finished("run_overtime")
    ended_at = time.monotonic()
    assert run.state == "failed"
    wait_until_dead(duo, "run_overtime", ended_at)
    duo.wait(
        lambda: duo.rows("select 1 from emr_workload where dag_id = 'run_overtime' and state = 'CANCELLED'"),
        "the workload to be over",
    )


def test_throttling_slows_and_fails_nothing(duo: Bench) -> None:
    duo.control.throttle("*", 25)
    duo.open_gate("throttled")
    run = duo.finished("throttled")
    duo.control.clear_faults()
    assert [(task.state, task.try_number) for task in run.tasks] == [("success", 1)]
    assert len(duo.steps_run("throttled")) == 1


def test_an_absence_beyond_the_heartbeat_timeout_is_survived(duo: Bench) -> None:
    duo.run_until_running("away")
    gone_at = time.monotonic()
    for agent in duo.agents():
        agent.kill()
    duo.kill_scheduler()
    duo.wait(lambda: time.monotonic() - gone_at > HEARTBEAT_TIMEOUT_S + 5, "the heartbeat timeout to pass")
    duo.stack.restart("scheduler")
    duo.wait(duo.agents, "a new agent")
    duo.open_gate("away")
    run = duo.finished("away")
    assert [(task.state, task.try_number) for task in run.tasks] == [("success", 1)]
    assert len(duo.steps_run("away")) == 1
    duo.check_ledger()

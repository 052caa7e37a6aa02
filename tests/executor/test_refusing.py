"""An executor whose configuration cannot be used: its tasks wait for a better one; it gets no others."""

from __future__ import annotations

import sys

import pytest
from airflow.utils.state import TaskInstanceState

from emr_executor.config_refusal import ExecutorOrderError, Refusal
from emr_executor.executor import EmrExecutor
from tests.executor.test_executor import execute_task, ti_of


@pytest.fixture
def executor() -> EmrExecutor:
    return EmrExecutor()


def test_a_refusing_executor_leaves_tasks_queued_for_a_while_and_then_fails_them_with_the_text(
    executor: EmrExecutor,
) -> None:
    now = [0.0]
    executor._refusal = Refusal("max_clusters must be a number", hold_s=600, monotonic=lambda: now[0])
    task = execute_task()
    executor.queue_workload(task, session=None)
    assert executor.has_task(ti_of(task))
    now[0] = 599.0
    executor.heartbeat()
    assert executor.event_buffer == {}
    # Airflow's task_queued_timeout takes it back and queues it again: its time goes on.
    executor.revoke_task(ti=ti_of(task))
    executor.queue_workload(task, session=None)
    now[0] = 600.0
    executor.heartbeat()
    ((state, text),) = executor.event_buffer.values()
    assert state == TaskInstanceState.FAILED
    assert text == (
        "max_clusters must be a number\nThe task stayed queued for 600 s ([emr_executor] refusal_hold), in "
        "which no scheduler was started with a configuration that can be used."
    )
    assert not executor.has_task(ti_of(task))


def test_a_task_that_airflow_takes_back_for_good_is_not_failed_by_a_refusal(executor: EmrExecutor) -> None:
    executor._refusal = Refusal("no", hold_s=0)
    task = execute_task()
    executor.queue_workload(task, session=None)
    executor.revoke_task(ti=ti_of(task))
    executor.heartbeat()
    assert executor.event_buffer == {}


WHY = "so every task without an executor of its own would come to it, and it runs only the tasks of its"


@pytest.mark.parametrize(
    ("configured", "problem", "line"),
    [
        (
            "emr_executor.EmrExecutor,LocalExecutor",
            f"names emr_executor.EmrExecutor first, {WHY} EMR queues",
            "LocalExecutor,emr_executor.EmrExecutor",
        ),
        (
            "emr:emr_executor.EmrExecutor",
            f"names emr:emr_executor.EmrExecutor alone, {WHY} EMR queues",
            "LocalExecutor,emr:emr_executor.EmrExecutor",
        ),
        (
            "CeleryExecutor",
            "does not name emr_executor.EmrExecutor",
            "CeleryExecutor,emr_executor.EmrExecutor",
        ),
    ],
)
def test_an_order_of_executors_that_gives_us_all_tasks_ends_the_scheduler_with_the_line_to_write(
    monkeypatch: pytest.MonkeyPatch, configured: str, problem: str, line: str
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", configured)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    said: list[str] = []
    executor = EmrExecutor()
    monkeypatch.setattr(executor.log, "error", lambda text, *facts: said.append(text % facts))
    executor.start()
    executor.queue_workload(execute_task(), session=None)
    (text,) = said
    assert text.startswith("EmrExecutor ends this scheduler:\n")
    assert f"  - [core] executor {problem}; write: executor = {line}\n" in text
    # With all other problems, so that one start tells everything.
    assert "cluster_template is not set" in text
    assert "staging_uri is not set" in text
    # No SystemExit, which Airflow takes for ^C and exit code 0.
    with pytest.raises(ExecutorOrderError) as ended:
        executor.heartbeat()
    assert str(ended.value) == text
    assert executor.event_buffer == {}

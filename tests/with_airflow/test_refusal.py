"""A configuration that cannot be used: tasks wait, then fail with the text; all else goes on; the alias."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.airflow_stack.components import StackError
from tests.airflow_stack.stack import LocalStack

DAGS = """
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, task

with DAG("refused", schedule=None):
    SparkSubmitOperator(task_id="spark", application="s3://bucket/job.py", queue="emr")

with DAG("served", schedule=None):

    @task
    def local():
        return "done"

    local()
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    folder = tmp_path_factory.mktemp("refusing")
    (folder / "dags").mkdir()
    (folder / "dags" / "both.py").write_text(DAGS)
    sections = {
        "core": {"executor": "LocalExecutor,emr:emr_executor.EmrExecutor"},
        "emr_executor": {
            "cluster_template": "no-such-file.yaml",
            "staging_uri": "bucket-without-scheme",
            "max_clusters": "many",
            "refusal_hold": "4s",
        },
    }
    with LocalStack(folder / "home", dags=[folder / "dags"], with_emr=False, sections=sections) as stack:
        yield stack


def test_the_task_fails_with_every_problem_in_its_log(stack: LocalStack) -> None:
    run_id = stack.trigger("refused")
    run = stack.wait_for_run("refused", run_id, timeout_s=90)
    assert run.states() == {"spark": "failed"}
    log = stack.task_log("refused", run_id, "spark")
    for problem in ("no-such-file.yaml", "bucket-without-scheme", "max_clusters"):
        assert problem in log
    assert "stayed queued for 4 s ([emr_executor] refusal_hold)" in log


def test_the_scheduler_and_the_other_executor_go_on(stack: LocalStack) -> None:
    run = stack.wait_for_run("served", stack.trigger("served"), timeout_s=90)
    assert run.states() == {"local": "success"}


@pytest.mark.parametrize("executors", ["emr_executor.EmrExecutor", "emr_executor.EmrExecutor,LocalExecutor"])
def test_where_it_would_get_all_tasks_the_scheduler_ends_with_the_line_to_write(
    stack: LocalStack, executors: str
) -> None:
    stack.env["AIRFLOW__CORE__EXECUTOR"] = executors
    try:
        with pytest.raises(StackError, match="ended with exit code 1") as ended:
            stack.airflow("scheduler", "-n", "1")
    finally:
        del stack.env["AIRFLOW__CORE__EXECUTOR"]
    said = str(ended.value)
    assert "write: executor = LocalExecutor,emr_executor.EmrExecutor" in said
    assert "Traceback" not in said

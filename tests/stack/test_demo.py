"""The stack of ``make up`` with its one-step DAG: real Airflow, real Spark, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.airflow_stack.components import marked_processes
from tests.airflow_stack.stack import LocalStack
from tests.demo_run.commands import CHECKOUT
from tests.demo_run.emr_now import emr_steps_of


@pytest.mark.processes
def test_the_dag_delays_is_green_and_ran_as_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://aws.invalid")
    template = CHECKOUT / "config" / "clusters" / "local.yaml"
    with LocalStack(tmp_path, dags=[CHECKOUT / "dags"], template=template, whole=True) as stack:
        assert stack.endpoint is not None
        run_id = stack.trigger("delays")
        while_it_ran = ""
        for last in stack.watch("delays", run_id):
            if last.states()["job"] == "running":
                while_it_ran = stack.task_log("delays", run_id, "job")
        assert "/log/dag_id=delays/" in while_it_ran
        assert "Could not read served logs" not in while_it_ran
        assert stack.client.health()["triggerer"] == "healthy"
        log = stack.task_log("delays", run_id, "job")
        assert last.states() == {"job": "success", "show": "success", "upload": "success"}, log
        (step,) = emr_steps_of(stack.endpoint.control().status(), "delays")
        assert (step.task, step.state) == ("job", "COMPLETED")
        assert f"running as step {step.step_id}" in log
        assert "EWR-TYS" in stack.task_log("delays", run_id, "show")
        mark = stack.mark
    assert marked_processes(mark) == []

"""Waiting: for AWS credentials that appear late, and for a cluster that does not come up."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.airflow_stack.stack import LocalStack
from tests.with_airflow.conftest import HERE, Bench

NO_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class WithoutCredentials(LocalStack):
    """A stack whose Airflow finds AWS credentials in a file only, which a test writes when it likes."""

    @property
    def credentials_file(self) -> Path:
        return self.home / "aws-credentials"

    def airflow_env(self) -> dict[str, str]:
        env = {name: value for name, value in super().airflow_env().items() if name not in NO_CREDENTIALS}
        return {**env, "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials_file)}


def fresh_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    folder = tmp_path_factory.mktemp(name)
    for part in ("dags", "jobs"):
        shutil.copytree(HERE / part, folder / part)
    (folder / "gates").mkdir()
    return folder


def test_a_task_waits_for_credentials_and_then_runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = fresh_folder(tmp_path_factory, "credentials")
    env = {"EMR_TEST_EVENTS": str(folder / "events"), "EMR_TEST_GATES": str(folder / "gates")}
    with WithoutCredentials(folder / "home", dags=[folder / "dags"], env=env) as stack:
        bench = Bench(stack, f"sqlite:///{stack.airflow_home}/airflow.db", folder)
        bench.open_gate("throttled")
        bench.start("throttled")
        bench.wait(
            lambda: bench.rows("select 1 from emr_history where event = 'phase_retried'"),
            "the workload to meet the missing credentials",
        )
        assert bench.endpoint is not None
        stack.credentials_file.write_text(
            f"[default]\naws_access_key_id = {bench.endpoint.access_key_id}\n"
            f"aws_secret_access_key = {bench.endpoint.secret_access_key}\n"
        )
        run = bench.finished("throttled")
        assert [(task.state, task.try_number) for task in run.tasks] == [("success", 1)]
        assert len(bench.steps_run("throttled")) == 1
        assert "cannot be parked now" in bench.log("throttled", "waits")
        bench.engine.dispose()


def test_a_task_whose_cluster_emr_refuses_tells_why_and_fails_at_queue_timeout(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = fresh_folder(tmp_path_factory, "waiting")
    env = {"EMR_TEST_EVENTS": str(folder / "events"), "EMR_TEST_GATES": str(folder / "gates")}
    sections = {"emr_executor": {"queue_timeout": "10"}}
    with LocalStack(folder / "home", dags=[folder / "dags"], env=env, sections=sections) as stack:
        bench = Bench(stack, f"sqlite:///{stack.airflow_home}/airflow.db", folder)
        reason = "The supplied ec2SubnetId is not valid."
        bench.control.fail_calls("RunJobFlow", 1000, code="ValidationException", message=reason)
        run = bench.finished("throttled")
        assert [(task.state, task.try_number) for task in run.tasks] == [("failed", 1)]
        assert f"ValidationException: {reason[:-1]}; the next try is at" in bench.log("throttled", "waits")
        assert "no cluster ran the step within queue_timeout (10 s)" in bench.log("throttled", "waits")
        assert bench.steps_run("throttled") == []
        assert bench.events("throttled")["waits -1 1 on_failure"] == 1
        bench.engine.dispose()

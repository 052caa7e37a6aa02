"""A real scheduler, API server, DAG processor, PostgreSQL and emr-local for the tests of this folder."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from sqlalchemy import create_engine, text

from emr_executor.local.ledger import (
    LedgerEntry,
    most_clusters_at_once,
    overlapping_steps,
    step_intervals,
)
from tests.airflow_stack.airflow_client import RunState
from tests.airflow_stack.components import marked_processes, wait_until
from tests.airflow_stack.emr_local_control import EmrLocalControl
from tests.airflow_stack.stack import LocalStack
from tests.postgres import fresh_database

HERE = Path(__file__).parent
CANARIES = {
    "connection": "canary-pw-7d1c9e5b",
    "variable": "canary-var-3f8a2c6d",
    "environment": "canary-env-5b9e1d7f",
}
RUN_TIMEOUT_S = 240.0
LINES_TOLD, LONGEST_TOLD = 40, 600
"""Of each log of a stack whose test failed."""


class Bench:
    """The stack with what tests ask of it."""

    def __init__(self, stack: LocalStack, database_url: str, folder: Path, *, max_clusters: int = 1) -> None:
        self.stack, self.database_url, self.folder = stack, database_url, folder
        self.max_clusters = max_clusters
        self.dags, self.gates, self.events_file = folder / "dags", folder / "gates", folder / "events"
        endpoint = stack.endpoint
        assert endpoint is not None
        self.endpoint = endpoint
        self.control = EmrLocalControl(
            endpoint.endpoint_url, endpoint.access_key_id, endpoint.secret_access_key, region=endpoint.region
        )
        self.emr = boto3.client("emr", **endpoint.client_args())
        self.s3 = boto3.client("s3", **endpoint.client_args())
        self.engine = create_engine(database_url, pool_pre_ping=True)
        self._runs: dict[str, str] = {}

    # -- runs

    def start(self, dag_id: str) -> str:
        """Trigger a DAG once in the session; its run id."""
        if dag_id not in self._runs:
            self._runs[dag_id] = self.stack.trigger(dag_id)
        return self._runs[dag_id]

    def finished(self, dag_id: str) -> RunState:
        """The DAG's one run when it is over."""
        return self.stack.wait_for_run(dag_id, self.start(dag_id), timeout_s=RUN_TIMEOUT_S)

    def log(self, dag_id: str, task_id: str, **which: int) -> str:
        return self.stack.task_log(dag_id, self.start(dag_id), task_id, **which)

    def wait(self, condition: Callable[[], Any], what: str, *, timeout_s: float = 90.0) -> None:
        """Wait for a condition; the one way in which tests on real processes wait."""
        wait_until(lambda: bool(condition()), timeout_s=timeout_s, what=what, poll_s=0.2)

    def events(self, dag_id: str) -> Counter[str]:
        """How often each callback ran, as ``task map_index try event``."""
        lines = self.events_file.read_text().splitlines() if self.events_file.exists() else []
        return Counter(line.split(" ", 1)[1] for line in lines if line.startswith(f"{dag_id} "))

    def open_gate(self, name: str) -> None:
        (self.gates / name).touch()

    # -- what is stored, and what really happened

    def rows(self, statement: str, **values: object) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(statement), values).mappings()]

    def submissions(self, dag_id: str) -> list[dict[str, Any]]:
        return self.rows(
            "select s.*, w.task_id, w.try_number"
            " from emr_submission s join emr_workload w using (workload_id)"
            " where w.dag_id = :dag_id order by w.task_id, w.map_index, w.try_number, s.n",
            dag_id=dag_id,
        )

    def steps_run(self, dag_id: str, ledger: list[LedgerEntry] | None = None) -> list[str]:
        """Names of the step processes that EMR really ran for a DAG, in the order of their starts."""
        entries = self.control.ledger() if ledger is None else ledger
        return [interval.name for interval in step_intervals(entries) if f"/{dag_id}." in interval.name]

    def check_ledger(self) -> None:
        """From outside: no step was ever active twice at once, no cluster is a stray, the cap held."""
        entries = self.control.ledger()
        launched = {entry.cluster_id for entry in entries if entry.event == "cluster_launched"}
        owned = {row["cluster_id"] for row in self.rows("select cluster_id from emr_cluster")}
        assert launched <= owned
        assert overlapping_steps(entries, lambda name: name.split("/")[1].rsplit("-", 1)[0]) == ()
        assert most_clusters_at_once(entries) <= self.max_clusters

    def running(self, dag_id: str) -> bool:
        """Whether the last submission of the DAG's one task runs."""
        submissions = self.submissions(dag_id)
        return bool(submissions) and submissions[-1]["state"] == "RUNNING"

    def run_until_running(self, dag_id: str) -> dict[str, Any]:
        """Start a DAG and wait until its step runs; the submission, with ``cluster_id``."""
        self.start(dag_id)
        self.wait(lambda: self.running(dag_id), f"the step of {dag_id} to run")
        submission = self.submissions(dag_id)[-1]
        (cluster,) = self.rows(
            "select cluster_id from emr_cluster where cluster_uuid = :uuid", uuid=submission["cluster_uuid"]
        )
        return {**submission, **cluster}

    def lives(self, dag_id: str) -> list[bool]:
        """For each step process of the DAG, in the order of their starts: does it live?"""
        intervals = step_intervals(self.control.ledger())
        return [i.until is None for i in intervals if f"/{dag_id}." in i.name]

    def told(self) -> str:
        """What is stored and what everybody said last: for the reader of a failed test."""
        sought = "w.state not in ('FINISHED', 'CANCELLED') or w.airflow_state not in ('success', 'skipped')"
        theirs = "from emr_submission s join emr_workload w using (workload_id)"
        last = "select at, subject_id, event, text from emr_history order by id desc limit 60"
        workloads = self.rows(f"select * from emr_workload w where {sought} order by accepted_at")
        found: list[object] = [
            *workloads,
            *self.rows(f"select s.* {theirs} where {sought}"),
            *self.rows("select * from emr_cluster where state !~ '^(TERMINATED|NEVER)'"),
            *reversed(self.rows(last)),
        ]
        tasks = [self.stack.airflow_home / "logs" / w["log_path"] for w in workloads if w["log_path"]]
        processes = sorted((self.stack.home / "logs").glob("*.log"))
        for log in (*tasks, *(log for log in processes if not log.name.startswith("airflow-"))):
            text = log.read_text(errors="replace") if log.is_file() else "is not there"
            lines = [line for line in text.splitlines() if "[http.access]" not in line]
            found += [f"--- {log.name} of {log.parent.name}", *lines[-LINES_TOLD:]]
        return "\n".join(str(part)[:LONGEST_TOLD] for part in found)

    def kill_scheduler(self, name: str = "scheduler") -> None:
        """kill -9 of a scheduler with its LocalExecutor workers, as the death of its container would be.

        Workers that outlive it keep a copy of its database connection, so that PostgreSQL never ends a
        transaction that the scheduler had open, and the DAG runs it had locked are never scheduled again.
        """
        workers = psutil.Process(self.stack.pid(name)).children()
        self.stack.kill(name)
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                if "LocalExecutor" in " ".join(worker.cmdline()):
                    worker.kill()

    def agents(self) -> list[psutil.Process]:
        """Every agent process of the stack."""
        found = []
        for process in marked_processes(self.stack.mark):
            try:
                if "emr agent" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def agent(self) -> psutil.Process | None:
        """The agent's process, a child of the scheduler."""
        return next(iter(self.agents()), None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test tells what its stack was at: what goes wrong here is hard to bring about again."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            stack = getattr(value, "bench", value)
            if isinstance(stack, Bench):
                try:
                    told = stack.told()
                except Exception as error:  # noqa: BLE001 - what the test itself says must not be lost for it
                    told = repr(error)
                report.sections.append(("the stack", told))
    return report


@contextmanager
def running_bench(
    folder: Path,
    *,
    emr_executor: Mapping[str, str] | None = None,
    scheduler: Mapping[str, str] | None = None,
    max_clusters: int = 1,
    database_url: str | None = None,
) -> Iterator[Bench]:
    """A stack of its own in ``folder`` with the DAGs of this folder; options by section."""
    shutil.copytree(HERE / "dags", folder / "dags")
    shutil.copytree(HERE / "jobs", folder / "jobs")
    (folder / "gates").mkdir()
    url = database_url or fresh_database()
    options = {"lease_timeout": "6", "task_heartbeat_interval": "10", "max_clusters": str(max_clusters)}
    stack = LocalStack(
        folder / "home",
        dags=[folder / "dags"],
        database_url=url,
        sections={"emr_executor": {**options, **(emr_executor or {})}, "scheduler": dict(scheduler or {})},
        env={
            "EMR_TEST_EVENTS": str(folder / "events"),
            "EMR_TEST_GATES": str(folder / "gates"),
            "AIRFLOW_CONN_CANARY_CONNECTION": f"postgres://someone:{CANARIES['connection']}@nowhere/db",
            "AIRFLOW_VAR_CANARY_API_TOKEN": CANARIES["variable"],
            "CANARY_IN_THE_ENVIRONMENT": CANARIES["environment"],
        },
        emr_args=["--start-delay-s", "1", "--bootstrap-delay-s", "1"],
    )
    with stack:
        made = Bench(stack, url, folder, max_clusters=max_clusters)
        yield made
        made.engine.dispose()


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The stack that most tests share; its first runs start together."""
    with running_bench(tmp_path_factory.mktemp("stack")) as made:
        for dag_id in ("phases", "failing", "secrets_near"):
            made.start(dag_id)
        yield made

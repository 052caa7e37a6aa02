"""A task host in a real process, a fake Execution API and moto's S3, shared by the tests of this folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer

from emr_executor.config import AwsAccess, ClusterPool, Settings
from emr_executor.core.model import Identity, StepOutcome, StepPlan, TaskKey, Workload, WorkloadId
from emr_executor.core.states import WorkloadState
from emr_executor.task.wire import Phase, PhaseReply, Replies, phase_line
from tests.task.fake_api import ApiServer, FakeApi
from tests.task.file_results import FOLDER

BUCKET = "staging"
DAGS = Path(__file__).parent / "dags"
ROOT = Path(__file__).parents[2]
IDENTITY = Identity(hostname="agent.example", unixname="airflow", pid=424242)
STARTED_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


def host_env(home: Path, api_url: str) -> dict[str, str]:
    """What a task host needs of an Airflow installation, and nothing of this machine's."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(DAGS.parent / "plugins"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api_url,
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor,emr_executor.EmrExecutor",
        "AIRFLOW__API_AUTH__JWT_SECRET": "not-a-secret-but-long-enough-for-tests-of-tokens-0123456789abcdef",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "2",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MIN": "0.05",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "0.1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PYTHONPATH": str(ROOT),
        "EMR_TEST_MARKS": str(home / "marks"),
        FOLDER: str(home / "results"),
    }


@dataclass
class Ended:
    """A phase that is over. events: what it wrote; log: its task log, read whole."""

    reply: PhaseReply
    events: list[dict[str, Any]]
    log: str

    @property
    def results(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] not in {"renew", "intend"}]

    @property
    def intents(self) -> list[str]:
        return [event["state"] for event in self.events if event["event"] == "intend"]

    @property
    def step(self) -> StepPlan:
        (parked,) = (event for event in self.events if event["event"] == "parked")
        return StepPlan(**{**parked["step"], "command": tuple(parked["step"]["command"])})


@dataclass
class Bench:
    """One workload's phases on a running host."""

    home: Path
    server: ApiServer
    process: subprocess.Popen[bytes]
    settings: Settings
    workload_id: str = field(default_factory=lambda: str(uuid4()))
    api: FakeApi = field(default_factory=FakeApi)
    last: int = 0

    @property
    def marks(self) -> list[str]:
        """What the DAG files' code noted (``tests/task/dags/notes.py``), in order."""
        path = self.home / "marks"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def events(self) -> list[str]:
        """What Airflow told its listeners (``tests/task/plugins``), in order."""
        path = self.home / "marks.events"
        return path.read_text().splitlines() if path.exists() else []

    def workload(self, dag: str, task_id: str, state: WorkloadState, **fields: Any) -> Workload:
        self.api.dag_id = dag
        ti = {
            "id": self.workload_id,
            "task_id": task_id,
            "dag_id": dag,
            "run_id": "run",
            "try_number": 1,
            "map_index": fields.get("map_index", -1),
            "dag_version_id": str(uuid4()),
            "pool_slots": 1,
            "priority_weight": 1,
            "queue": "emr",
        }
        return Workload(
            workload_id=WorkloadId(self.workload_id),
            key=TaskKey(
                dag_id=dag, task_id=task_id, run_id="run", try_number=1, map_index=fields.pop("map_index", -1)
            ),
            cluster_pool="default",
            queue="emr",
            priority_weight=1,
            accepted_at=STARTED_AT,
            scheduler_job_id=1,
            workload={
                "ti": ti,
                "dag_rel_path": fields.pop("dag_file", f"{dag}.py"),
                "bundle_info": {"name": "dags-folder", "version": None},
                "log_path": f"{self.workload_id}.log",
                "type": "ExecuteTask",
            },
            log_path=f"{self.workload_id}.log",
            state=state,
            claim_token="claim",
            identity=IDENTITY,
            started_at=STARTED_AT,
            **fields,
        )

    def run(self, workload: Workload) -> Ended:
        self.begin(workload)
        return self.end()

    def begin(self, workload: Workload) -> None:
        self.server.api = self.api
        Bench.last += 1
        phase = Phase(id=Bench.last, workload=workload, claim_token="claim", settings=self.settings)
        assert self.process.stdin
        self.process.stdin.write(phase_line(phase))
        self.process.stdin.flush()

    def end(self) -> Ended:
        reply = self.reply(Bench.last)
        events = self.home / "results" / self.workload_id
        lines = events.read_text().splitlines() if events.exists() else []
        events.unlink(missing_ok=True)
        log = self.home / "logs" / f"{self.workload_id}.log"
        return Ended(reply, [json.loads(text) for text in lines], log.read_text() if log.exists() else "")

    def reply(self, phase_id: int) -> PhaseReply:
        """The first reply for a phase; what the host says besides is passed over."""
        assert self.process.stdout
        replies = Replies()
        while line := self.process.stdout.readline():
            reply = None if line.startswith(b'{"begun"') else replies.take(line)
            if reply and reply.id == phase_id:
                return reply
        raise AssertionError("the task host died")

    def prepare(self, dag: str, task_id: str, **fields: Any) -> Ended:
        return self.run(self.workload(dag, task_id, WorkloadState.PREPARING, **fields))

    def finish(self, dag: str, task_id: str, step: StepPlan, outcome: StepOutcome, **fields: Any) -> Ended:
        return self.run(
            self.workload(dag, task_id, WorkloadState.FINISHING, step=step, outcome=outcome, **fields)
        )


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """(client, endpoint) of an S3 with the staging bucket."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    client.create_bucket(Bucket=BUCKET)
    yield client, endpoint
    server.stop()


@pytest.fixture(scope="session")
def settings(s3: Any) -> Settings:
    return Settings(
        staging_uri=f"s3://{BUCKET}/emr/",
        aws=AwsAccess(region_name="us-east-1", endpoint_url=s3[1]),
        cluster_pools=(ClusterPool(template={}, deploy_mode="client"),),
        # Something that is away is waited for for one second.
        task_heartbeat_timeout_s=2.0,
        task_heartbeat_interval_s=1.0,
    )


@pytest.fixture(scope="session")
def host(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, ApiServer, subprocess.Popen[bytes]]]:
    home = tmp_path_factory.mktemp("home")
    (home / "results").mkdir()
    server = ApiServer()
    process = subprocess.Popen(
        [sys.executable, "-m", "emr_executor.task.host", "--results", "tests.task.file_results:FileResults"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **host_env(home, server.url)},
        cwd=DAGS,
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b'{"ready":true}\n'
    yield home, server, process
    process.stdin.close()
    assert process.wait(30) == 0
    server.close()


@pytest.fixture
def bench(host: Any, settings: Settings) -> Bench:
    home, server, process = host
    for name in ("marks", "marks.events"):
        (home / name).unlink(missing_ok=True)
    return Bench(home, server, process, settings)

"""Steps are real processes: what they see, what they leave, and how they are ended."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from emr_executor.local import runner as runner_module
from emr_executor.local.effects import StartProcess
from emr_executor.local.runner import StepRunner
from emr_executor.local.s3_store import S3Store
from emr_executor.local.server import LocalEndpoint
from tests.airflow_stack.emr_local_process import ReadyInfo
from tests.local.step_cluster import OVER, SCRIPT_RUNNER, Cluster
from tests.local.waiting import until, until_step
from tests.local.world import launch_request, step_config

pytestmark = pytest.mark.processes

STEPS_AT_ONCE = 20
VARIABLES = """
    PATH HOME PWD USER LOGNAME LANG TMPDIR JAVA_HOME PIP_TARGET PYTHONPATH PYSPARK_PYTHON
    SPARK_HOME SPARK_CONF_DIR SPARK_LOCAL_IP SPARK_LAUNCHER_OPTS
    EMR_STEP_ID EMR_CLUSTER_ID EMR_LOCAL_STEP EMR_LOCAL_ROOT
    AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
    AWS_REGION AWS_DEFAULT_REGION AWS_EC2_METADATA_DISABLED
"""


@pytest.fixture
def cluster(ready: ReadyInfo) -> Cluster:
    return Cluster(ready)


class PidFile:
    """Pids that a step's script writes, one a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def wait_for(self, count: int) -> list[int]:
        return until(lambda: len(pids := self.pids()) >= count and pids, what=f"{count} pids") or []

    def pids(self) -> list[int]:
        return [int(word) for word in self.path.read_text().split()]

    def alive(self) -> list[int]:
        return [pid for pid in self.pids() if alive(pid)]


@pytest.fixture
def pid_file(tmp_path: Path) -> Iterator[PidFile]:
    """Whatever a failed test left of these processes is ended."""
    file = PidFile(tmp_path / "pids")
    yield file
    for pid in file.alive():
        os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


STUBBORN_FAMILY = """
    #!/bin/bash
    # A leader, a child that ignores SIGTERM, and one in a session of its own.
    echo $$ >> {pids}
    (trap '' TERM; echo $BASHPID >> {pids}; while true; do sleep 0.1; done) &
    setsid bash -c 'trap "" TERM; echo $$ >> {pids}; while true; do sleep 0.1; done' &
    wait
"""


def test_a_script_runs_with_its_arguments_and_leaves_logs_where_emr_does(cluster: Cluster) -> None:
    step_id = cluster.script(
        """
        #!/usr/bin/env python3
        import sys
        print("arguments", sys.argv[1:])
        print("warning", file=sys.stderr)
        """,
        "--spec",
        "a b",
    )
    assert cluster.ends(step_id) == "COMPLETED"
    assert cluster.log(step_id, "stdout") == "arguments ['--spec', 'a b']\n"
    assert cluster.log(step_id, "stderr") == "warning\n"
    assert "ended with exit code 0" in cluster.log(step_id, "controller")


def test_a_command_runs_as_it_stands(cluster: Cluster) -> None:
    step_id = cluster.step("command-runner.jar", "bash", "-c", "echo $0 $1; exit 7", "one", "two words")
    assert cluster.ends(step_id) == "FAILED"
    assert cluster.log(step_id, "stdout") == "one two words\n"
    assert "exit code 7" in cluster.log(step_id, "controller")


def test_a_failed_step_tells_its_last_words(cluster: Cluster) -> None:
    step_id = cluster.step("command-runner.jar", "bash", "-c", "echo it broke >&2; exit 1")
    cluster.ends(step_id)
    assert cluster.failure(step_id) == {
        "Reason": "Unknown Error",
        "Message": "it broke",
        "LogFile": f"s3://runner/logs/{cluster.cluster_id}/steps/{step_id}/stderr.gz",
    }


@pytest.mark.parametrize(
    ("jar", "args", "text"),
    [
        ("s3://bucket/my.jar", ("x",), "emr-local cannot run the jar s3://bucket/my.jar"),
        ("command-runner.jar", ("no-such-command",), "there is no command 'no-such-command'"),
        ("command-runner.jar", (), "needs Args"),
        (
            SCRIPT_RUNNER,
            ("s3://runner/absent.sh",),
            "s3://runner/absent.sh: The specified key does not exist.",
        ),
        (SCRIPT_RUNNER, ("/no/such/script",), "the script /no/such/script does not exist"),
    ],
)
def test_what_cannot_be_run_fails_with_the_reason(
    cluster: Cluster, jar: str, args: tuple[str, ...], text: str
) -> None:
    step_id = cluster.step(jar, *args)
    assert cluster.ends(step_id) == "FAILED"
    assert text in cluster.failure(step_id)["Message"]
    assert text in cluster.log(step_id, "stderr")


def test_a_script_without_a_shebang_is_run_by_a_shell(cluster: Cluster) -> None:
    step_id = cluster.script("echo shell $1", "x", key="jobs/plain")
    assert (cluster.ends(step_id), cluster.log(step_id, "stdout")) == ("COMPLETED", "shell x\n")


def test_a_step_sees_a_clean_environment_and_its_own_directories(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
    step_id = cluster.step("command-runner.jar", "env")
    other = cluster.step("command-runner.jar", "bash", "-c", "pwd; touch leftover $TMPDIR/leftover")
    assert [cluster.ends(each) for each in (step_id, other)] == ["COMPLETED", "COMPLETED"]
    env = dict(line.split("=", 1) for line in cluster.log(step_id, "stdout").splitlines())
    assert "SECRET_OF_THE_SERVER" not in env
    assert env["AWS_ENDPOINT_URL"] == env["AWS_ENDPOINT_URL_S3"] == cluster.ready.endpoint_url
    assert env["AWS_ACCESS_KEY_ID"] == cluster.ready.access_key_id
    assert (env["AWS_REGION"], env["EMR_STEP_ID"]) == ("us-east-1", step_id)
    assert set(env) <= set(VARIABLES.split())
    assert Path(env["PATH"].split(":")[0], "spark-submit").exists()
    work = Path(cluster.log(other, "stdout").strip())
    assert step_id in env["HOME"]
    assert not Path(env["HOME"]).exists()
    assert not work.exists()


def test_a_step_reaches_the_endpoint_with_its_own_environment(cluster: Cluster) -> None:
    step_id = cluster.script(
        """
        #!/usr/bin/env python3
        import boto3
        s3 = boto3.client("s3")
        s3.put_object(Bucket="runner", Key="written/by-step", Body=b"x")
        """,
        key="jobs/boto",
    )
    assert cluster.ends(step_id) == "COMPLETED", cluster.log(step_id, "stderr")
    assert cluster.s3.get_object(Bucket="runner", Key="written/by-step")["Body"].read() == b"x"


def test_parallel_steps_really_overlap(cluster: Cluster, tmp_path: Path) -> None:
    meet = f"touch {tmp_path}/$1; while [ ! -e {tmp_path}/$2 ]; do sleep 0.05; done"
    steps = [
        cluster.step("command-runner.jar", "bash", "-c", meet, "x", one, other)
        for one, other in (("a", "b"), ("b", "a"))
    ]
    assert [cluster.ends(step_id) for step_id in steps] == ["COMPLETED", "COMPLETED"]


def test_cancel_ends_the_whole_family_even_what_ignores_sigterm(cluster: Cluster, pid_file: PidFile) -> None:
    step_id = cluster.script(STUBBORN_FAMILY.format(pids=pid_file.path), key="jobs/family")
    pid_file.wait_for(3)
    cluster.emr.cancel_steps(ClusterId=cluster.cluster_id, StepIds=[step_id])
    assert cluster.ends(step_id) == "CANCELLED"
    assert pid_file.alive() == []


@pytest.mark.parametrize(("option", "words"), [("SEND_INTERRUPT", "goodbye\n"), ("TERMINATE_PROCESS", "")])
def test_cancel_gives_a_step_time_to_say_goodbye_unless_it_terminates_the_process(
    cluster: Cluster, tmp_path: Path, option: str, words: str
) -> None:
    step_id = cluster.script(
        f"""
        #!/bin/bash
        trap 'echo goodbye; exit 0' TERM
        touch {tmp_path}/ready
        while true; do sleep 0.05; done
        """,
        key="jobs/polite",
    )
    until((tmp_path / "ready").exists)
    cluster.emr.cancel_steps(ClusterId=cluster.cluster_id, StepIds=[step_id], StepCancellationOption=option)
    assert (cluster.ends(step_id), cluster.log(step_id, "stdout")) == ("CANCELLED", words)


def test_what_a_step_leaves_behind_is_ended_with_it(cluster: Cluster, pid_file: PidFile) -> None:
    step_id = cluster.script(
        f"""
        #!/bin/bash
        setsid bash -c 'echo $$ >> {pid_file.path}; exec sleep 600' &
        while [ ! -s {pid_file.path} ]; do sleep 0.02; done
        """,
        key="jobs/orphan",
    )
    assert cluster.ends(step_id) == "COMPLETED"
    assert (len(pid_file.pids()), pid_file.alive()) == (1, [])


def test_a_lost_cluster_takes_its_processes_along_before_emr_notices(
    cluster: Cluster, pid_file: PidFile
) -> None:
    step_id = cluster.script(STUBBORN_FAMILY.format(pids=pid_file.path), key="jobs/lost")
    pid_file.wait_for(3)
    control = cluster.ready.control()
    control.lose_cluster(cluster.cluster_id, notice_after_s=1.0)
    until(lambda: not pid_file.alive(), what="the end of the processes")
    assert cluster.state(step_id) in ("RUNNING", "CANCELLED")
    assert cluster.ends(step_id) == "CANCELLED"
    until(lambda: control.ledger()[-1].state == "TERMINATED_WITH_ERRORS", what="the end of the cluster")
    events = [entry.event for entry in control.ledger() if entry.step_id == step_id]
    assert events.index("process_ended") > events.index("kill_sent")


def test_termination_ends_running_steps(cluster: Cluster, pid_file: PidFile) -> None:
    step_id = cluster.script(STUBBORN_FAMILY.format(pids=pid_file.path), key="jobs/terminated")
    pid_file.wait_for(3)
    cluster.emr.terminate_job_flows(JobFlowIds=[cluster.cluster_id])
    cluster.emr.get_waiter("cluster_terminated").wait(
        ClusterId=cluster.cluster_id, WaiterConfig={"Delay": 1, "MaxAttempts": 20}
    )
    assert (cluster.state(step_id), pid_file.alive()) == ("CANCELLED", [])


def test_a_cluster_without_log_uri_keeps_its_logs_on_its_own_disk(
    ready: ReadyInfo, endpoint: LocalEndpoint
) -> None:
    emr: Any = boto3.client("emr", **ready.client_args())
    cluster_id = emr.run_job_flow(**launch_request())["JobFlowId"]
    steps = [step_config(args=["echo", "hello"])]
    (step_id,) = emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)["StepIds"]
    assert until_step(emr, cluster_id, step_id, *OVER) == "COMPLETED"
    log = endpoint.options.root.resolve() / "logs" / cluster_id / step_id / "stdout"
    assert log.read_text() == "hello\n"


class _Slowly(io.BytesIO):
    """A script whose bytes come one by one: whoever wants to do something meanwhile can."""

    def read(self, size: int | None = -1, /) -> bytes:
        os.sched_yield()
        return super().read(1)


def test_nothing_is_started_while_a_script_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new process would hold the script open for writing, and Linux runs no such file (ETXTBSY)."""
    script = b"#!/bin/sh\nexit 0\n" + b"#" * 200
    seen: list[list[str]] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **more: Any) -> None:
            opened = (_target(fd) for fd in Path("/proc/self/fd").iterdir())
            seen.append([file for file in opened if Path(file).name == "script"])
            super().__init__(*args, **more)

    monkeypatch.setattr(runner_module.subprocess, "Popen", Popen)
    store = S3Store(tmp_path / "s3")
    monkeypatch.setattr(store, "open", lambda _bucket, _key: (None, _Slowly(script)))
    ended: list[int] = []
    over = threading.Event()

    def on_ended(_cluster_id: str, _step_id: str, exit_code: int, _failure: object) -> None:
        ended.append(exit_code)
        if len(ended) == STEPS_AT_ONCE:
            over.set()

    runner = StepRunner(tmp_path, store, aws_env={}, on_ended=on_ended)
    config = {"HadoopJarStep": {"Jar": SCRIPT_RUNNER, "Args": ["s3://runner/script"]}}
    for n in range(STEPS_AT_ONCE):
        runner.start(StartProcess(cluster_id="j-1", step_id=f"s-{n}", config=config, log_uri=None))
    assert over.wait(timeout=60)
    assert ended == [0] * STEPS_AT_ONCE
    assert [files for files in seen if files] == []
    assert len(seen) >= STEPS_AT_ONCE


def _target(fd: Path) -> str:
    with contextlib.suppress(OSError):
        return str(fd.readlink())
    return ""

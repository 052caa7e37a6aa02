"""The command emr-local: how it starts, refuses to, and stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest

from emr_executor.local.main import main, parser
from tests.airflow_stack.emr_local_process import EndpointDidNotStart, ReadyInfo, running_endpoint
from tests.local.test_runner import alive
from tests.local.waiting import until, until_step
from tests.local.world import launch_request, step_config

pytestmark = pytest.mark.processes

QUICK = {"start_delay_s": 0, "bootstrap_delay_s": 0, "terminate_delay_s": 0}


def serve(root: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "emr_executor.local.main", "serve", "--root", str(root), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def sleeping_step(emr: Any, pids: Path) -> str:
    """A cluster with one running step, which wrote its pid."""
    cluster_id = str(emr.run_job_flow(**launch_request())["JobFlowId"])
    args = ["bash", "-c", f"trap '' TERM; echo $$ > {pids}; while true; do sleep 0.1; done"]
    steps = [step_config(args=args)]
    (step_id,) = emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)["StepIds"]
    until_step(emr, cluster_id, step_id, "RUNNING")
    until(lambda: pids.exists() and pids.read_text())
    return cluster_id


def test_the_ready_file_is_secret_and_goes_with_the_server(tmp_path: Path) -> None:
    process = serve(tmp_path / "root", "--ready-file", str(tmp_path / "ready.json"), "--region", "eu-west-1")
    ready_file = tmp_path / "ready.json"
    until(ready_file.exists)
    assert stat.S_IMODE(ready_file.stat().st_mode) == 0o600
    info = json.loads(ready_file.read_text())
    assert set(info) == {"endpoint_url", "access_key_id", "secret_access_key", "region", "pid"}
    assert (info["pid"], info["region"]) == (process.pid, "eu-west-1")
    assert info["endpoint_url"].startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err, ready_file.exists()) == (0, "", False)
    assert info["endpoint_url"] in out
    assert info["secret_access_key"] not in out


def test_sigterm_ends_every_step(tmp_path: Path) -> None:
    with running_endpoint(tmp_path / "root", **QUICK) as ready:
        sleeping_step(boto3.client("emr", **ready.client_args()), tmp_path / "pid")
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
    assert not alive(pid)
    assert not alive(ready.pid)


def test_s3_survives_a_restart_and_keys_do_not(tmp_path: Path) -> None:
    with running_endpoint(tmp_path / "root", **QUICK) as first:
        s3 = boto3.client("s3", **first.client_args())
        s3.create_bucket(Bucket="kept")
        s3.put_object(Bucket="kept", Key="a/b", Body=b"x", Metadata={"m": "1"})
        boto3.client("emr", **first.client_args()).run_job_flow(**launch_request())
    with running_endpoint(tmp_path / "root", **QUICK) as second:
        s3 = boto3.client("s3", **second.client_args())
        got = s3.get_object(Bucket="kept", Key="a/b")
        assert (got["Body"].read(), got["Metadata"]) == (b"x", {"m": "1"})
        assert boto3.client("emr", **second.client_args()).list_clusters()["Clusters"] == []
        assert first.access_key_id != second.access_key_id
        assert first.secret_access_key != second.secret_access_key


def test_steps_of_a_server_that_was_killed_are_ended_by_the_next(tmp_path: Path) -> None:
    quick = ("--start-delay-s", "0", "--bootstrap-delay-s", "0")
    process = serve(tmp_path / "root", "--ready-file", str(tmp_path / "r.json"), *quick)
    until((tmp_path / "r.json").exists)
    ready = ReadyInfo(**json.loads((tmp_path / "r.json").read_text()))
    sleeping_step(boto3.client("emr", **ready.client_args()), tmp_path / "pid")
    process.kill()
    process.communicate()
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    with running_endpoint(tmp_path / "root", **QUICK):
        assert not alive(pid)


def test_a_taken_port_is_one_clear_line_and_status_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = serve(tmp_path / "root", "--port", str(port))
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert err == (
        f"emr-local: port {port} of 127.0.0.1 is in use: choose another --port, or 0 for a free one\n"
    )


def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    starting = running_endpoint(tmp_path, port=99999)
    with pytest.raises(EndpointDidNotStart, match="a port, 0 to 65535"):
        starting.__enter__()


def test_one_root_has_one_server(tmp_path: Path) -> None:
    with running_endpoint(tmp_path / "root", **QUICK):
        process = serve(tmp_path / "root")
        _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert err.startswith("emr-local: another emr-local serves ")


def test_it_ends_with_the_parent_that_holds_its_input(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "emr_executor.local.main", "serve", "--exit-with-stdin"]
    command += ["--root", str(tmp_path / "root"), "--ready-file", str(tmp_path / "ready.json")]
    with subprocess.Popen(command, stdin=read_end, stdout=subprocess.DEVNULL) as process:
        os.close(read_end)
        until((tmp_path / "ready.json").exists)
        os.close(write_end)
        assert process.wait(timeout=20) == 0


def test_an_unusable_root_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["serve", "--root", str(tmp_path / "file" / "root")]) == 2
    assert capsys.readouterr().err.startswith(f"emr-local: cannot use {tmp_path}/file/root: ")


@pytest.mark.parametrize(
    "wrong",
    [["--port", "99999"], ["--start-delay-s", "-1"], ["--spark-cores", "0"], ["--kill-grace-s", "nan"]],
)
def test_wrong_options_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--root", "unused", *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_help_says_what_a_restart_loses() -> None:
    assert "a restart loses them" in parser().format_help()

"""The step wrapper on the local endpoint: the step that the executor really sends."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from emr_executor import wrapper
from tests.airflow_stack.emr_local_process import ReadyInfo
from tests.local.step_cluster import SCRIPT_RUNNER
from tests.local.test_runner import PidFile, pid_file
from tests.local.waiting import until, until_step
from tests.local.world import launch_request, step_config

pytestmark = pytest.mark.processes

__all__ = ["pid_file"]

SUBMISSION = "0197-1"
RECORD = "stage/d1/state/c1/0197-1"
CLAIM = "stage/d1/claims/c1/0197-1"


class Wrapped:
    """One cluster, and steps that run a command under the wrapper."""

    def __init__(self, ready: ReadyInfo) -> None:
        self.ready = ready
        self.emr: Any = boto3.client("emr", **ready.client_args())
        self.s3: Any = boto3.client("s3", **ready.client_args())
        self.s3.create_bucket(Bucket="wrapped")
        script = Path(wrapper.__file__).with_name("emr_step_wrapper.py").read_bytes()
        self.s3.put_object(Bucket="wrapped", Key="stage/wrapper/abc/emr_step_wrapper.py", Body=script)
        for key in (RECORD, CLAIM):
            self.s3.delete_object(Bucket="wrapped", Key=key)
        self.cluster_id = str(self.emr.run_job_flow(**launch_request())["JobFlowId"])

    def step(self, *command: str) -> str:
        spec = {
            "v": 1,
            "command": list(command),
            "env": {"GIVEN": "by the spec"},
            "timeout_s": None,
            "output": {"interval_s": 0.2, "max_bytes": 100_000},
            "yarn_tag_prefix": "airflow-emr",
        }
        body = json.dumps(spec).encode()
        key = f"stage/specs/{hashlib.sha256(body).hexdigest()}.json"
        self.s3.put_object(Bucket="wrapped", Key=key, Body=body)
        args = [
            *("s3://wrapped/stage/wrapper/abc/emr_step_wrapper.py", "--spec", f"s3://wrapped/{key}"),
            *("--records", "s3://wrapped/stage/d1/", "--cluster", "c1", "--submission", SUBMISSION),
        ]
        steps = [step_config(SUBMISSION, args=args, jar=SCRIPT_RUNNER)]
        return str(self.emr.add_job_flow_steps(JobFlowId=self.cluster_id, Steps=steps)["StepIds"][0])

    def ends(self, step_id: str) -> str:
        return until_step(self.emr, self.cluster_id, step_id, "COMPLETED", "FAILED", "CANCELLED")

    def record(self) -> dict[str, Any]:
        try:
            return dict(json.load(self.s3.get_object(Bucket="wrapped", Key=RECORD)["Body"]))
        except ClientError:
            return {}


@pytest.fixture
def wrapped(ready: ReadyInfo) -> Wrapped:
    return Wrapped(ready)


def test_the_wrapper_reports_a_command_that_ends(wrapped: Wrapped) -> None:
    step_id = wrapped.step("bash", "-c", "echo out $GIVEN; exit 5")
    assert wrapped.ends(step_id) == "FAILED"
    record = wrapped.record()
    assert (record["phase"], record["exit_code"], record["submission"]) == ("ENDED", 5, SUBMISSION)
    chunk = f"stage/d1/output/c1/{SUBMISSION}/000001"
    assert b"out by the spec" in wrapped.s3.get_object(Bucket="wrapped", Key=chunk)["Body"].read()


def test_of_two_steps_of_one_submission_the_second_does_nothing(wrapped: Wrapped, tmp_path: Path) -> None:
    command = ("bash", "-c", f"echo ran >> {tmp_path}/ran")
    first, second = wrapped.step(*command), wrapped.step(*command)
    assert (wrapped.ends(first), wrapped.ends(second)) == ("COMPLETED", "FAILED")
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_a_cancelled_step_says_so_and_leaves_nothing(wrapped: Wrapped, pid_file: PidFile) -> None:
    step_id = wrapped.step("bash", "-c", f"echo $$ >> {pid_file.path}; exec sleep 600")
    pid_file.wait_for(1)
    until(lambda: wrapped.record().get("phase") == "RUNNING", what="the wrapper's record")
    wrapped.emr.cancel_steps(ClusterId=wrapped.cluster_id, StepIds=[step_id])
    assert wrapped.ends(step_id) == "CANCELLED"
    assert pid_file.alive() == []


def test_a_lost_cluster_leaves_a_record_that_never_ended(wrapped: Wrapped, pid_file: PidFile) -> None:
    step_id = wrapped.step(
        "bash", "-c", f"trap '' TERM; echo $$ >> {pid_file.path}; while true; do sleep 0.1; done"
    )
    pid_file.wait_for(1)
    until(lambda: wrapped.record().get("phase") == "RUNNING", what="the wrapper's record")
    wrapped.ready.control().lose_cluster(wrapped.cluster_id)
    assert wrapped.ends(step_id) == "CANCELLED"
    until(lambda: not pid_file.alive(), what="the end of the processes")
    assert wrapped.record()["phase"] == "RUNNING"

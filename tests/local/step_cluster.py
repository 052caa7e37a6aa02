"""A cluster of an endpoint whose steps really run."""

from __future__ import annotations

import gzip
import textwrap
from typing import Any

import boto3

from tests.airflow_stack.emr_local_process import ReadyInfo
from tests.local.waiting import step_state, until_step
from tests.local.world import launch_request, step_config

SCRIPT_RUNNER = "s3://us-east-1.elasticmapreduce/libs/script-runner/script-runner.jar"
OVER = ("COMPLETED", "FAILED", "CANCELLED")


class Cluster:
    """One cluster of a running endpoint, with short words for what tests do to it."""

    def __init__(self, ready: ReadyInfo) -> None:
        self.ready = ready
        self.emr: Any = boto3.client("emr", **ready.client_args())
        self.s3: Any = boto3.client("s3", **ready.client_args())
        self.s3.create_bucket(Bucket="runner")
        request = launch_request(StepConcurrencyLevel=8, LogUri="s3://runner/logs/")
        self.cluster_id = str(self.emr.run_job_flow(**request)["JobFlowId"])

    def step(self, jar: str, *args: str) -> str:
        steps = [step_config(args=args, jar=jar)]
        return str(self.emr.add_job_flow_steps(JobFlowId=self.cluster_id, Steps=steps)["StepIds"][0])

    def script(self, text: str, *args: str, key: str = "jobs/script") -> str:
        """A step that runs a script from S3."""
        self.s3.put_object(Bucket="runner", Key=key, Body=textwrap.dedent(text).lstrip().encode())
        return self.step(SCRIPT_RUNNER, f"s3://runner/{key}", *args)

    def state(self, step_id: str) -> str:
        return step_state(self.emr, self.cluster_id, step_id)

    def ends(self, step_id: str) -> str:
        return until_step(self.emr, self.cluster_id, step_id, *OVER)

    def log(self, step_id: str, name: str) -> str:
        key = f"logs/{self.cluster_id}/steps/{step_id}/{name}.gz"
        return gzip.decompress(self.s3.get_object(Bucket="runner", Key=key)["Body"].read()).decode()

    def failure(self, step_id: str) -> dict[str, str]:
        step = self.emr.describe_step(ClusterId=self.cluster_id, StepId=step_id)["Step"]
        return dict(step["Status"]["FailureDetails"])

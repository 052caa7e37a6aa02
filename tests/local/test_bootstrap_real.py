"""Bootstrap actions are real processes, and find the AWS CLI."""

from __future__ import annotations

import gzip
import textwrap

import pytest

from tests.airflow_stack.emr_local_process import ReadyInfo
from tests.local.step_cluster import Cluster
from tests.local.world import launch_request, step_config

pytestmark = pytest.mark.processes

BOOTSTRAP = """
    #!/bin/bash
    echo "$1" of $EMR_CLUSTER_ID
    aws s3 cp s3://runner/jobs/module.py . && mkdir -p "$PIP_TARGET" && cp module.py "$PIP_TARGET"
    exit $2
"""


@pytest.mark.parametrize("code", ["0", "3"])
def test_bootstrap_actions_run_before_the_first_step_or_end_their_cluster(
    ready: ReadyInfo, code: str
) -> None:
    cluster = Cluster(ready)
    text = textwrap.dedent(BOOTSTRAP).lstrip().encode()
    cluster.s3.put_object(Bucket="runner", Key="jobs/bootstrap", Body=text)
    cluster.s3.put_object(Bucket="runner", Key="jobs/module.py", Body=b"VALUE = 'of the bootstrap action'\n")
    action = {"Path": "s3://runner/jobs/bootstrap", "Args": ["arguments", code]}
    step = step_config(args=["python3", "-c", "import module; print(module.VALUE)"])
    request = launch_request(
        LogUri="s3://runner/logs/",
        Steps=[step],
        BootstrapActions=[{"Name": "b", "ScriptBootstrapAction": action}],
    )
    cluster.cluster_id = cluster.emr.run_job_flow(**request)["JobFlowId"]
    (step_id,) = [each["Id"] for each in cluster.emr.list_steps(ClusterId=cluster.cluster_id)["Steps"]]
    ended = cluster.ends(step_id)
    status = cluster.emr.describe_cluster(ClusterId=cluster.cluster_id)["Cluster"]["Status"]
    prefix = f"logs/{cluster.cluster_id}/node/"
    (key,) = [
        each["Key"]
        for each in cluster.s3.list_objects_v2(Bucket="runner", Prefix=prefix)["Contents"]
        if each["Key"].endswith("/bootstrap-actions/1/stdout.gz")
    ]
    log = gzip.decompress(cluster.s3.get_object(Bucket="runner", Key=key)["Body"].read()).decode()
    assert log.startswith(f"arguments of {cluster.cluster_id}\n")
    if code == "0":
        assert (ended, cluster.log(step_id, "stdout")) == ("COMPLETED", "of the bootstrap action\n")
    else:
        assert ended == "CANCELLED"
        reason = status["StateChangeReason"]
        assert reason["Code"] == "BOOTSTRAP_FAILURE"
        assert reason["Message"].endswith("bootstrap action 1 returned a non-zero return code")

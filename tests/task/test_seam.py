"""The Spark seam: master, deploy mode and queue, and the branches that follow a driver from outside."""

from __future__ import annotations

import json

import pytest

from emr_executor.config import AwsAccess
from tests.task.conftest import Bench

pytestmark = pytest.mark.processes


def options(command: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(command[1:-1:2], command[2:-1:2], strict=False))


def test_cluster_mode_with_every_tracking_switch_still_parks_at_submit(bench: Bench) -> None:
    command = bench.prepare("plain", "cluster_mode").step.command
    assert command[1:3] == ("--master", "yarn")
    assert options(command)["--deploy-mode"] == "cluster"
    assert options(command)["--queue"] == "night"
    assert "spark.y=2" in command
    assert not [word for word in command if "waitAppCompletion" in word]


def test_the_connection_decides_what_the_operator_leaves_open_but_not_the_master(bench: Bench) -> None:
    extra = json.dumps(
        {"deploy-mode": "cluster", "queue": "from-connection", "spark-binary": "spark3-submit"}
    )
    bench.api.connections["cluster"] = {
        "conn_type": "spark",
        "host": "spark://master",
        "port": 7077,
        "extra": extra,
    }
    command = bench.prepare("plain", "connected").step.command
    assert command[:3] == ("spark3-submit", "--master", "yarn")
    assert options(command)["--deploy-mode"] == "cluster"
    assert options(command)["--queue"] == "from-connection"


def test_the_pool_decides_last(bench: Bench) -> None:
    pool = bench.settings.cluster_pools[0].model_copy(update={"deploy_mode": "cluster", "yarn_queue": "pool"})
    bench.settings = bench.settings.model_copy(update={"cluster_pools": (pool,)})
    command = bench.prepare("plain", "simple").step.command
    assert options(command)["--deploy-mode"] == "cluster"
    assert options(command)["--queue"] == "pool"


def test_properties_class_path_and_archives_travel_in_a_form_that_spark_takes(bench: Bench) -> None:
    step = bench.prepare("plain", "full").step
    words = {
        word: step.command[index + 1] for index, word in enumerate(step.command[:-1]) if word != "--conf"
    }
    assert "--properties-file" not in words
    assert "spark.both=conf" in step.command
    assert any(word.startswith("spark.files=s3://") and word.endswith("/table.csv") for word in step.command)
    assert not any("not.spark" in word for word in step.command)
    assert words["--driver-class-path"] == "tool.jar:/usr/lib/cluster/*"
    first, second = words["--jars"].split(",")
    assert first == "s3://jobs/a.jar"
    assert second.startswith("s3://")
    assert second.endswith("/tool.jar")
    assert words["--archives"].endswith("/table.csv#table")
    assert "--deploy-mode" not in words, "conf says it"
    assert "spark.submit.deployMode=cluster" in step.command
    assert step.command[-1].endswith("/average.py")


def test_a_connection_of_airflows_gives_the_credentials_and_stays_out_of_user_code(bench: Bench) -> None:
    """Its endpoint too: keys that are for a store of one's own must not travel to Amazon S3."""
    extra = {
        "region_name": "us-east-1",
        "verify": False,
        "service_config": {"s3": {"endpoint_url": bench.settings.aws.endpoint_url}},
    }
    bench.api.connections["staging"] = {
        "conn_type": "aws",
        "login": "testing",
        "password": "aws-canary-1",
        "extra": json.dumps(extra),
    }
    aws = AwsAccess(aws_conn_id="staging")
    bench.settings = bench.settings.model_copy(update={"aws": aws})
    ended = bench.prepare("plain", "simple")
    assert ended.step.spec_uri.startswith("s3://")
    assert "aws-canary-1" in ended.reply.masks
    assert "aws-canary-1" not in ended.log


def test_a_connection_that_does_not_exist_fails_the_try_with_its_name(bench: Bench) -> None:
    aws = bench.settings.aws.model_copy(update={"aws_conn_id": "absent"})
    bench.settings = bench.settings.model_copy(update={"aws": aws})
    assert bench.prepare("plain", "simple").results[0]["state"] == "failed"
    assert "'absent' of [emr_executor] aws_conn_id does not exist" in bench.marks[-1]

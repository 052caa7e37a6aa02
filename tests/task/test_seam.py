"""The Spark seam: master, deploy mode and queue, and the branches that follow a driver from outside."""

from __future__ import annotations

import json

import pytest

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

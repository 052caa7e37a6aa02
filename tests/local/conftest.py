"""An endpoint in this process, shared by tests that do not change what others see."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from emr_executor.local.entities import ModelOptions
from emr_executor.local.runner import RunnerOptions
from emr_executor.local.server import LocalEndpoint, ServerOptions
from tests.airflow_stack.emr_local_process import ReadyInfo


@pytest.fixture(scope="session")
def shared_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEndpoint]:
    """Clusters are up at once; steps are killed half a second after SIGTERM."""
    endpoint = LocalEndpoint(
        ServerOptions(
            root=tmp_path_factory.mktemp("emr-local"),
            model=ModelOptions(),
            runner=RunnerOptions(kill_grace_s=0.5),
        )
    )
    endpoint.start()
    yield endpoint
    endpoint.close()


@pytest.fixture
def endpoint(shared_endpoint: LocalEndpoint) -> Iterator[LocalEndpoint]:
    """The shared endpoint, with its faults forgotten and its clusters ended after each test."""
    yield shared_endpoint
    control = ready_info(shared_endpoint).control()
    control.clear_faults()
    control.release_provisioning()
    for cluster in control.status()["clusters"]:
        if not cluster["Status"]["State"].startswith("TERMINATED"):
            control.lose_cluster(cluster["Id"])
            control.release_termination(cluster["Id"])


@pytest.fixture
def ready(endpoint: LocalEndpoint) -> ReadyInfo:
    return ready_info(endpoint)


@pytest.fixture
def s3(ready: ReadyInfo) -> Any:
    once = Config(max_pool_connections=16, retries={"total_max_attempts": 1})
    return boto3.client("s3", **ready.client_args(), config=once)


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"bucket-{os.urandom(4).hex()}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3_root(endpoint: LocalEndpoint) -> Path:
    return endpoint.options.root.resolve() / "s3"


def ready_info(endpoint: LocalEndpoint) -> ReadyInfo:
    return ReadyInfo(**endpoint.ready_info(), pid=0)

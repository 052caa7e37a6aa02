"""What ``doctor`` shows of what it read, what AWS or an example says against it, clocks, and limits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer
from sqlalchemy import Engine, create_engine

from emr_executor.cli import doctor
from tests.cli.world import flat
from tests.config.test_cluster_template import TEMPLATE

KEYS = {"aws_access_key_id": "AKIATESTING000000001", "aws_secret_access_key": "secret-canary"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=url, region_name="us-east-1", **KEYS).create_bucket(Bucket="staging")
    yield url
    server.stop()


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3: str) -> Any:
    """Sets the options; those given as None are left out."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(TEMPLATE))

    def set_options(template: dict[str, Any] | None = None, **options: str | None) -> None:
        if template is not None:
            (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(template))
        defaults = {
            "cluster_template": str(tmp_path / "cluster.yaml"),
            "staging_uri": "s3://staging/airflow/",
            "region_name": "us-east-1",
            "endpoint_url": s3,
        }
        for name, text in {**defaults, **options}.items():
            if text is not None:
                monkeypatch.setenv(f"AIRFLOW__EMR_EXECUTOR__{name.upper()}", text)

    return set_options


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, configure: Any) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name.upper(), value)


@pytest.mark.usefixtures("keys")
def test_what_was_read_is_shown_with_its_source_and_without_a_secret(
    configure: Any, s3: str, tmp_path: Path
) -> None:
    configure()
    found = doctor.look_at_configuration()
    assert found.problems == ()
    assert f"read {tmp_path / 'cluster.yaml'}" in found.notes
    assert (
        "read staging_uri = s3://staging/airflow/ (environment variable AIRFLOW__EMR_EXECUTOR__STAGING_URI)"
        in found.notes
    )
    assert f"Amazon S3: region us-east-1, {s3}" in found.notes
    assert "AWS access key AKIA...0001, found by env" in found.notes
    assert "secret-canary" not in "\n".join(found.notes)


EXAMPLE = {**TEMPLATE, "Instances": {**TEMPLATE["Instances"], "Ec2SubnetId": "subnet-11111111111111111"}}


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        (
            {"staging_uri": "s3://no-such-bucket-here/airflow/"},
            """[emr_executor] staging_uri = s3://no-such-bucket-here/airflow/: bucket no-such-bucket-here
            does not exist""",
        ),
        # AWS is not asked for an example.
        (
            {"template": EXAMPLE, "staging_uri": "s3://my-bucket/airflow-emr/"},
            """[emr_executor] staging_uri = s3://my-bucket/airflow-emr/ is an example: write your own bucket
            [emr_executor] cluster_template: Instances.Ec2SubnetId is 'subnet-11111111111111111', which is an
            example: write your own.""",
        ),
        (
            {"aws_conn_id": "absent"},
            """[emr_executor] aws_conn_id = absent: Airflow knows no connection 'absent', which aws_conn_id
            names; add it to Airflow""",
        ),
    ],
)
@pytest.mark.usefixtures("keys")
def test_what_cannot_work_is_a_problem(configure: Any, options: dict[str, Any], problems: str) -> None:
    configure(**options)
    assert " ".join(doctor.look_at_configuration().problems) == flat(problems)


def test_no_credentials_is_a_problem_and_so_are_those_that_cannot_be_had(
    configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    (problem,) = doctor.look_at_configuration().problems
    assert problem.startswith("no AWS credentials are found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "absent")
    assert doctor.look_at_configuration().problems == (
        "AWS credentials cannot be read: The config profile (absent) could not be found",
    )


def test_a_connection_gives_region_endpoint_and_identity(
    configure: Any, monkeypatch: pytest.MonkeyPatch, s3: str
) -> None:
    configure(aws_conn_id="aws_emr", endpoint_url=None, region_name=None)
    services = {"s3": {"endpoint_url": s3}, "sts": {"endpoint_url": s3}}
    connection = {
        "conn_type": "aws",
        "login": KEYS["aws_access_key_id"],
        "password": KEYS["aws_secret_access_key"],
        "extra": {"region_name": "us-east-1", "service_config": services},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_EMR", json.dumps(connection))
    found = doctor.look_at_configuration()
    assert found.problems == ()
    assert "Amazon EMR: region us-east-1, the endpoint of AWS" in found.notes
    assert f"Amazon S3: region us-east-1, {s3}" in found.notes
    assert found.notes[-1].startswith(
        "AWS access key AKIA...0001, found by connection aws_emr: arn:aws:sts::123456789012"
    )


@pytest.mark.usefixtures("keys")
def test_every_problem_of_the_options_is_told_with_what_was_read(configure: Any) -> None:
    configure(max_clusters="many", staging_uri="/tmp/x")
    found = doctor.look_at_configuration()
    assert len(found.problems) == 2
    assert any(note.startswith("read max_clusters = many (environment variable") for note in found.notes)


def test_the_limit_on_queued_tasks_is_named_with_its_numbers() -> None:
    note = doctor.queued_note(600.0, 2)
    assert "waits in queued for 30 min" in note
    assert "task_queued_timeout 600 s, and 2 times more" in note


@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [
        (60.0, "60 s ahead of that of the Airflow API server"),
        (-5.0, "5 s behind that of the Airflow API server"),
        (None, "the Airflow API server did not answer at http://api"),
        (1.0, "None"),
    ],
)
def test_clocks_that_differ_are_noted(ahead_s: float | None, words: str) -> None:
    assert words in str(doctor.api_clock_note("http://api", ahead_s))


def test_sqlite_has_this_hosts_clock() -> None:
    assert doctor.database_clock_note(create_engine("sqlite://")) is None


@pytest.mark.processes
def test_the_databases_clock_is_asked(postgres: Engine) -> None:
    assert doctor.database_clock_note(postgres) is None

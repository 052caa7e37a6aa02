"""One way to AWS: what the connection says counts for every client, whoever makes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from emr_executor.aws.access import way_of
from emr_executor.aws.layout import S3Uri
from emr_executor.aws.session import open_aws
from emr_executor.config import AwsAccess
from emr_executor.core.model import ClusterId
from emr_executor.errors import ConfigError, CredentialsMissing
from tests.agent.manual_clock import ManualClock
from tests.aws.small_emr import SmallEmr
from tests.http_server import HttpServer, key_of

BY_CONNECTION = AwsAccess(aws_conn_id="aws_emr")
ASSUMED = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>AKIAROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""


class Service(HttpServer):
    """Answers every request alike and keeps what was asked and who signed it."""

    def __init__(self, content: str = "") -> None:
        self.content, self.asked = content, list[tuple[str, str]]()
        super().__init__()

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        self.asked.append((f"{method} {path}", key_of(headers)))
        return 200, self.content.encode()


@pytest.fixture
def s3() -> Iterator[Service]:
    with Service() as service:
        yield service


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_connection(login: str = "AKIACONN", **extra: Any) -> None:
        connection = {"conn_type": "aws", "login": login, "password": "s", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_EMR", json.dumps(connection))

    return set_connection


async def test_endpoints_of_single_services_reach_the_agent_and_the_phases(
    connect: Any, s3: Service, clock: ManualClock
) -> None:
    emr = SmallEmr()
    emr.answers = [(200, {"Steps": []})]
    connect(
        region_name="eu-south-1",
        service_config={"emr": {"endpoint_url": emr.url}, "s3": {"endpoint_url": s3.url}},
    )
    async with open_aws(BY_CONNECTION, clock) as aws:
        assert aws.region == "eu-south-1"
        await aws.emr.list_steps(ClusterId("j-1"))
        await aws.objects.put(S3Uri("agent-bucket", "k"), b"")
    way_of(BY_CONNECTION).client("s3").put_object(Bucket="phase-bucket", Key="k", Body=b"")
    emr.close()
    assert emr.signed_by == ["AKIACONN"]
    assert s3.asked == [("PUT /agent-bucket/k", "AKIACONN"), ("PUT /phase-bucket/k", "AKIACONN")]


def test_one_endpoint_of_the_connection_serves_all(connect: Any, s3: Service) -> None:
    connect(region_name="eu-south-1", endpoint_url=s3.url)
    way = way_of(BY_CONNECTION)
    assert way.endpoint_of("s3") == way.endpoint_of("emr") == s3.url
    assert way.client("s3").meta.config.s3["addressing_style"] == "path"


def test_an_endpoint_of_the_configuration_wins_over_the_connections(connect: Any, s3: Service) -> None:
    connect(region_name="eu-south-1", endpoint_url="http://127.0.0.1:1")
    access = AwsAccess(aws_conn_id="aws_emr", endpoint_url=s3.url, region_name="us-west-2")
    client = way_of(access).client("s3")
    assert (client.meta.endpoint_url, client.meta.region_name) == (s3.url, "us-west-2")


def test_verify_and_config_of_the_connection_count_and_never_loosen_what_must_hold(connect: Any) -> None:
    connect(
        region_name="eu-south-1",
        verify=False,
        config_kwargs={"proxies": {"https": "http://proxy:3128"}, "retries": {"total_max_attempts": 9}},
    )
    client = way_of(BY_CONNECTION).client("emr", retries={"total_max_attempts": 1})
    assert client._endpoint.http_session._verify is False
    assert client.meta.config.proxies == {"https": "http://proxy:3128"}
    assert client.meta.config.retries["total_max_attempts"] == 1


async def test_verify_of_the_connection_counts_for_the_agent(connect: Any, clock: ManualClock) -> None:
    connect(region_name="eu-south-1", verify=False)
    async with open_aws(BY_CONNECTION, clock) as aws:
        sessions = [aws.emr._client._endpoint.http_session, aws.objects._client._endpoint.http_session]
        assert [session._verify for session in sessions] == [False, False]


def test_a_role_of_the_connection_is_assumed_where_the_connection_says(connect: Any, s3: Service) -> None:
    sts = Service(ASSUMED)
    connect(
        region_name="eu-south-1",
        role_arn="arn:aws:iam::123456789012:role/agent",
        service_config={"sts": {"endpoint_url": sts.url}, "s3": {"endpoint_url": s3.url}},
    )
    way_of(BY_CONNECTION).client("s3").put_object(Bucket="b", Key="k", Body=b"")
    sts.close()
    assert sts.asked == [("POST /", "AKIACONN")]
    assert s3.asked == [("PUT /b/k", "AKIAROLE")]


def test_an_unknown_connection_is_never_replaced_by_other_credentials(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"aws_conn_id = absent: Airflow knows no connection 'absent'"):
        way_of(AwsAccess(aws_conn_id="absent", region_name="eu-west-1"))
    connect(region_name="eu-south-1")
    way = way_of(BY_CONNECTION)
    monkeypatch.delenv("AIRFLOW_CONN_AWS_EMR")
    with pytest.raises(CredentialsMissing, match="knows no connection 'aws_emr'"):
        way.find_credentials()


def test_a_connection_that_cannot_be_used_is_a_configuration_error(connect: Any) -> None:
    connect(region_name="eu-south-1", profile_name="absent")
    with pytest.raises(ConfigError, match=r"aws_conn_id = aws_emr: .*profile \(absent\) could not be found"):
        way_of(BY_CONNECTION)

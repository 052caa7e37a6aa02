from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from emr_executor.aws.access import READ_TIMEOUT_S
from emr_executor.aws.layout import S3Uri
from emr_executor.aws.session import LOOK_FOUND_S, LOOK_MISSING_S, LOOK_TIMEOUT_S, open_aws
from emr_executor.config import AwsAccess
from emr_executor.core.model import ClusterId
from emr_executor.errors import ConfigError, CredentialsMissing
from tests.agent.manual_clock import ManualClock
from tests.aws.small_emr import SmallEmr

J = ClusterId("j-1")


@pytest.fixture
def server() -> Iterator[SmallEmr]:
    with SmallEmr() as running:
        running.answers = [(200, {"Steps": []})]
        yield running


def access(server: SmallEmr, conn_id: str | None = None) -> AwsAccess:
    return AwsAccess(region_name="eu-west-1", endpoint_url=server.url, aws_conn_id=conn_id)


def write_profile(monkeypatch: pytest.MonkeyPatch, path: Path, key_id: str) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    path.write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = s\n")


async def test_missing_credentials_heal_when_the_file_appears(
    server: SmallEmr, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with open_aws(access(server), clock) as aws:
        for call in (aws.emr.list_steps(J), aws.objects.put(S3Uri("b", "k"), b"")):
            with pytest.raises(CredentialsMissing):
                await call
        write_profile(monkeypatch, tmp_path / "credentials", "AKIALATE")
        clock.passed_s += LOOK_MISSING_S
        assert (await aws.emr.list_steps(J)).steps == ()
    assert server.signed_by == ["AKIALATE"]


async def test_changed_credentials_are_used_without_a_restart(
    server: SmallEmr, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_profile(monkeypatch, tmp_path / "credentials", "AKIAOLD")
    async with open_aws(access(server), clock) as aws:
        await aws.emr.list_steps(J)
        write_profile(monkeypatch, tmp_path / "credentials", "AKIANEW")
        await aws.emr.list_steps(J)
        clock.passed_s += LOOK_FOUND_S
        await aws.emr.list_steps(J)
    assert server.signed_by == ["AKIAOLD", "AKIAOLD", "AKIANEW"]


async def test_refused_credentials_are_looked_up_at_once(
    server: SmallEmr, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_profile(monkeypatch, tmp_path / "credentials", "AKIAOLD")
    async with open_aws(access(server), clock) as aws:
        server.refuse("ExpiredTokenException", "expired")
        with pytest.raises(CredentialsMissing):
            await aws.emr.list_steps(J)
        write_profile(monkeypatch, tmp_path / "credentials", "AKIANEW")
        server.answers = [(200, {"Steps": []})]
        await aws.emr.list_steps(J)
    assert server.signed_by == ["AKIAOLD", "AKIANEW"]


async def test_airflow_connection_gives_credentials_region_and_endpoint(
    server: SmallEmr, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {
        "conn_type": "aws",
        "login": "AKIACONN",
        "password": "s",
        "extra": {"region_name": "eu-south-1", "endpoint_url": server.url},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_EMR", json.dumps(connection))
    async with open_aws(AwsAccess(aws_conn_id="aws_emr"), clock) as aws:
        assert aws.region == "eu-south-1"
        await aws.emr.list_steps(J)
        connection["login"] = "AKIAEDITED"
        monkeypatch.setenv("AIRFLOW_CONN_AWS_EMR", json.dumps(connection))
        clock.passed_s += LOOK_FOUND_S
        await aws.emr.list_steps(J)
    assert server.signed_by == ["AKIACONN", "AKIAEDITED"]


async def test_a_look_waits_less_long_for_an_answer_than_an_act(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick stands still for a look; of an act nobody may give up too early whether it was done."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with open_aws(AwsAccess(region_name="eu-west-1"), clock) as aws:
        looks, acts = aws.emr._client.meta.config, aws.emr._once.meta.config
    assert (looks.read_timeout, acts.read_timeout) == (LOOK_TIMEOUT_S, READ_TIMEOUT_S)
    assert acts.retries["total_max_attempts"] == 1


async def test_no_region_is_a_configuration_error(clock: ManualClock) -> None:
    with pytest.raises(ConfigError, match="region_name"):
        async with open_aws(AwsAccess(), clock):
            pass


async def test_region_of_the_environment_serves(
    server: SmallEmr, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    async with open_aws(AwsAccess(endpoint_url=server.url), clock) as aws:
        assert aws.region == "ap-south-1"

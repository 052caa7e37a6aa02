"""Credentials and region of the instance: IMDSv2 as a small server of ours."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from emr_executor.wrapper import emr_step_wrapper as wrapper
from tests.http_server import HttpServer
from tests.wrapper.conftest import Steps
from tests.wrapper.s3_server import SmallS3

ROLE = "/latest/meta-data/iam/security-credentials/"


class SmallMetadata(HttpServer):
    def __init__(self) -> None:
        self.secret = "testing-secret"
        self.lives_s = 3600.0
        self.handed_out = 0
        self.down = False
        super().__init__()

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        if method == "PUT":
            ttl = headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            return (200 if ttl and path == "/latest/api/token" else 400), b"the-token"
        if self.down or headers.get("X-aws-ec2-metadata-token") != "the-token":
            return 401, b""
        if path == ROLE + "EMR_EC2_Role":
            return 200, json.dumps(self.hand_out()).encode()
        known = {ROLE: b"EMR_EC2_Role", "/latest/meta-data/placement/region": b"eu-west-1"}
        return (200, known[path]) if path in known else (404, b"")

    def hand_out(self) -> dict[str, Any]:
        self.handed_out += 1
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lives_s))
        return {
            "AccessKeyId": f"ASIA{self.handed_out}",
            "SecretAccessKey": self.secret,
            "Token": "role-token",
            "Expiration": ends,
        }


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallMetadata]:
    with SmallMetadata() as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
        yield server


@pytest.mark.processes
def test_role_of_the_instance_signs_the_calls(steps: Steps, s3: SmallS3, instance: SmallMetadata) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        del steps.settings[name]
    steps.settings["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = instance.url
    assert steps.run(["echo", "by role"]) == (0, b"by role\n")
    assert steps.output() == b"by role\n"
    assert (s3.bad_signatures, instance.handed_out) == ([], 1)


def test_role_credentials_are_kept_while_they_are_good(instance: SmallMetadata) -> None:
    metadata = wrapper.Metadata()
    assert metadata.credentials() == metadata.credentials() == ("ASIA1", "testing-secret", "role-token")
    assert metadata.region() == "eu-west-1"


def test_role_credentials_are_renewed_before_they_end(instance: SmallMetadata) -> None:
    metadata = wrapper.Metadata()
    instance.lives_s = 299.0
    metadata.credentials()
    metadata.refresh_at -= 30.0  # the pause between two looks is over
    assert metadata.credentials().key_id == "ASIA2"


def test_old_credentials_serve_while_the_instance_gives_no_new_ones(instance: SmallMetadata) -> None:
    metadata = wrapper.Metadata()
    first = metadata.credentials()
    instance.down = True
    metadata.refresh_at = 0.0
    assert metadata.credentials() == first


def test_refused_credentials_are_asked_for_anew(instance: SmallMetadata) -> None:
    metadata = wrapper.Metadata()
    metadata.credentials()
    metadata.forget()
    assert metadata.credentials().key_id == "ASIA2"


def test_environment_comes_before_the_instance(
    instance: SmallMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    metadata = wrapper.Metadata()
    assert metadata.credentials() == ("AKIA", "mine", "")
    assert metadata.region() == "us-east-2"
    assert instance.handed_out == 0


def test_no_answer_is_one_of_the_faults_that_are_retried(instance: SmallMetadata) -> None:
    instance.down = True
    with pytest.raises(wrapper.FAULTS):
        wrapper.Metadata().credentials()

"""Credentials and region of the instance: IMDSv2 as a small server of ours."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from emr_executor.wrapper import emr_step_wrapper as wrapper
from tests.wrapper.conftest import Steps
from tests.wrapper.s3_server import SmallS3

ROLE = "/latest/meta-data/iam/security-credentials/"


class SmallMetadata:
    def __init__(self) -> None:
        self.secret = "testing-secret"
        self.lives_s = 3600.0
        self.handed_out = 0
        self.down = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
                self._answer(200 if ttl and self.path == "/latest/api/token" else 400, b"the-token")

            def do_GET(self) -> None:
                if outer.down or self.headers.get("X-aws-ec2-metadata-token") != "the-token":
                    self._answer(401, b"")
                elif self.path == ROLE:
                    self._answer(200, b"EMR_EC2_Role")
                elif self.path == ROLE + "EMR_EC2_Role":
                    self._answer(200, json.dumps(outer.hand_out()).encode())
                elif self.path == "/latest/meta-data/placement/region":
                    self._answer(200, b"eu-west-1")
                else:
                    self._answer(404, b"")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def hand_out(self) -> dict[str, Any]:
        self.handed_out += 1
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lives_s))
        return {
            "AccessKeyId": f"ASIA{self.handed_out}",
            "SecretAccessKey": self.secret,
            "Token": "role-token",
            "Expiration": ends,
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallMetadata]:
    server = SmallMetadata()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
    yield server
    server.close()


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

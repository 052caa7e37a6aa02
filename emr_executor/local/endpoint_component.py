"""``emr-local serve`` as a process of a stack."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from emr_executor.local.components import MARK, Component, StackError, clean_env, wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the endpoint listens, and the keys that it made for this start."""

    url: str
    region: str
    access_key_id: str
    secret_access_key: str

    def env(self) -> dict[str, str]:
        """What makes boto3, the AWS CLI and Airflow's Amazon provider talk to it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
        }

    def client(self, service: str) -> Any:
        """A botocore client of ``emr`` or ``s3`` that can reach nothing but this endpoint."""
        from botocore.config import Config
        from botocore.session import Session

        return Session().create_client(
            service,
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(proxies={}, s3={"addressing_style": "path"}),
        )


def endpoint_component(home: Path, mark: str, args: Sequence[str]) -> Component:
    """The process, not yet started; its data goes to ``emr/`` in the stack's folder."""
    command = [
        *(sys.executable, "-m", "emr_executor.local.main", "serve"),
        *("--root", str(home / "emr"), "--ready-file", str(_ready_file(home))),
        *args,
    ]
    return Component(
        "emr-local", command, env=clean_env({MARK: mark}), log=home / "logs" / "emr-local.log", cwd=home
    )


def wait_for_endpoint(component: Component, home: Path, *, timeout_s: float) -> Endpoint:
    """The endpoint once it answers. Raises StackError."""

    def ready() -> bool:
        component.check()
        return _ready_file(home).exists()

    wait_until(ready, timeout_s=timeout_s, what="the start of emr-local")
    said = json.loads(_ready_file(home).read_text())
    if urlsplit(said["endpoint_url"]).hostname not in {"127.0.0.1", "localhost", "::1"}:
        raise StackError(
            f"emr-local says {said['endpoint_url']}, which is not an address of this machine alone."
        )
    return Endpoint(
        url=said["endpoint_url"],
        region=said["region"],
        access_key_id=said["access_key_id"],
        secret_access_key=said["secret_access_key"],
    )


def _ready_file(home: Path) -> Path:
    return home / "emr-ready.json"

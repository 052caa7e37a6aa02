"""``emr-local serve`` as a process of a stack."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.airflow_stack.components import MARK, Component, StackError, clean_env, wait_until
from tests.airflow_stack.emr_local_process import ReadyInfo

READY_FILE = "emr-ready.json"


def endpoint_component(home: Path, mark: str, args: Sequence[str]) -> Component:
    """The process, not yet started; its data goes to ``emr/`` in the stack's folder."""
    command = [
        *(sys.executable, "-m", "emr_executor.local.main", "serve"),
        *("--root", str(home / "emr"), "--ready-file", str(home / READY_FILE)),
        *args,
    ]
    return Component(
        "emr-local", command, env=clean_env({MARK: mark}), log=home / "logs" / "emr-local.log", cwd=home
    )


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


def endpoint_client(info: ReadyInfo, service: str) -> Any:
    """A botocore client of ``emr`` or ``s3`` that reaches this endpoint and nothing else."""
    from botocore.config import Config
    from botocore.session import Session

    # (name in a config file, environment variable, default, conversion): nothing of the user's counts.
    own = dict.fromkeys(("config_file", "credentials_file"), (None, None, os.devnull, None))
    session = Session(session_vars={**own, "profile": (None, None, None, None)})
    return session.create_client(
        service, **info.client_args(), config=Config(proxies={}, s3={"addressing_style": "path"})
    )

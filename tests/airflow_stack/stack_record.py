"""``stack.json``: what runs of a local stack, so that another process finds, uses and ends it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil

from tests.airflow_stack.components import StackError, clean_env, end_marked

STATE_FILE = "stack.json"
STOP_GRACE_S = 8.0


def write_record(home: Path, state: Mapping[str, Any]) -> None:
    """Write the file, which holds the local endpoint's keys, for its owner only."""
    path = home / STATE_FILE
    path.touch(mode=0o600)
    path.write_text(json.dumps(state, indent=2))


def recorded(home: Path) -> dict[str, Any] | None:
    """What ``stack.json`` says of a stack that was left running, or None."""
    try:
        state: dict[str, Any] = json.loads((home / STATE_FILE).read_text())
    except (OSError, ValueError):
        return None
    return state


def lives(home: Path) -> bool:
    """Whether a process of the recorded stack lives: a machine that was restarted leaves the record alone."""
    return any(
        _is_process(pid, created) for pid, created in (recorded(home) or {"pids": {}})["pids"].values()
    )


def owner_lives(home: Path) -> bool:
    """Whether the process that started the recorded stack still watches over it."""
    owner = (recorded(home) or {}).get("owner")
    return bool(owner and _is_process(*owner))


def _is_process(pid: int, created: float) -> bool:
    try:
        return bool(psutil.Process(pid).create_time() == created)
    except psutil.NoSuchProcess:
        return False


def airflow_command(home: Path, args: Sequence[str]) -> NoReturn:
    """Become ``airflow ...`` in the environment of a stack that was left running. Raises StackError."""
    state = recorded(home)
    if state is None or not lives(home):
        raise StackError("No Airflow runs here: `make up` starts one.")
    os.execve(sys.executable, [sys.executable, "-m", "airflow", *args], clean_env(state["env"]))


def stop_recorded(home: Path) -> bool:
    """End the processes of a stack that was left running; False when there is no record of one."""
    state = recorded(home)
    if state is None:
        return False
    end_marked(str(state["mark"]), known=state["pids"].values(), grace_s=STOP_GRACE_S)
    (home / STATE_FILE).unlink(missing_ok=True)
    return True

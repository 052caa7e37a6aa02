"""The one way in which tests on real processes wait: for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], *, timeout_s: float = 20.0, what: str = "the condition") -> T:
    """The condition's first true value."""
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s} s"
        time.sleep(0.02)


def step_state(emr: Any, cluster_id: str, step_id: str) -> str:
    step = emr.describe_step(ClusterId=cluster_id, StepId=step_id)["Step"]
    return str(step["Status"]["State"])


def until_step(emr: Any, cluster_id: str, step_id: str, *states: str, timeout_s: float = 20.0) -> str:
    """Wait until a step is in one of these states; the state."""
    return until(
        lambda: (state := step_state(emr, cluster_id, step_id)) in states and state,
        timeout_s=timeout_s,
        what=f"{step_id} in {'|'.join(states)}",
    )

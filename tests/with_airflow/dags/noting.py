"""Callbacks that append one line to a file each time they run, so that a test can count them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

JOB = str(Path(__file__).parents[1] / "jobs" / "report.py")


def note(event: str, context: Any) -> None:
    ti = context["ti"]
    line = f"{ti.dag_id} {ti.task_id} {ti.map_index} {ti.try_number} {event}\n"
    descriptor = os.open(os.environ["EMR_TEST_EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def noting(event: str) -> Any:
    def callback(context: Any) -> None:
        note(event, context)

    return callback


CALLBACKS: dict[str, Any] = {
    "on_execute_callback": noting("on_execute"),
    "on_success_callback": noting("on_success"),
    "on_failure_callback": noting("on_failure"),
    "on_retry_callback": noting("on_retry"),
    "pre_execute": noting("pre_execute"),
}

"""A plugin whose listener notes what Airflow tells it of tries."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


def note(text: str) -> None:
    with Path(os.environ["EMR_TEST_MARKS"] + ".events").open("a") as file:
        file.write(text + "\n")


@hookimpl
def on_task_instance_running(previous_state, task_instance) -> None:
    note("running")


@hookimpl
def on_task_instance_success(previous_state, task_instance) -> None:
    note("success")


@hookimpl
def on_task_instance_failed(previous_state, task_instance, error) -> None:
    note("failed")


@hookimpl
def before_stopping(component) -> None:
    note("stopping")


class Listening(AirflowPlugin):
    """Registers this module as a listener."""

    name = "listening"
    listeners = [sys.modules[__name__]]  # noqa: RUF012 - Airflow's form

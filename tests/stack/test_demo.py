"""``make demo`` as a user runs it: real Airflow, real Spark, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from emr_executor.local.components import MARK
from emr_executor.local.demo import CHECKOUT


@pytest.mark.processes
def test_the_demo_is_green_and_shows_what_ran_where() -> None:
    env = {
        **os.environ,
        "AWS_PROFILE": "production",
        "AWS_ENDPOINT_URL": "https://aws.invalid",
        "COLUMNS": "120",
    }
    done = subprocess.run(
        [sys.executable, "-m", "emr_executor.local.demo"],
        cwd=CHECKOUT,
        env=env,
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "running as step s-" in done.stdout
    assert "delays.job" in done.stdout
    assert "COMPLETED" in done.stdout
    assert "EWR-TYS" in done.stdout
    assert "Done in" in done.stdout
    assert left_behind() == []


def left_behind() -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if MARK in process.environ() and str(CHECKOUT / ".emr" / "demo") in process.environ().get(
                "AIRFLOW_HOME", ""
            ):
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found

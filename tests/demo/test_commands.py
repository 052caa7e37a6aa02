"""``make demo`` as a user runs it: real Airflow, real Spark, a real loss, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from tests.airflow_stack.components import MARK
from tests.demo_run.commands import CHECKOUT


@pytest.mark.matrix
@pytest.mark.processes
def test_the_flagship_holds_all_its_claims() -> None:
    others = {"AWS_PROFILE": "production", "AWS_ENDPOINT_URL": "https://aws.invalid"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo_run.commands", "demo"],
        cwd=CHECKOUT,
        env={**os.environ, **others, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    paths = [line for line in lines if "delays_by_month/manual__" in line]
    assert [line for line in lines if len(line) > 80 and line not in paths] == []
    said = " ".join(done.stdout.split())
    assert "away, as a spot loss" in said
    assert "the step will run again elsewhere (loss 1 of 3)" in said
    assert "EWR-TYS" in said
    assert "336,776 flights on 439 routes" in said
    assert "FALSE" not in said
    assert "Next: make up starts the same pair for your own DAGs" in said
    assert left_behind() == []


def left_behind() -> list[str]:
    found = []
    home = str(CHECKOUT / ".emr" / "demo")
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            if MARK in environ and home in environ.get("AIRFLOW_HOME", ""):
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found

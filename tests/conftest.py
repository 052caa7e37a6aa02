"""Run by every test process: nothing of this machine's AWS or Airflow set-up reaches a test."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

import pytest

for _name in [name for name in os.environ if name.startswith(("AWS_", "AIRFLOW__EMR_EXECUTOR__"))]:
    del os.environ[_name]
# Importing Airflow writes airflow.cfg and logs into its home: keep that out of the user's.
AIRFLOW_HOME = tempfile.mkdtemp(prefix=f"emr-executor-{os.getpid()}-tests-")
"""Its name tells ``make clean`` whether the process lives that it belongs to."""
os.environ["AIRFLOW_HOME"] = AIRFLOW_HOME
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"


AIRFLOW_FOLDERS = ("with_airflow", "stack", "demo")
"""Tests on a whole Airflow: mostly they wait, so two chains of them fit on two cores, and no more.

A third worker uses the time in which they wait, and gives way to them.
"""
SECOND_CHAIN = (
    *("test_kill_points.py", "test_two_of_each.py"),
    *("test_waiting.py", "test_refusal.py", "test_two_schedulers.py", "test_demo.py"),
)
"""Each has a stack of its own. In the gate they take about as long as all the others together."""
CHAINS = ("airflow", "airflow-2")
YIELDING = 5
"""Niceness: a third of the CPU time that a chain gets, while it wants any."""


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what starts a whole Airflow as tests on real processes."""
    if _folder(item.nodeid) in AIRFLOW_FOLDERS:
        item.add_marker(pytest.mark.processes)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The two chains go first, to a worker each; the third, and whoever is through, takes the other files."""
    items.sort(
        key=lambda item: CHAINS.index(scope) if (scope := _scope(item.nodeid)) in CHAINS else len(CHAINS)
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What has no whole Airflow to wait for takes the CPU time that the two chains leave."""
    if "PYTEST_XDIST_WORKER" in os.environ and _scope(item.nodeid) not in CHAINS and not os.nice(0):
        os.nice(YIELDING)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, and Airflow's in two scopes: pytest 9 hides the groups of pytest-xdist."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    return ByFile(config, log)


def _scope(nodeid: str) -> str:
    file = nodeid.split("::", 1)[0]
    if _folder(nodeid) not in AIRFLOW_FOLDERS:
        return file
    return "airflow-2" if file.endswith(SECOND_CHAIN) else "airflow"


def _folder(nodeid: str) -> str:
    return nodeid.split("/", 2)[1] if nodeid.count("/") > 1 else ""

"""Run by every test process: nothing of this machine's AWS or Airflow set-up reaches a test."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import pytest

for _name in [name for name in os.environ if name.startswith(("AWS_", "AIRFLOW__EMR_EXECUTOR__"))]:
    del os.environ[_name]
# Importing Airflow writes airflow.cfg and logs into its home: keep that out of the user's.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="emr-executor-tests-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"


AIRFLOW_FOLDERS = ("with_airflow", "stack", "demo")
"""Tests on a whole Airflow: one worker runs them all, so that two never compete for a small machine."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what starts a whole Airflow as tests on real processes."""
    if _folder(item.nodeid) in AIRFLOW_FOLDERS:
        item.add_marker(pytest.mark.processes)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest chain of tests goes first, so that the other worker fills the time beside it."""
    items.sort(key=lambda item: _folder(item.nodeid) not in AIRFLOW_FOLDERS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, and all of Airflow's in one scope: pytest 9 hides the groups of pytest-xdist."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "airflow" if _folder(nodeid) in AIRFLOW_FOLDERS else nodeid.split("::", 1)[0]

    return ByFile(config, log)


def _folder(nodeid: str) -> str:
    return nodeid.split("/", 2)[1] if nodeid.count("/") > 1 else ""

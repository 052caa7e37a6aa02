"""``airflow emr init``: what it writes and prints can be used as it stands."""

from __future__ import annotations

import configparser
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from emr_executor.cli import init
from emr_executor.cli.commands import init as command
from emr_executor.config_load import load_settings_from

URI = "s3://data-team/airflow-emr/"


def printed(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    command(Namespace(file=str(path), staging_uri=URI))
    return capsys.readouterr().out


def test_the_template_and_the_lines_make_a_configuration_once_it_is_filled_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "spark.yaml"
    text = printed(capsys, path)
    template = path.read_text()
    assert "# CHANGE: the private subnets" in template
    path.write_text(
        template.replace("subnet-11111111111111111", "subnet-0a1b2c3d4e5f60718").replace(
            "subnet-22222222222222222", "subnet-0b1c2d3e4f5a60718"
        )
    )
    lines = text[text.index("[core]") : text.index("3. airflow db migrate")]
    parser = configparser.ConfigParser()
    parser.read_string(lines)
    assert parser["core"]["executor"] == "LocalExecutor,emr_executor.EmrExecutor"
    settings = load_settings_from(dict(parser["emr_executor"]))
    assert settings.staging_uri == URI
    (pool,) = settings.cluster_pools
    assert (pool.queues, pool.max_clusters) == (("emr",), 4)
    assert pool.template == yaml.safe_load(path.read_text())


def test_what_comes_next_is_told_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, tmp_path / "spark.yaml")
    steps = ["Wrote ", "1. Fill in what is marked CHANGE", "2. Put these lines into", "3. airflow db migrate"]
    steps += ["4. airflow emr doctor", "5. Start Airflow again"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def test_an_executor_that_is_named_already_is_not_named_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor,emr_executor.EmrExecutor")
    text = init.told(Path("/templates/spark.yaml"), URI)
    assert "executor = CeleryExecutor,emr_executor.EmrExecutor\n" in text


def test_a_file_that_is_there_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "spark.yaml"
    path.write_text("mine")
    with pytest.raises(SystemExit) as ended:
        command(Namespace(file=str(path), staging_uri=URI))
    assert ended.value.code == (
        f"{path} exists already; it was not changed. For another file: airflow emr init --file PATH"
    )
    assert path.read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"spark\.yaml cannot be written: "):
        command(Namespace(file=str(tmp_path / "file" / "spark.yaml"), staging_uri=URI))

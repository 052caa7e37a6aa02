"""The commands as Airflow calls them: arguments, exit codes, standard output; nothing is written."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from emr_executor.cli import commands
from emr_executor.cli.definition import get_emr_cli_commands
from tests.cli.world import World
from tests.store.builders import a_parked

CLUSTER_TEMPLATE = Path(__file__).parents[2] / "config" / "clusters" / "spark.yaml"


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor,emr_executor.EmrExecutor")
    monkeypatch.setenv("AIRFLOW__EMR_EXECUTOR__CLUSTER_TEMPLATE", str(CLUSTER_TEMPLATE))
    monkeypatch.setenv("AIRFLOW__EMR_EXECUTOR__STAGING_URI", "s3://bucket/airflow/")
    monkeypatch.setenv("COLUMNS", "100")


def parsed(*words: str) -> argparse.Namespace:
    """The arguments as the definition reads them."""
    group = get_emr_cli_commands()[0]
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(dest="command")
    for command in group.subcommands:
        kind = kinds.add_parser(command.name)
        for arg in command.args:
            arg.add_to_parser(kind)
    return parser.parse_args(words)


def test_every_command_prints_json_that_can_be_read(
    world: World, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run()
    capsys.readouterr()
    asked = {
        commands.status: parsed("status", "-o", "json"),
        commands.clusters: parsed("clusters", "-o", "json"),
        commands.steps: parsed("steps", "--all", "--dag-id", "salaries", "-o", "json"),
        commands.explain: parsed("explain", "salaries", "average", "r1", "-o", "json"),
    }
    told = {}
    for command, args in asked.items():
        command(args, engine=engine)
        told[command] = json.loads(capsys.readouterr().out)
    assert told[commands.status]["config_problems"] == []
    assert told[commands.clusters] == []
    assert told[commands.steps] == []
    assert told[commands.explain]["airflow"]["task_id"] == "average"


def test_tables_are_the_default(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    commands.status(parsed("status"), engine=engine)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == [
        "Agent      none holds the lease",
        "Workloads  none live",
        "Clusters   default: 0 of 1",
    ]


def test_status_ends_with_1_when_something_is_wrong(
    world: World, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    world.store(a_parked())
    with pytest.raises(SystemExit, match="1"):
        commands.status(parsed("status"), engine=engine)
    assert "no agent holds the lease while 1 workload waits" in capsys.readouterr().out


def test_status_tells_of_an_executor_that_is_not_configured(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    with pytest.raises(SystemExit, match="1"):
        commands.status(parsed("status", "-o", "json"), engine=engine)
    assert json.loads(capsys.readouterr().out)["config_problems"] == [
        (
            "[core] executor does not name emr_executor.EmrExecutor; write: executor = "
            "LocalExecutor,emr_executor.EmrExecutor"
        )
    ]


def test_a_task_that_is_not_there_is_told(engine: Engine) -> None:
    with pytest.raises(SystemExit, match="Airflow knows no DAG 'nope'"):
        commands.explain(parsed("explain", "nope", "t"), engine=engine)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("empty.db", r"^the database has no table emr_agent, .*: run `airflow db migrate`$"),
        ("no/such.db", "unable to open database file.* So nothing can be said of agents and tasks"),
    ],
)
def test_tables_and_a_database_that_are_missing_are_told(tmp_path: Path, file: str, message: str) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / file}")
    with pytest.raises(SystemExit, match=message):
        commands.status(parsed("status"), engine=engine)
    engine.dispose()


@pytest.mark.processes
def test_airflow_itself_runs_them_and_keeps_standard_output_clean(tmp_path: Path) -> None:
    def airflow(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).parent / "airflow", *words],
            env={
                **os.environ,
                "AIRFLOW_HOME": str(tmp_path),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path / 'airflow.db'}",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    assert airflow("db", "migrate").returncode == 0
    told = airflow("emr", "status", "-o", "json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["agent"] == {"holder": None, "token": 0, "beat": 0}
    unknown = airflow("emr", "explain", "nope", "t", "--map-index", "1")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.endswith("Airflow knows no DAG 'nope'\n")

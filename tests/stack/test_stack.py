"""The stack's files, its refusals, and its record for ``make down``."""

from __future__ import annotations

import configparser
import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from emr_executor.cluster_template import read_template
from tests.airflow_stack.airflow_home import write_airflow_home
from tests.airflow_stack.components import StackError
from tests.airflow_stack.stack import LocalStack
from tests.airflow_stack.stack_record import STATE_FILE, owner_lives, recorded, stop_recorded
from tests.demo_run import commands


def airflow_cfg(home: Path, *dags: Path, **extra: dict[str, str]) -> configparser.ConfigParser:
    folders = dags or (home / "dags",)
    path = write_airflow_home(home, api_port=1234, dags=folders, database_url=None, extra=extra)
    parser = configparser.ConfigParser()
    parser.read(path)
    return parser


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def secrets_of(cfg: configparser.ConfigParser) -> set[str]:
    return {cfg["core"]["fernet_key"], cfg["api_auth"]["jwt_secret"], cfg["api"]["secret_key"]}


def test_secrets_are_new_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    first, second = airflow_cfg(tmp_path / "one"), airflow_cfg(tmp_path / "two")
    assert len(secrets_of(first) | secrets_of(second)) == 6
    assert stat.S_IMODE((tmp_path / "one" / "airflow.cfg").stat().st_mode) == 0o600


def test_an_airflow_cfg_that_is_written_again_keeps_its_secrets(tmp_path: Path) -> None:
    first, second = airflow_cfg(tmp_path), airflow_cfg(tmp_path, core={"parallelism": "3"})
    assert secrets_of(first) == secrets_of(second)
    assert second["core"]["parallelism"] == "3"


def test_given_options_win_and_keep_their_percent_signs(tmp_path: Path) -> None:
    parser = airflow_cfg(tmp_path, database={"sql_alchemy_conn": "postgresql://u:p%40@h/d"})
    assert parser["database"]["sql_alchemy_conn"] == "postgresql://u:p%40@h/d"


def test_only_this_machine_can_reach_airflow(tmp_path: Path) -> None:
    parser = airflow_cfg(tmp_path)
    assert parser["api"]["host"] == "127.0.0.1"
    assert parser["core"]["execution_api_server_url"] == "http://127.0.0.1:1234/execution/"


def test_the_template_of_a_stack_is_one_that_the_executor_takes(tmp_path: Path) -> None:
    template, problems = read_template(LocalStack(tmp_path, dags=[tmp_path])._own_template())
    assert (template is not None, problems) == (True, [])


def test_every_dags_folder_is_a_bundle(tmp_path: Path) -> None:
    parser = airflow_cfg(tmp_path, tmp_path / "a", tmp_path / "b")
    bundles = json.loads(parser["dag_processor"]["dag_bundle_config_list"])
    assert [bundle["kwargs"]["path"] for bundle in bundles] == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path, port_in_use: int) -> None:
    stack = LocalStack(tmp_path / "home", dags=[tmp_path], api_port=port_in_use)
    with pytest.raises(StackError, match=f"Port {port_in_use} of this machine is in use"):
        stack.start()
    assert not (tmp_path / "home").exists()


def test_airflow_sees_no_aws_profile_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    env = LocalStack(tmp_path, dags=[tmp_path], with_emr=False).airflow_env()
    assert "AWS_PROFILE" not in env
    assert not Path(env["AWS_CONFIG_FILE"]).exists()
    assert not Path(env["AWS_SHARED_CREDENTIALS_FILE"]).exists()


def record(home: Path, **changes: Any) -> None:
    home.mkdir(parents=True, exist_ok=True)
    state = {"mark": "no process has this", "owner": None, "airflow": "http://x", "pids": {}}
    (home / STATE_FILE).write_text(json.dumps(state | changes))


@pytest.fixture
def me() -> list[float]:
    """This process, as a record names it."""
    process = psutil.Process()
    return [process.pid, process.create_time()]


def test_a_record_tells_whether_somebody_still_watches(tmp_path: Path, me: list[float]) -> None:
    assert not owner_lives(tmp_path)
    record(tmp_path, owner=me)
    assert owner_lives(tmp_path)
    record(tmp_path, owner=[me[0], me[1] - 1000])
    assert not owner_lives(tmp_path)


def test_down_forgets_what_it_ended(tmp_path: Path) -> None:
    assert not stop_recorded(tmp_path)
    record(tmp_path)
    assert stop_recorded(tmp_path)
    assert recorded(tmp_path) is None


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(commands, "STATE", tmp_path)
    return tmp_path


def test_what_runs_already_is_not_started_again(
    state: Path, me: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    record(state / "demo", owner=me)
    assert commands.main(["demo"]) == 1
    assert "Another one is running" in capsys.readouterr().out
    record(state / "up", pids={"scheduler": me})
    assert commands.main(["up"]) == 1
    assert "It is running already: http://x. `make down` ends it." in capsys.readouterr().out


def test_up_on_a_port_in_use_tells_how_to_choose_another(
    state: Path, port_in_use: int, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = state / "up" / "airflow" / "airflow.db"
    kept.parent.mkdir(parents=True)
    kept.write_text("runs of the last time")
    assert commands.main(["up", "--fresh", "--port", str(port_in_use)]) == 1
    said = capsys.readouterr().out
    assert f"Port {port_in_use} of this machine is in use, so nothing was started or changed." in said
    assert f"make up PORT={port_in_use + 1}" in said
    assert kept.read_text() == "runs of the last time"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("up --set max_clusters=4", 1, "'max_clusters=4' is no option: write SET=section.option=value"),
        ("down", 0, "Nothing was running."),
    ],
)
def test_what_can_be_told_at_once_is_told(
    state: Path, capsys: pytest.CaptureFixture[str], words: str, code: int, said: str
) -> None:
    assert commands.main(words.split()) == code
    assert said in " ".join(capsys.readouterr().out.split())
    assert list(state.iterdir()) == []


def test_the_record_of_a_stack_that_is_gone_runs_no_command(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(state / "up")
    assert commands.main(["airflow", "emr", "status"]) == 1
    assert "No Airflow runs here: `make up` starts one." in capsys.readouterr().out


@pytest.mark.usefixtures("state")
def test_too_little_disk_is_told_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MIN_FREE_MIB", 2**50)
    assert commands.main(["demo"]) == 1
    assert "MiB are free on the disk" in capsys.readouterr().out

"""The stack's files, its refusals, and its record for ``make down``."""

from __future__ import annotations

import configparser
import json
import socket
import stat
from pathlib import Path

import psutil
import pytest

from emr_executor.cluster_template import read_template
from tests.airflow_stack.airflow_home import write_airflow_home
from tests.airflow_stack.components import StackError
from tests.airflow_stack.stack import LocalStack
from tests.airflow_stack.stack_record import STATE_FILE, owner_lives, recorded, stop_recorded
from tests.demo_run import commands


def airflow_cfg(home: Path, **extra: dict[str, str]) -> configparser.ConfigParser:
    path = write_airflow_home(home, api_port=1234, dags=[home / "dags"], database_url=None, extra=extra)
    parser = configparser.ConfigParser()
    parser.read(path)
    return parser


def test_secrets_are_new_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    first, second = airflow_cfg(tmp_path / "one"), airflow_cfg(tmp_path / "two")
    for section, option in (("core", "fernet_key"), ("api_auth", "jwt_secret"), ("api", "secret_key")):
        assert first[section][option] != second[section][option]
    assert stat.S_IMODE((tmp_path / "one" / "airflow.cfg").stat().st_mode) == 0o600


def test_an_airflow_cfg_that_is_written_again_keeps_its_secrets(tmp_path: Path) -> None:
    first, second = airflow_cfg(tmp_path), airflow_cfg(tmp_path, core={"parallelism": "3"})
    for section, option in (("core", "fernet_key"), ("api_auth", "jwt_secret"), ("api", "secret_key")):
        assert first[section][option] == second[section][option]
    assert second["core"]["parallelism"] == "3"


def test_given_options_win_and_keep_their_percent_signs(tmp_path: Path) -> None:
    parser = airflow_cfg(
        tmp_path, core={"parallelism": "3"}, database={"sql_alchemy_conn": "postgresql://u:p%40@h/d"}
    )
    assert parser["core"]["parallelism"] == "3"
    assert parser["database"]["sql_alchemy_conn"] == "postgresql://u:p%40@h/d"


def test_only_this_machine_can_reach_airflow(tmp_path: Path) -> None:
    parser = airflow_cfg(tmp_path)
    assert parser["api"]["host"] == "127.0.0.1"
    assert parser["core"]["execution_api_server_url"] == "http://127.0.0.1:1234/execution/"


def test_the_template_of_a_stack_is_one_that_the_executor_takes(tmp_path: Path) -> None:
    template, problems = read_template(LocalStack(tmp_path, dags=[tmp_path])._own_template())
    assert (template is not None, problems) == (True, [])


def test_every_dags_folder_is_a_bundle(tmp_path: Path) -> None:
    path = write_airflow_home(
        tmp_path, api_port=1, dags=[tmp_path / "a", tmp_path / "b"], database_url=None, extra={}
    )
    parser = configparser.ConfigParser()
    parser.read(path)
    bundles = json.loads(parser["dag_processor"]["dag_bundle_config_list"])
    assert [bundle["kwargs"]["path"] for bundle in bundles] == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        stack = LocalStack(tmp_path / "home", dags=[tmp_path], api_port=port)
        with pytest.raises(StackError, match=f"Port {port} of this machine is in use"):
            stack.start()
    assert not (tmp_path / "home").exists()


def test_airflow_sees_no_aws_profile_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    env = LocalStack(tmp_path, dags=[tmp_path], with_emr=False).airflow_env()
    assert "AWS_PROFILE" not in env
    assert not Path(env["AWS_CONFIG_FILE"]).exists()
    assert not Path(env["AWS_SHARED_CREDENTIALS_FILE"]).exists()


def record(home: Path, owner: list[float] | None, *, pids: dict[str, list[float]] | None = None) -> None:
    home.mkdir(parents=True, exist_ok=True)
    state = {"mark": "no process has this", "owner": owner, "airflow": "http://x", "pids": pids or {}}
    (home / STATE_FILE).write_text(json.dumps(state))


def test_a_record_tells_whether_somebody_still_watches(tmp_path: Path) -> None:
    assert not owner_lives(tmp_path)
    me = psutil.Process()
    record(tmp_path, [me.pid, me.create_time()])
    assert owner_lives(tmp_path)
    record(tmp_path, [me.pid, me.create_time() - 1000])
    assert not owner_lives(tmp_path)


def test_down_forgets_what_it_ended(tmp_path: Path) -> None:
    assert not stop_recorded(tmp_path)
    record(tmp_path, None)
    assert stop_recorded(tmp_path)
    assert recorded(tmp_path) is None


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(commands, "STATE", tmp_path)
    return tmp_path


def test_two_demos_in_one_checkout_are_refused(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    me = psutil.Process()
    record(state / "demo", [me.pid, me.create_time()])
    assert commands.main(["demo"]) == 1
    assert "Another one is running" in capsys.readouterr().out


def test_up_twice_tells_where_the_first_one_is(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    me = psutil.Process()
    record(state / "up", None, pids={"scheduler": [me.pid, me.create_time()]})
    assert commands.main(["up"]) == 1
    assert "It is running already: http://x. `make down` ends it." in capsys.readouterr().out


def test_up_on_a_port_in_use_tells_how_to_choose_another(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = state / "up" / "airflow" / "airflow.db"
    kept.parent.mkdir(parents=True)
    kept.write_text("runs of the last time")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert commands.main(["up", "--fresh", "--port", str(port)]) == 1
    said = capsys.readouterr().out
    assert f"Port {port} of this machine is in use, so nothing was started or changed." in said
    assert f"make up PORT={port + 1}" in said
    assert kept.read_text() == "runs of the last time"


def test_an_option_of_up_that_cannot_be_read_is_refused(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["up", "--set", "max_clusters=4"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "'max_clusters=4' is no option: write SET=section.option=value" in said
    assert list(state.iterdir()) == []


def test_an_airflow_command_needs_a_running_stack(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(state / "up", None)
    assert commands.main(["airflow", "emr", "status"]) == 1
    assert "No Airflow runs here: `make up` starts one." in capsys.readouterr().out


def test_too_little_disk_is_told_before_anything_starts(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MIN_FREE_MIB", 2**50)
    assert commands.main(["demo"]) == 1
    assert "MiB are free on the disk" in capsys.readouterr().out


def test_down_with_nothing_running_is_fine(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["down"]) == 0
    assert "Nothing was running." in capsys.readouterr().out
    assert list(state.iterdir()) == []

"""Processes of a stack start clean, say why they ended, and never outlive it."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import psutil
import pytest

from tests.airflow_stack.components import (
    MARK,
    Component,
    StackError,
    clean_env,
    end_marked,
    marked_processes,
    port_is_free,
    stop_all,
    wait_until,
)

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
PARENT_OF_A_DAEMON = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
    "print('up', flush=True); time.sleep(600)"
)


def component(tmp_path: Path, code: str, *, mark: str = "none") -> Component:
    return Component(
        "worker",
        [sys.executable, "-c", code],
        env=clean_env({MARK: mark}),
        log=tmp_path / "worker.log",
        cwd=tmp_path,
    )


def started(tmp_path: Path, code: str, *, mark: str = "none") -> Component:
    made = component(tmp_path, code, mark=mark)
    made.start()
    wait_until(lambda: "up" in made.log.read_text(), timeout_s=20, what="the first line")
    return made


def test_nothing_of_aws_airflow_or_spark_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AIRFLOW__CORE__EXECUTOR", "SPARK_HOME", "PYTHONPATH"):
        monkeypatch.setenv(name, "of the user")
    env = clean_env({"AIRFLOW_HOME": "/new"})
    assert "of the user" not in env.values()
    assert env["AIRFLOW_HOME"] == "/new"
    assert env["NO_PROXY"] == "127.0.0.1,localhost"


def test_a_process_that_ended_is_told_with_its_last_lines(tmp_path: Path) -> None:
    made = component(tmp_path, "print('the reason'); raise SystemExit(7)")
    made.start()
    made.process.wait(20)
    with pytest.raises(StackError, match=r"worker ended with exit code 7.\n(.|\n)*the reason"):
        made.check()


def test_stop_ends_children_that_left_the_group(tmp_path: Path) -> None:
    made = started(tmp_path, PARENT_OF_A_DAEMON)
    (child,) = made.descendants()
    stop_all([made], grace_s=5)
    assert not made.is_running
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_leftovers_of_a_dead_owner_are_found_by_their_mark(tmp_path: Path) -> None:
    made = started(tmp_path, PARENT_OF_A_DAEMON, mark="a-test-of-marks")
    made.kill()
    assert len(marked_processes("a-test-of-marks")) == 1
    end_marked("a-test-of-marks")
    assert marked_processes("a-test-of-marks") == []


def test_a_known_process_is_ended_only_if_it_is_still_the_same(tmp_path: Path) -> None:
    made = started(tmp_path, SLEEPER)
    assert made.pid is not None
    end_marked("nobody has this", known=[(made.pid, made.created - 100)])
    assert made.is_running
    end_marked("nobody has this", known=[(made.pid, made.created)])
    made.process.wait(10)
    assert not made.is_running


def test_a_port_in_use_is_noticed() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not port_is_free(port)
    assert port_is_free(port)


def test_waiting_ends_with_what_did_not_happen() -> None:
    with pytest.raises(StackError, match=r"the moon did not happen within 0\.2 s"):
        wait_until(lambda: False, timeout_s=0.2, what="the moon")


def test_no_test_process_is_left() -> None:
    mine = psutil.Process(os.getpid()).children(recursive=True)
    assert [p for p in mine if "time.sleep(600)" in " ".join(p.cmdline())] == []

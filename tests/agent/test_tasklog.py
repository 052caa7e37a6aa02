"""Lines in the task's log: their shape, what is masked, and that no disk problem stops the agent."""

from __future__ import annotations

import json
from pathlib import Path

from emr_executor.agent.tasklog import FileTaskLog, agent_line, driver_lines
from tests.builders import NOW


async def test_lines_are_appended_as_airflow_reads_them(tmp_path: Path) -> None:
    log = FileTaskLog(tmp_path)
    await log.append("dag/run/attempt=1.log", [agent_line(NOW, "waiting", cluster_id="j-1")])
    await log.append("dag/run/attempt=1.log", driver_lines(NOW, b"one\ntwo\xff\n\n"))
    lines = [json.loads(line) for line in (tmp_path / "dag/run/attempt=1.log").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["waiting", "one", "two\ufffd"]
    assert lines[0] == {
        "timestamp": "2026-03-01T12:00:00Z",
        "event": "waiting",
        "level": "info",
        "logger": "emr_executor",
        "cluster_id": "j-1",
    }
    assert lines[1]["logger"] == "spark.driver"


def test_the_longest_secret_is_masked_first() -> None:
    (line,) = driver_lines(NOW, b"key=abc123 and abc\n", masks=("abc", "abc123"))
    assert line["event"] == "key=*** and ***"


async def test_a_path_outside_the_log_folder_is_not_written(tmp_path: Path) -> None:
    await FileTaskLog(tmp_path / "logs").append("../outside.log", [agent_line(NOW, "x")])
    assert not (tmp_path / "outside.log").exists()


async def test_a_log_that_cannot_be_written_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await FileTaskLog(tmp_path).append("file/attempt=1.log", [agent_line(NOW, "x")])
    assert (tmp_path / "file").read_text() == ""

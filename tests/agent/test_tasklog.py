"""Lines in the task's log: their shape, what is masked, and that no disk problem stops the agent."""

from __future__ import annotations

import json
import subprocess
import sys
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


def events(path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in path.read_text().splitlines() if line]


async def test_what_cannot_be_written_is_kept_and_written_in_its_order(tmp_path: Path) -> None:
    blocked, errors = tmp_path / "dag", list[OSError | None]()
    blocked.write_text("a file where the folder should be")
    log = FileTaskLog(tmp_path, on_write=errors.append)
    await log.append("dag/t.log", [agent_line(NOW, "one")])
    await log.append("dag/t.log", [agent_line(NOW, "two")])
    await log.flush()
    assert len([error for error in errors if error]) == 3
    blocked.unlink()
    await log.flush()
    await log.append("dag/t.log", [agent_line(NOW, "three")])
    assert events(tmp_path / "dag/t.log") == ["one", "two", "three"]
    assert errors[-2:] == [None, None]


async def test_what_is_kept_is_bounded_and_the_log_says_what_is_missing(tmp_path: Path) -> None:
    blocked = tmp_path / "dag"
    blocked.write_text("")
    log = FileTaskLog(tmp_path, kept_bytes=300)
    for number in range(10):
        await log.append("dag/t.log", [agent_line(NOW, f"line {number}")])
    blocked.unlink()
    await log.append("dag/t.log", [agent_line(NOW, "again")])
    *kept, missing, again = events(tmp_path / "dag/t.log")
    assert kept == ["line 0", "line 1", "line 2"]
    assert missing == "7 lines are missing here: the log could not be written for a while"
    assert again == "again"


def test_a_line_that_was_torn_is_repeated_on_a_line_of_its_own(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from emr_executor.agent.tasklog import FileTaskLog
log = FileTaskLog(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
log.write("t.log", [{"event": "one"}, {"event": "two"}])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.write("t.log", [{"event": "three"}])
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    lines = (tmp_path / "t.log").read_text().splitlines()
    assert lines == ['{"event": "one"}', '{"e', '{"event": "two"}', '{"event": "three"}']

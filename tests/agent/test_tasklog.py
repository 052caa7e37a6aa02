"""Lines in the task's log: their shape, what is masked, and that no disk problem stops the agent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from emr_executor.agent.tasklog import FileTaskLog, agent_line, driver_lines
from tests.builders import NOW


async def test_lines_are_appended_as_airflow_reads_them(tmp_path: Path) -> None:
    log = FileTaskLog(tmp_path)
    await log.append({"dag/run/attempt=1.log": [agent_line(NOW, "waiting", cluster_id="j-1")]})
    await log.append({"dag/run/attempt=1.log": driver_lines(NOW, b"one\ntwo\xff\n\n")})
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
    await FileTaskLog(tmp_path / "logs").append({"../outside.log": [agent_line(NOW, "x")]})
    assert not (tmp_path / "outside.log").exists()


def events(path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in path.read_text().splitlines() if line]


async def test_what_cannot_be_written_is_kept_and_written_in_its_order(tmp_path: Path) -> None:
    blocked, errors = tmp_path / "dag", list[OSError | None]()
    blocked.write_text("a file where the folder should be")
    log = FileTaskLog(tmp_path, on_write=errors.append)
    await log.append({"dag/t.log": [agent_line(NOW, "one")]})
    await log.append({"dag/t.log": [agent_line(NOW, "two")]})
    await log.flush()
    assert len([error for error in errors if error]) == 3
    blocked.unlink()
    await log.flush()
    await log.append({"dag/t.log": [agent_line(NOW, "three")]})
    assert events(tmp_path / "dag/t.log") == ["one", "two", "three"]
    assert errors[-2:] == [None, None]


async def test_what_is_kept_is_bounded_and_the_log_says_what_is_missing(tmp_path: Path) -> None:
    blocked = tmp_path / "dag"
    blocked.write_text("")
    log = FileTaskLog(tmp_path, kept_bytes=300)
    for number in range(10):
        await log.append({"dag/t.log": [agent_line(NOW, f"line {number}")]})
    blocked.unlink()
    await log.append({"dag/t.log": [agent_line(NOW, "again")]})
    *kept, missing, again = events(tmp_path / "dag/t.log")
    assert kept == ["line 0", "line 1", "line 2"]
    assert missing == "7 lines are missing here: the log could not be written for a while"
    assert again == "again"


def test_a_line_that_was_torn_is_repeated_on_a_line_of_its_own(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
import pytest

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


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("26/11/30 12:00:00 WARN NativeCodeLoader: Unable to load native-hadoop library", "warning"),
        ("26/11/30 12:00:00 INFO SparkContext: Running Spark version 4.3.0", "info"),
        ("26/11/30 12:00:00 ERROR TaskSetManager: Task 0 in stage 0.0 failed 4 times", "error"),
        ("2026-11-30 12:00:00,123 FATAL org.apache.hadoop.Daemon: out of space", "critical"),
        ("2026-11-30T12:00:00.123Z DEBUG BlockManager: got it", "debug"),
        ("2026-11-30 12:00:00,123 - salaries - WARNING - no rows today", "warning"),
        ("2026-11-30 12:00:00,123 root ERROR no rows today", "error"),
        ("[2026-11-30 12:00:00] ERROR in app: no rows today", "error"),
        ("WARNING:root:no rows today", "warning"),
        ("[ERROR] - no rows today", "error"),
        ('{"ts":"2026-11-30T12:00:00Z","level":"WARN","msg":"no rows","logger":"X"}', "warning"),
        ("ERROR", "info"),
        ("ERRORS: 0 of 15", "info"),
        ("INFO says the user", "info"),
        ("the average salary is 4100", "info"),
        ("Traceback (most recent call last):", "error"),
        ('Exception in thread "main" java.lang.NullPointerException', "error"),
    ],
)
def test_a_line_of_the_driver_has_the_level_that_it_says(line: str, level: str) -> None:
    (told,) = driver_lines(NOW, line.encode())
    assert (told["level"], told["logger"], told["event"]) == (level, "spark.driver", line)


def test_a_stack_trace_has_the_level_of_its_first_line() -> None:
    output = (
        b"26/11/30 12:00:00 WARN Executor: Issue communicating\n"
        b"java.util.concurrent.TimeoutException: 10 s\n\tat a.B.c(D.java:1)\n"
        b'before\nTraceback (most recent call last):\n  File "job.py", line 7, in <module>\n'
        b"ValueError: no such column\nafter\n"
    )
    levels = [line["level"] for line in driver_lines(NOW, output)]
    assert levels == ["warning"] * 3 + ["info"] + ["error"] * 3 + ["info"]

"""Writes why the executor refuses all tasks into the log of a task that it refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from emr_executor.agent.tasklog import FileTaskLog, agent_line


def tell_refused(log_path: str | None, text: str) -> None:
    """Append the refusal to the task's log; a log that cannot be written changes nothing."""
    from airflow.configuration import conf

    if log_path:
        now = datetime.now(tz=UTC)
        lines = [agent_line(now, line, level="error") for line in text.splitlines()]
        FileTaskLog(Path(conf.get_mandatory_value("logging", "base_log_folder"))).write(log_path, lines)

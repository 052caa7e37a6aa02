"""The agent's lines and the driver's output in the task's ordinary log file.

One channel: JSON lines in the file that Airflow's task runner wrote before and will append to
afterwards (airflow/utils/log/file_task_handler.py reads it locally or through the log server).
The file is opened, appended to and closed for each batch, since a remote log handler may
truncate or delete it in between.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

AGENT_LOGGER = "emr_executor"
DRIVER_LOGGER = "spark.driver"


def agent_line(at: datetime, text: str, *, level: str = "info", **facts: Any) -> dict[str, Any]:
    """One readable line of ours; ``facts`` become keys of it."""
    return {"timestamp": _stamp(at), "event": text, "level": level, "logger": AGENT_LOGGER, **facts}


def driver_lines(at: datetime, output: bytes, *, masks: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The driver's output line by line, values in ``masks`` redacted."""
    text = output.decode("utf-8", errors="replace")
    for mask in sorted(masks, key=len, reverse=True):
        text = text.replace(mask, "***")
    return [
        {"timestamp": _stamp(at), "event": line, "level": "info", "logger": DRIVER_LOGGER}
        for line in text.splitlines()
        if line.strip()
    ]


class FileTaskLog:
    """Appends to task logs below Airflow's ``[logging] base_log_folder``."""

    def __init__(self, base_folder: Path) -> None:
        self._base = base_folder.resolve()

    async def append(self, log_path: str | None, lines: Iterable[dict[str, Any]]) -> None:
        """Append lines to one task's log; a log that cannot be written never stops the agent."""
        batch = list(lines)
        if log_path and batch:
            await asyncio.to_thread(self.write, log_path, batch)

    def write(self, log_path: str, lines: Sequence[dict[str, Any]]) -> None:
        """Append lines now; False paths (outside the base folder) and full disks are passed over."""
        path = (self._base / log_path).resolve()
        if not path.is_relative_to(self._base):
            return
        data = "".join(json.dumps(line, default=str) + "\n" for line in lines).encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o664)
        except OSError:
            return
        try:
            os.write(descriptor, data)
        except OSError:
            return
        finally:
            os.close(descriptor)


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")

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
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emr_executor.core.cause import driver_level

AGENT_LOGGER = "emr_executor"
DRIVER_LOGGER = "spark.driver"
KEPT_BYTES = 8 * 1024 * 1024
"""Lines for logs that cannot be written now, of all tasks together."""


def agent_line(at: datetime, text: str, *, level: str = "info", **facts: Any) -> dict[str, Any]:
    """One readable line of ours; ``facts`` become keys of it."""
    return {"timestamp": _stamp(at), "event": text, "level": level, "logger": AGENT_LOGGER, **facts}


def driver_lines(at: datetime, output: bytes, *, masks: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The driver's output line by line, each with the level that it says itself, ``masks`` redacted."""
    text = output.decode("utf-8", errors="replace")
    for mask in sorted(masks, key=len, reverse=True):
        text = text.replace(mask, "***")
    found, level = [], "info"
    for line in text.splitlines():
        level = driver_level(line, level)
        if line.strip():
            found.append({"timestamp": _stamp(at), "event": line, "level": level, "logger": DRIVER_LOGGER})
    return found


class FileTaskLog:
    """Appends to task logs below Airflow's ``[logging] base_log_folder``.

    What cannot be written now (a full disk) is kept, at most ``kept_bytes`` in all, and written with the next
    lines or the next ``flush``; what goes beyond that is counted, and the log says how much is missing.
    on_write: called after each attempt with the error, or None
    """

    def __init__(
        self,
        base_folder: Path,
        *,
        kept_bytes: int = KEPT_BYTES,
        on_write: Callable[[OSError | None], None] = lambda _error: None,
    ) -> None:
        self._base = base_folder.resolve()
        self._kept_bytes, self._on_write = kept_bytes, on_write
        self._kept: dict[str, bytes] = {}
        self._lost: dict[str, int] = {}
        self._lock = threading.Lock()

    async def append(self, lines: Mapping[str | None, Sequence[dict[str, Any]]]) -> None:
        """Append lines to logs, each in one write; a log that cannot be written never stops the agent."""
        if lines:
            await asyncio.to_thread(self._write_all, lines)

    def _write_all(self, lines: Mapping[str | None, Sequence[dict[str, Any]]]) -> None:
        for log_path, batch in lines.items():
            if log_path and batch:
                self.write(log_path, batch)

    async def flush(self) -> None:
        """Write what could not be written before."""
        if self._kept:
            await asyncio.to_thread(self._write_kept)

    def write(self, log_path: str, lines: Sequence[dict[str, Any]]) -> None:
        """Append lines now. Paths outside of the base folder are passed over."""
        if not (self._base / log_path).resolve().is_relative_to(self._base):
            return
        data = "".join(json.dumps(line, default=str) + "\n" for line in lines).encode()
        with self._lock:
            self._write(log_path, data)

    def _write_kept(self) -> None:
        with self._lock:
            for log_path in list(self._kept):
                if not self._write(log_path, b""):
                    return

    def _write(self, log_path: str, new: bytes) -> bool:
        """What was kept, a word on what is missing, what is new; whether all of it was written."""
        path = self._base / log_path
        lost = self._lost.pop(log_path, 0)
        rest, error = _append(path, self._kept.pop(log_path, b""))
        if error is None and lost:
            _, error = _append(path, _missing_line(lost))
            lost = lost if error else 0
        if error is None:
            rest, error = _append(path, new)
        elif lost:
            lost += new.count(b"\n")
        else:
            rest += new
        if error is not None:
            self._keep(log_path, rest, lost)
        self._on_write(error)
        return error is None

    def _keep(self, log_path: str, rest: bytes, lost: int) -> None:
        room = max(0, self._kept_bytes - sum(map(len, self._kept.values())))
        if len(rest) > room:
            end = rest.rfind(b"\n", 0, room) + 1
            lost += rest.count(b"\n", end)
            rest = rest[:end]
        self._kept[log_path] = rest
        if lost:
            self._lost[log_path] = lost


def _append(path: Path, data: bytes) -> tuple[bytes, OSError | None]:
    """What could not be written, and why; a line that was torn comes whole again, on a line of its own."""
    written = 0
    try:
        if not data:
            return b"", None
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o664)
        try:
            while written < len(data):
                written += os.write(descriptor, data[written:])
        finally:
            os.close(descriptor)
    except OSError as error:
        line_at = data.rfind(b"\n", 0, written) + 1
        return (b"\n" if line_at < written else b"") + data[line_at:], error
    return b"", None


def _missing_line(count: int) -> bytes:
    text = f"{count} lines are missing here: the log could not be written for a while"
    return (json.dumps(agent_line(datetime.now(tz=UTC), text, level="warning")) + "\n").encode()


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")

"""Writes why the executor refuses all tasks into the log of a task that it refused."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path


def tell_refused(log_path: str | None, text: str) -> None:
    """Append the refusal to the task's log; a log that cannot be written changes nothing."""
    from airflow.configuration import conf

    if not log_path:
        return
    path = Path(conf.get_mandatory_value("logging", "base_log_folder")) / log_path
    stamp = datetime.now(tz=UTC).isoformat()
    lines = [
        {"timestamp": stamp, "event": line, "level": "error", "logger": "emr_executor"}
        for line in text.splitlines()
    ]
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as log:
            log.writelines(json.dumps(line) + "\n" for line in lines)

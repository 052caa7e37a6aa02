"""What the code under simulation logs as its own fault: an exception that nobody expected is a finding."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

_EXPECTED = frozenset({"launch_refused", "cluster_is_there_twice"})
"""Errors that faults of the world explain."""


class ErrorCapture:
    """(event, text) of every unexpected error."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def hear(self, _logger: Any, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """A structlog processor that keeps errors and drops everything."""
        name = str(event.get("event"))
        if level in ("error", "critical", "exception") and name not in _EXPECTED:
            info = event.pop("exc_info", None)
            facts = " ".join(f"{key}={value}" for key, value in event.items() if key != "event")
            text = "".join(traceback.format_exc()) if info else facts
            self.told.append((name, text))
        raise structlog.DropEvent


@contextmanager
def captured_errors() -> Iterator[ErrorCapture]:
    """Listen to everything that is logged meanwhile; nothing is printed."""
    errors = ErrorCapture()
    before = structlog.get_config()
    structlog.configure(
        processors=[errors.hear],
        wrapper_class=structlog.make_filtering_bound_logger(40),
        cache_logger_on_first_use=False,
    )
    try:
        yield errors
    finally:
        structlog.configure(**before)

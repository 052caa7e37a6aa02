"""Output that may be lost: a full disk must not end the process that only wanted to tell something.

Python's own files raise where a line cannot be written, from within whatever was being logged. These drop the
line instead, and write again as soon as there is room.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, cast


class LossyFile(io.RawIOBase):
    """A file descriptor whose writes never fail.

    open_it: gives the descriptor at the first write, and again as long as it cannot be opened (OSError)
    """

    def __init__(self, open_it: Callable[[], int], *, owns: bool = True) -> None:
        self._open_it, self._owns = open_it, owns
        self._descriptor: int | None = None
        self._is_torn = False

    def writable(self) -> bool:
        """Yes."""
        return True

    def isatty(self) -> bool:
        """Whether people read it at a terminal."""
        return self._descriptor is not None and os.isatty(self._descriptor)

    def fileno(self) -> int:
        """The descriptor. Raises OSError while there is none."""
        if self._descriptor is None:
            self._descriptor = self._open_it()
        return self._descriptor

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Write what can be written and say that it was all.

        A line of which only a part was written is ended before the next one.
        """
        block = bytes(data)
        try:
            descriptor = self.fileno()
            if self._is_torn:
                os.write(descriptor, b"\n")
                self._is_torn = False
            rest = block
            while rest:
                written = os.write(descriptor, rest)
                rest = rest[written:]
                self._is_torn = bool(rest)
        except OSError:
            pass
        return len(block)

    def close(self) -> None:
        """Give the descriptor back where it is ours."""
        if not self.closed and self._owns and self._descriptor is not None:
            os.close(self._descriptor)
        super().close()


def have_a_temporary_folder() -> None:
    """Settle where temporary files go, to be called before Airflow is imported, which asks at once.

    Python looks for a folder by writing to it, and on a full disk finds none: no process would start then.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - what Python itself would take


def make_standard_streams_lossy() -> None:
    """Replace this process's standard output and error; to be called before anything is logged."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            descriptor = stream.fileno()
        except (AttributeError, OSError, ValueError):
            continue
        raw = LossyFile(partial(int, descriptor), owns=False)
        raw.fileno()
        text = io.TextIOWrapper(
            io.BufferedWriter(cast("Any", raw)),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, text)

"""Finds and ends every process that a step left, in whatever session or process group it hides.

A step's processes are known by a mark in their environment, which children inherit, and by descent. So a
driver whose parent was killed, or a child that made a session of its own, is still found.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil

STEP_MARK = "EMR_LOCAL_STEP"
ROOT_MARK = "EMR_LOCAL_ROOT"
_PASSES = 50
_PAUSE_S = 0.02


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the process group that ``pid`` leads; it may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def kill_marked(mark: str, value: str, *, leader: int | None = None) -> int:
    """SIGKILL all processes with the mark in their environment, and the descendants of ``leader``.

    Returns how many were left when it gave up (0 but for processes stuck in the kernel).
    """
    left = 0
    for _ in range(_PASSES):
        alive = _marked(mark, value) | (_descendants(leader) if leader is not None else set())
        left = len(alive)
        if not alive:
            return 0
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        # Killed processes vanish when they are reaped, by their parent or by init.
        time.sleep(_PAUSE_S)
    return left


def _marked(mark: str, value: str) -> set[psutil.Process]:
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(mark) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    return found


def _descendants(pid: int) -> set[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return {
            process
            for process in [root, *root.children(recursive=True)]
            if process.status() != psutil.STATUS_ZOMBIE
        }
    except psutil.Error:
        return set()

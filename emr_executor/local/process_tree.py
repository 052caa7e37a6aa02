"""Finds and ends every process that a step left, in whatever session or process group it hides.

A step's processes are known by a mark in their environment, which children inherit, and by descent. So a
driver whose parent was killed, or a child that made a session of its own, is still found.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import psutil

STEP_MARK = "EMR_LOCAL_STEP"
ROOT_MARK = "EMR_LOCAL_ROOT"
_PASSES = 50
_PAUSE_S = 0.02


def signal_group(leader: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal the process group of a leader that was not reaped yet; else its number may be another's."""
    if leader.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader.pid, number)


def kill_marked(mark: str, value: str, *, leader: subprocess.Popen[bytes] | None = None) -> int:
    """SIGKILL all processes with the mark in their environment, and the descendants of ``leader``.

    All are stopped before the first one dies, as when a machine goes away: none lives to report another's
    end. Returns how many were left when it gave up (0 but for processes stuck in the kernel).
    """
    left = 0
    for _ in range(_PASSES):
        alive = _found(mark, value, leader)
        left = len(alive)
        if not alive:
            return 0
        for act in (psutil.Process.suspend, psutil.Process.kill):
            for process in alive:
                with contextlib.suppress(psutil.Error):
                    act(process)
        # Killed processes vanish when they are reaped, by their parent or by init.
        time.sleep(_PAUSE_S)
    return left


def _found(mark: str, value: str, leader: subprocess.Popen[bytes] | None) -> set[psutil.Process]:
    found = set()
    if leader is not None and leader.poll() is None:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(leader.pid)
            found |= {root, *root.children(recursive=True)}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(mark) == value:
                found.add(process)
    return {process for process in found if not _is_zombie(process)}


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True

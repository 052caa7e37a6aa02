"""The agent as the executor's child: started, watched and started again, without ever blocking."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
STEADY_S = 60.0
"""A child that lived this long was well: its next restart is quick again."""


class AgentProcess:
    """One child process, exec'd and not forked: the scheduler has threads and database connections.

    The child ends when its standard input closes, so it never outlives a killed scheduler for long.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._restart_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._process.pid if self._process is not None else None

    def keep_running(self) -> None:
        """Start the child, or start it again after a pause that grows while it keeps dying."""
        if self._stopped:
            return
        now = time.monotonic()
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._pause_s = (
                FIRST_PAUSE_S
                if now - self._started_at > STEADY_S
                else min(LONGEST_PAUSE_S, self._pause_s * 2)
            )
            self._log.error(
                "the EMR agent ended with exit code %s; it starts again in %.0f s", code, self._pause_s
            )
            self._process, self._restart_at = None, now + self._pause_s
        if now >= self._restart_at:
            self._start(now)

    def stop(self) -> None:
        """Ask the child to end; it hands its lease back and ends by itself."""
        self._stopped = True
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _start(self, now: float) -> None:
        self._started_at = now
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "emr_executor.agent.main", "--child"],
                stdin=subprocess.PIPE,
                env=os.environ.copy(),
                start_new_session=True,
            )
        except OSError as error:
            self._restart_at = now + self._pause_s
            self._log.error("the EMR agent cannot be started: %s", error)
            return
        self._log.info("the EMR agent runs as process %d", self._process.pid)

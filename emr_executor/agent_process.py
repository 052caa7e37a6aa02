"""The agent as the executor's child: started, watched and started again, without ever blocking."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
STEADY_S = 60.0
"""A child that lived this long was well: its next restart is quick again."""
START_S = 120.0
"""How long a new child may take to its first sign of life: it imports Airflow."""
HANG_MARGIN_S = 5.0
"""The child's own watchdog comes first: it shows where the loop stood."""


class Child:
    """A Python process that is told ``--name NAME --life-fd N``, and writes signs of life there.

    name: ends the name under which it holds the lease, and is no other's
    arguments: of Python; the agent's as it is, another's in tests. Raises OSError
    """

    def __init__(self, arguments: Sequence[str] = ("-m", "emr_executor.agent.main", "--child")) -> None:
        self.name = uuid.uuid4().hex[:12]
        self._signs, write_end = os.pipe()
        os.set_blocking(self._signs, False)
        try:
            self._process = subprocess.Popen(
                [sys.executable, *arguments, "--name", self.name, "--life-fd", str(write_end)],
                stdin=subprocess.PIPE,
                env=os.environ.copy(),
                pass_fds=(write_end,),
                start_new_session=True,
            )
        except OSError:
            os.close(self._signs)
            raise
        finally:
            os.close(write_end)
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._let_go()
        return code

    def gave_sign(self) -> bool:
        """Whether its event loop gave a sign of life since the last call."""
        try:
            return bool(os.read(self._signs, 65536))
        except OSError:
            return False

    def close_stdin(self) -> None:
        """Ask it to end."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def kill(self) -> None:
        """End it at once, also one that is stopped; returns when it is gone."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        self._let_go()

    def _let_go(self) -> None:
        self.close_stdin()
        if self._signs >= 0:
            os.close(self._signs)
            self._signs = -1


class AgentProcess:
    """One child process, exec'd and not forked: the scheduler has threads and database connections.

    The child ends when its standard input closes, so it never outlives a killed scheduler for long. Its event
    loop writes signs of life into a pipe; a child without one for ``hang_s`` is killed and started again. The
    silence is judged on this process's monotonic clock, and only while this process itself was not paused.

    spawn: starts a child
    on_restart: called when one is gone, with "ended" or "hung", and with its name where it was seen dead
    """

    def __init__(
        self,
        log: Any,
        *,
        hang_s: float,
        spawn: Callable[[], Child] = Child,
        monotonic: Callable[[], float] = time.monotonic,
        on_restart: Callable[[str, str | None], None] = lambda _why, _dead: None,
    ) -> None:
        self._log, self._hang_s, self._monotonic = log, hang_s, monotonic
        self._spawn, self._on_restart = spawn, on_restart
        self._child: Child | None = None
        self._started_at = self._sign_at = self._looked_at = self._restart_at = 0.0
        self._has_begun = False
        self._pause_s = FIRST_PAUSE_S
        self._stopped = False

    def keep_running(self) -> None:
        """Start the child, or start it again after a pause that grows while it keeps dying by itself."""
        if self._stopped:
            return
        now = self._monotonic()
        if self._child is not None:
            code = self._child.exit_code()
            if code is not None:
                # Killed from outside at its work says nothing of the next one.
                is_sound = code < 0 and self._has_begun
                self._gone(now, f"ended with exit code {code}", "ended", self._child, is_sound=is_sound)
            elif (silent_s := self._silent_s(self._child, now)) is not None:
                self._child.kill()
                what = f"gave no sign of life for {silent_s:.0f} s and was killed"
                self._gone(now, what, "hung", self._child, is_sound=False)
        if self._child is None and now >= self._restart_at:
            self._start(now)

    def stop(self) -> None:
        """Ask the child to end; it hands its lease back and ends by itself."""
        self._stopped = True
        if self._child is not None:
            self._child.close_stdin()

    def _silent_s(self, child: Child, now: float) -> float | None:
        """How long the child has been silent where that is too long."""
        bound_s = self._hang_s + HANG_MARGIN_S
        if child.gave_sign():
            self._sign_at, self._has_begun = now, True
        elif now - self._looked_at > bound_s / 2:
            # Nobody looked, perhaps because the whole container was paused, and the child with it.
            self._sign_at = now
        self._looked_at = now
        silent_s = now - self._sign_at
        return silent_s if silent_s > (bound_s if self._has_begun else max(bound_s, START_S)) else None

    def _gone(self, now: float, what: str, why: str, child: Child, *, is_sound: bool) -> None:
        is_sound = is_sound or now - self._started_at > STEADY_S
        self._pause_s = FIRST_PAUSE_S if is_sound else min(LONGEST_PAUSE_S, self._pause_s * 2)
        self._log.error("the EMR agent %s; it starts again in %.0f s", what, self._pause_s)
        self._child, self._restart_at = None, now + self._pause_s
        self._on_restart(why, child.name if child.exit_code() is not None else None)

    def _start(self, now: float) -> None:
        self._started_at = self._sign_at = self._looked_at = now
        self._has_begun = False
        try:
            self._child = self._spawn()
        except OSError as error:
            self._restart_at = now + self._pause_s
            self._log.error("the EMR agent cannot be started: %s", error)
            return
        self._log.info("the EMR agent runs as process %d", self._child.pid)

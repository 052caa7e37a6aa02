"""Signs of life of an agent's event loop, and what ends a process whose loop stands still.

The loop itself gives the sign, not a thread: a thread would go on while the loop is blocked or deadlocked.
The executor, whose child the agent is, reads them from a pipe. A watchdog thread reads them in the process
itself, for an agent that is a service: its supervisor (systemd, Kubernetes) starts it again. What neither
can see, a process that is stopped as a whole, is seen by the next agent: the lease stands still.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

PULSE_S = 2.0
LOOK_S = 1.0
EXIT_HUNG = 4
"""Exit code of an agent whose event loop stood still."""
STUCK_ROUND_S = 1800.0
"""A round of a loop that takes longer counts as stuck: no sign of life is given any more."""

log = structlog.get_logger("emr_executor.agent")


class Watchdog:
    """Ends the process when nobody called ``moved`` for ``hang_s``.

    end: called with the silence in seconds; it does not return in production
    """

    def __init__(
        self,
        hang_s: float,
        *,
        end: Callable[[float], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hang_s, self._end, self._monotonic = hang_s, end or _end_process, monotonic
        self._moved_at = self._looked_at = monotonic()

    def moved(self) -> None:
        """The event loop lives."""
        self._moved_at = self._monotonic()

    def look(self) -> None:
        """Judge. A pause of the watchdog's own is the whole process's, which is no fault of the loop."""
        now = self._monotonic()
        if now - self._looked_at > self._hang_s / 2:
            self._moved_at = now
        self._looked_at = now
        if now - self._moved_at > self._hang_s:
            self._end(now - self._moved_at)

    def start(self) -> None:
        """Look every second in a thread of its own, for as long as the process lives."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            self.look()


def _end_process(silent_s: float) -> None:
    line = f"the agent's event loop stood still for {silent_s:.0f} s: the process ends, to be started again\n"
    with suppress(OSError, ValueError):
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr, all_threads=True)
    with suppress(OSError, ValueError):
        os.write(2, line.encode())
    os._exit(EXIT_HUNG)


async def pulse(watchdog: Watchdog, life_fd: int | None, longest_round_s: Callable[[], float]) -> None:
    """Give signs of life until cancelled.

    life_fd: the executor's pipe, or None; longest_round_s: how long the slowest loop is at its round
    """
    if life_fd is not None:
        os.set_blocking(life_fd, False)
    told = False
    while True:
        round_s = longest_round_s()
        if round_s < STUCK_ROUND_S:
            watchdog.moved()
            if life_fd is not None:
                # A full pipe is the scheduler's pause, a closed one its end: neither is ours to judge.
                with suppress(OSError):
                    os.write(life_fd, b".")
        elif not told:
            told = True
            log.error("round_is_stuck", round_s=round(round_s))
        await asyncio.sleep(PULSE_S)

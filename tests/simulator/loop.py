"""An asyncio event loop in virtual time: waiting costs nothing, and one seed is one order of events.

Nothing in it is real: no thread, no socket, no signal. Where asyncio would wait in ``select``, the clock
jumps to the next timer. What is ready at the same moment runs in an order drawn from the seed, so that
many seeds try many interleavings and one seed always tries the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, NoReturn, TypeVar

from emr_executor.errors import Bug

T = TypeVar("T")
SHORTEST_S = 1e-6
"""No timer is sooner: a wait shorter than the clock's last digit would end before it began, for ever."""
ROUNDS_AT_ONE_MOMENT = 100_000


class Deadlock(Bug):
    """Every task waits and no timer is set: in real time this would hang for ever."""


class Livelock(Bug):
    """Tasks keep each other busy and time stands still: in real time this would be a core at 100 %."""


class _NoSelector:
    """Stands where asyncio waits for files; there are none, so waiting moves the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop, self._rounds = loop, 0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock("every task waits and no timer is set")
        if timeout > 0.0:
            self._rounds = 0
            self._loop.passed_s += timeout
        elif (rounds := self._rounds + 1) < ROUNDS_AT_ONE_MOMENT:
            self._rounds = rounds
        else:
            raise Livelock(f"time stands still at {self._loop.passed_s} s")
        self._loop.shuffle()
        return []

    def close(self) -> None:
        """Nothing is open."""


class VirtualLoop(asyncio.base_events.BaseEventLoop):
    """``passed_s`` are the virtual seconds since its start."""

    def __init__(self, seed: int | str) -> None:
        super().__init__()
        self.passed_s = 0.0
        self._order = random.Random(f"order/{seed}")
        self._selector = _NoSelector(self)
        # Timers that are due within the clock's resolution run together: in virtual time nothing is late.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Virtual seconds since the loop's start."""
        return self.passed_s

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's, but never for this very moment."""
        return super().call_at(max(when, self.passed_s + SHORTEST_S), callback, *args, context=context)

    def shuffle(self) -> None:
        """Another order for what is ready now."""
        ready = self._ready  # type: ignore[attr-defined]
        if len(ready) > 1:
            handles = list(ready)
            self._order.shuffle(handles)
            ready.clear()
            ready.extend(handles)

    def _process_events(self, event_list: list[Any]) -> None:
        """No files, so no events of files."""

    def _write_to_self(self) -> None:
        """Called by ``call_soon_threadsafe``: there is one thread only, and it is awake."""

    def run_in_executor(self, *_: Any, **__: Any) -> NoReturn:  # type: ignore[override]
        """Refused: a thread would bring real time in."""
        raise Bug("code under simulation may not use threads: put the work behind a port")


def run(main: Coroutine[Any, Any, T], *, seed: int | str) -> T:
    """The coroutine's result, all of it in virtual time. Raises what it raises, and Deadlock."""
    loop = VirtualLoop(seed)
    # asyncio.current_task and friends ask for the running loop, which run_until_complete sets.
    try:
        return loop.run_until_complete(main)
    finally:
        _cancel_all(loop)
        loop.close()


def _cancel_all(loop: VirtualLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

"""What is to happen when a moment has come: by time, then in the order in which it was set."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Act = Callable[[], None]


class Timers:
    """A heap of acts. Acts are never taken back: they look for themselves whether they still apply."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Act]] = []
        self._count = 0

    @property
    def next_due(self) -> float | None:
        """When the next act is due, or None."""
        return self._heap[0][0] if self._heap else None

    def add(self, due: float, act: Act) -> None:
        """Set an act for a moment, which may have passed."""
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, act))

    def pop_due(self, now: float) -> tuple[float, Act] | None:
        """The next act that is due by ``now``, with its own moment; None when there is none."""
        if not self._heap or self._heap[0][0] > now:
            return None
        due, _, act = heapq.heappop(self._heap)
        return due, act

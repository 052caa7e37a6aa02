"""A clock whose time passes only by sleeping on it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta


class VirtualClock:
    """``ports.Clock`` in virtual time; sleepers wake in the order of their moments."""

    def __init__(self) -> None:
        self.time = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._count = 0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.time)

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, delay_s: float) -> None:
        self._count += 1
        woken = asyncio.Event()
        self._sleepers.append((self.time + delay_s, self._count, woken))
        await woken.wait()

    async def run(self, work: asyncio.Future[object] | asyncio.Task[object]) -> None:
        """Let time pass until the work is done."""
        while not work.done():
            for _ in range(20):
                await asyncio.sleep(0)
            if self._sleepers and not work.done():
                self._sleepers.sort(key=lambda sleeper: sleeper[:2])
                self.time, _, woken = self._sleepers.pop(0)
                woken.set()
        await work

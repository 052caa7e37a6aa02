"""Virtual time as ``ports.Clock``: each host has its own clock, and no two agree."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2026, 1, 5, tzinfo=UTC)
"""When every simulation starts, on the true clock."""


class VirtualClock:
    """The clock of one host.

    skew_s: how far its wall clock is from the true one; monotonic starts anywhere (``boot_s``)
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, skew_s: float = 0.0, boot_s: float = 0.0) -> None:
        self._loop, self._skew, self._boot_s = loop, timedelta(seconds=skew_s), boot_s

    def now(self) -> datetime:
        """Wall clock of this host, aware UTC."""
        return EPOCH + timedelta(seconds=self._loop.time()) + self._skew

    def epoch_s(self) -> float:
        """The wall clock as epoch seconds."""
        return self.now().timestamp()

    def monotonic(self) -> float:
        """Seconds since this host's boot."""
        return self._boot_s + self._loop.time()

    async def sleep(self, delay_s: float) -> None:
        """Wait in virtual time."""
        await asyncio.sleep(delay_s)

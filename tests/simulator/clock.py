"""Virtual time as ``ports.Clock``: each host has its own clock, and no two agree."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from tests.simulator.loop import VirtualLoop

EPOCH = datetime(2026, 1, 5, tzinfo=UTC)
"""When every simulation starts, on the true clock."""


class VirtualClock:
    """The clock of one host.

    skew_s: how far its wall clock is from the true one; monotonic starts anywhere (``boot_s``)
    look_s: what passes with each look at it. On a real host two looks never show the same moment, and
        code that counts on that must not pass here.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        skew_s: float = 0.0,
        boot_s: float = 0.0,
        look_s: float = 0.0,
    ) -> None:
        self._loop, self._skew, self._boot_s = loop, timedelta(seconds=skew_s), boot_s
        self._look_s = look_s

    def now(self) -> datetime:
        """Wall clock of this host, aware UTC."""
        self._look()
        return EPOCH + timedelta(seconds=self._loop.time()) + self._skew

    def epoch_s(self) -> float:
        """The wall clock as epoch seconds."""
        return self.now().timestamp()

    def monotonic(self) -> float:
        """Seconds since this host's boot."""
        self._look()
        return self._boot_s + self._loop.time()

    def _look(self) -> None:
        if self._look_s:
            cast("VirtualLoop", self._loop).passed_s += self._look_s

    async def sleep(self, delay_s: float) -> None:
        """Wait in virtual time."""
        await asyncio.sleep(delay_s)

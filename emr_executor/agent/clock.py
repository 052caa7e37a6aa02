"""The agent's only source of time (``ports.Clock``), on the event loop that it runs in."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


class SystemClock:
    """Wall clock and monotonic clock of this host."""

    def now(self) -> datetime:
        """Aware UTC."""
        return datetime.now(tz=UTC)

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait through the event loop."""
        await asyncio.sleep(delay_s)

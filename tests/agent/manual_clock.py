"""Time for tests of the agent."""

from __future__ import annotations

from datetime import datetime, timedelta

from tests.builders import NOW


class ManualClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.skew = timedelta()

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.passed_s) + self.skew

    def monotonic(self) -> float:
        return self.passed_s

    async def sleep(self, delay_s: float) -> None:
        self.passed_s += delay_s

"""Asks what nobody has used for a while, so that an outage is known before the next task meets it.

While tasks are parked their heartbeats tell of the API server, and their records of S3. Without any, a phase
would be the first to find either away, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from emr_executor.agent.dependencies import Dependencies
from emr_executor.core.health import Dependency
from emr_executor.errors import TryAgain

Ask = Callable[[], Awaitable[object]]


class HealthProbe:
    """``ask``: for each dependency a cheap call, and after how many seconds without another it is made."""

    def __init__(
        self,
        dependencies: Dependencies,
        ask: Mapping[Dependency, tuple[Ask, float]],
        is_steering: Callable[[], bool],
    ) -> None:
        self._dependencies, self._ask, self._is_steering = dependencies, dict(ask), is_steering

    async def step(self) -> None:
        """Make the calls that are due; how they end is noted and raises nothing that means "away"."""
        for dependency, (ask, after_s) in self._ask.items():
            if self._is_steering() and self._dependencies.unused_s(dependency) >= after_s:
                with suppress(TryAgain):
                    await self._dependencies.noted(dependency, "probe", ask())

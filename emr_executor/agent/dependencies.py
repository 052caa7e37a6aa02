"""What this agent cannot reach now, since when and why; told in the log when it changes, not at each call.

Every port is watched from outside (``watched``), so no loop has to report how its calls went. A refusal is an
answer: only a call that found nobody, or no credentials, makes its dependency away. Throttling does not.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, cast

import structlog

from emr_executor.core.health import Away, Dependency, redacted
from emr_executor.errors import (
    BudgetSpent,
    CredentialsMissing,
    EmrExecutorError,
    OutcomeUnknown,
    Throttled,
    TryAgain,
)
from emr_executor.ports import Clock

HOLD_S = 20.0
"""After a failed call to EMR nothing new is launched or placed for this long, or until a call succeeds:
each attempt would be a row. Longer than cluster_poll_interval, so that in an outage mostly looks fail."""
FORGET_S = 180.0
"""What has not failed again for this long, because nobody uses it now, is no longer called away."""

P = TypeVar("P")
T = TypeVar("T")

log = structlog.get_logger("emr_executor.agent")


@dataclass(slots=True)
class _Failing:
    since: datetime
    since_monotonic: float
    last_monotonic: float
    error: str


class Dependencies:
    """Keeps, for each dependency, whether it failed when it was last used.

    Credentials are kept by operation: one permission may be missing while all else works.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failing: dict[tuple[Dependency, str], _Failing] = {}
        self._used_at: dict[Dependency, float] = {}
        self.changes = 0
        """Grows when a dependency goes away or comes back."""

    def away(self) -> tuple[Away, ...]:
        """What is away now, in the order of ``Dependency``; of several failures the oldest and the last."""
        self._forget_unused()
        found = []
        for dependency in Dependency:
            failing = [f for (of, _), f in self._failing.items() if of is dependency]
            if failing:
                last = max(failing, key=lambda one: one.last_monotonic)
                since = min(one.since for one in failing)
                found.append(Away(dependency=dependency, since=since, error=last.error))
        return tuple(found)

    def held(self) -> str | None:
        """Why nothing new may be launched or placed in EMR now, or None."""
        now = self._clock.monotonic()
        for (dependency, of), failing in self._failing.items():
            concerns_emr = dependency is Dependency.EMR or of.startswith(f"{Dependency.EMR.name}.")
            if concerns_emr and now - failing.last_monotonic < HOLD_S:
                return f"{dependency} {'fail' if dependency is Dependency.CREDENTIALS else 'is away'}"
        return None

    def unused_s(self, dependency: Dependency) -> float:
        """How long ago a call to it ended; infinite when none has."""
        return self._clock.monotonic() - self._used_at.get(dependency, -math.inf)

    async def noted(self, dependency: Dependency, operation: str, call: Awaitable[T]) -> T:
        """The answer of a call, whose end is noted."""
        try:
            answer = await call
        except Exception as error:
            self.note(dependency, operation, error)
            raise
        self.note(dependency, operation, None)
        return answer

    def note(self, dependency: Dependency, operation: str, error: Exception | None) -> None:
        """How one call ended."""
        if isinstance(error, BudgetSpent):
            return
        self._used_at[dependency] = self._clock.monotonic()
        credentials = (Dependency.CREDENTIALS, f"{dependency.name}.{operation}")
        if isinstance(error, CredentialsMissing):
            self._failed(credentials, str(error))
        elif isinstance(error, TryAgain) and not isinstance(error, Throttled):
            self._failed((dependency, ""), str(error))
        elif isinstance(error, OutcomeUnknown) or (error and not isinstance(error, EmrExecutorError)):
            return
        else:
            self._answered((dependency, ""))
            self._answered(credentials)

    def _failed(self, key: tuple[Dependency, str], error: str) -> None:
        text, now = redacted(error), self._clock.monotonic()
        known = self._failing.get(key)
        if known is not None:
            known.last_monotonic, known.error = now, text
            return
        self._failing[key] = _Failing(self._clock.now(), now, now, text)
        self.changes += 1
        log.warning("dependency_away", dependency=str(key[0]), operation=key[1] or None, error=text)

    def _answered(self, key: tuple[Dependency, str]) -> None:
        known = self._failing.pop(key, None)
        if known is not None:
            self.changes += 1
            away_s = round(self._clock.monotonic() - known.since_monotonic, 1)
            log.info("dependency_back", dependency=str(key[0]), operation=key[1] or None, away_s=away_s)

    def _forget_unused(self) -> None:
        now = self._clock.monotonic()
        for key, failing in list(self._failing.items()):
            if now - failing.last_monotonic > FORGET_S:
                del self._failing[key]
                self.changes += 1
                log.info("dependency_no_longer_used", dependency=str(key[0]), operation=key[1] or None)


def watched(port: P, dependency: Dependency, dependencies: Dependencies) -> P:
    """The same port; how each of its calls ends is noted."""
    return cast("P", _Watched(port, dependency, dependencies))


class _Watched:
    """Stands before a port whose methods are coroutines."""

    def __init__(self, port: Any, dependency: Dependency, dependencies: Dependencies) -> None:
        self._port, self._dependency, self._dependencies = port, dependency, dependencies

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def noting(*args: Any, **kwargs: Any) -> Any:
            call = getattr(self._port, name)(*args, **kwargs)
            return await self._dependencies.noted(self._dependency, name, call)

        setattr(self, name, noting)
        return noting

"""When each thing that is looked at is due again, on one agent's own clock."""

from __future__ import annotations

from collections.abc import Collection

from emr_executor.ports import Clock


class Cadence:
    """Remembers by name when the next look is due; what was never looked at is due at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at: dict[str, float] = {}

    def is_due(self, what: str, interval_s: float) -> bool:
        """Whether to look now; then the next look is due ``interval_s`` later."""
        now = self._clock.monotonic()
        if now < self._at.get(what, 0.0):
            return False
        self._at[what] = now + interval_s
        return True

    def due_at(self, what: str) -> float:
        """When the next look is due, on the monotonic clock; what was never looked at comes first."""
        return self._at.get(what, 0.0)

    def put_off(self, what: str, due_at: float) -> None:
        """The look that ``is_due`` allowed was not made: it keeps the place that it had (``due_at``)."""
        self._at[what] = due_at

    def hasten(self, what: str, within_s: float) -> None:
        """The next look is due no later than ``within_s`` from now."""
        if what in self._at:
            self._at[what] = min(self._at[what], self._clock.monotonic() + within_s)

    def keep(self, names: Collection[str]) -> None:
        """No others need a look any more."""
        self._at = {name: at for name, at in self._at.items() if name in names}

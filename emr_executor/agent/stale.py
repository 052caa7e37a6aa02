"""Who is still alive, judged without comparing the clocks of two hosts.

A sign of life is a value that changes (a lease's beat, a claim's beat). A watcher remembers when,
on its own monotonic clock, it first saw the value that it still sees: unchanged for long enough
means dead. Two hosts whose clocks differ by an hour agree on it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class StaleWatch(Generic[Key]):
    """Remembers since when each key has shown the same value."""

    def __init__(self) -> None:
        self._seen: dict[Key, tuple[Hashable, float]] = {}

    def look(self, values: Mapping[Key, Hashable], *, monotonic: float) -> dict[Key, float]:
        """Seconds that each key has shown its present value; keys that are gone are forgotten."""
        self._seen = {
            key: self._seen[key] if key in self._seen and self._seen[key][0] == value else (value, monotonic)
            for key, value in values.items()
        }
        return {key: monotonic - since for key, (_, since) in self._seen.items()}

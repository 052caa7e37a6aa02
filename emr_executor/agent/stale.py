"""Who is still alive, judged without comparing the clocks of two hosts.

A sign of life is a value that changes (a lease's beat, a claim's beat). A watcher remembers when,
on its own monotonic clock, it first saw the value that it still sees: unchanged for long enough
means dead. Two hosts whose clocks differ by an hour agree on it.

Only time in which the watcher looked counts. While the database is away, or the watcher itself
stood still, nobody could show life: after such a gap everybody's silence starts anew.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class StaleWatch(Generic[Key]):
    """Remembers since when each key has shown the same value.

    max_gap_s: two looks further apart than this have not watched what lay between them
    """

    def __init__(self, *, max_gap_s: float = math.inf) -> None:
        self._max_gap_s = max_gap_s
        self._looked_at = -math.inf
        self._seen: dict[Key, Hashable] = {}
        self._since: dict[Key, float] = {}

    def look(self, values: Mapping[Key, Hashable], *, monotonic: float) -> dict[Key, float]:
        """Seconds that each key has shown its present value; keys that are gone are forgotten."""
        if monotonic - self._looked_at > self._max_gap_s:
            self._seen, self._since = {}, {}
        self._looked_at = monotonic
        if values != self._seen:
            same = {key for key, value in values.items() if key in self._seen and self._seen[key] == value}
            self._since = {key: self._since[key] if key in same else monotonic for key in values}
            self._seen = dict(values)
        return {key: monotonic - since for key, since in self._since.items()}

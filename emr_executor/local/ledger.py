"""The ledger: an append-only list of everything that really happened, for checks from outside.

It is written by the model of EMR and by nobody else, so a test can compare what the executor believes with
what EMR did. A step is *active* from the start of its process to the end of its process, which is not what
the API shows: a lost cluster's step still reads RUNNING for a while, and a cancelled one may live on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class LedgerEntry(NamedTuple):
    """One event. ``at`` is epoch seconds; ``detail`` holds what the event's kind adds.

    A tuple, since there are some seven to a step and the simulator makes them by the million.

    event: cluster_launched, cluster_state, cluster_lost, cluster_held, node_lost, step_added, step_state,
        process_started, kill_sent, process_ended, bootstrap_started, bootstrap_ended, auto_termination_policy
    state: the new state for ``*_state``, else empty
    """

    seq: int
    at: float
    event: str
    cluster_id: str
    cluster_name: str
    step_id: str | None = None
    step_name: str | None = None
    state: str = ""
    detail: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The entry as JSON holds it: keyword arguments of the same entry."""
        return {key: value for key, value in self._asdict().items() if value not in (None, "")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveInterval:
    """One life of a step's process, or of a cluster. ``until`` is None while it lives."""

    cluster_id: str
    cluster_name: str
    step_id: str | None
    name: str
    since: float
    until: float | None

    def overlaps(self, other: ActiveInterval) -> bool:
        """True when both live at one moment; ending as the other starts is no overlap."""
        ends_before = self.until is not None and self.until <= other.since
        starts_after = other.until is not None and other.until <= self.since
        return not (ends_before or starts_after)


def step_intervals(entries: Iterable[LedgerEntry]) -> tuple[ActiveInterval, ...]:
    """When each step's process lived, in the order of their starts."""
    return _intervals(entries, starts="process_started", ends=lambda entry: entry.event == "process_ended")


def cluster_intervals(entries: Iterable[LedgerEntry]) -> tuple[ActiveInterval, ...]:
    """When each cluster lived, from RunJobFlow to TERMINATED*, in the order of launches."""
    return _intervals(
        entries,
        starts="cluster_launched",
        ends=lambda entry: entry.event == "cluster_state" and entry.state.startswith("TERMINATED"),
    )


def overlapping_steps(
    entries: Iterable[LedgerEntry], group_of: Callable[[str], str]
) -> tuple[tuple[ActiveInterval, ActiveInterval], ...]:
    """Pairs of step processes of one group (say, one workload, read from the step Name) alive at once."""
    groups: dict[str, list[ActiveInterval]] = {}
    pairs: list[tuple[ActiveInterval, ActiveInterval]] = []
    for interval in step_intervals(entries):
        earlier = groups.setdefault(group_of(interval.name), [])
        pairs.extend((other, interval) for other in earlier if other.overlaps(interval))
        earlier.append(interval)
    return tuple(pairs)


def most_clusters_at_once(entries: Iterable[LedgerEntry], *, name_prefix: str = "") -> int:
    """The largest number of clusters that were STARTING to WAITING at one moment."""
    alive: set[str] = set()
    most = 0
    for entry in entries:
        if not entry.cluster_name.startswith(name_prefix):
            continue
        if entry.event == "cluster_launched":
            alive.add(entry.cluster_id)
            most = max(most, len(alive))
        elif entry.event == "cluster_state" and entry.state.startswith("TERMINAT"):
            alive.discard(entry.cluster_id)
    return most


def _intervals(
    entries: Iterable[LedgerEntry], *, starts: str, ends: Callable[[LedgerEntry], bool]
) -> tuple[ActiveInterval, ...]:
    open_at: dict[tuple[str, str | None], LedgerEntry] = {}
    ended: dict[tuple[str, str | None], float] = {}
    for entry in entries:
        key = (entry.cluster_id, entry.step_id)
        if entry.event == starts:
            open_at[key] = entry
        elif ends(entry) and key in open_at:
            ended[key] = entry.at
    return tuple(
        ActiveInterval(
            cluster_id=first.cluster_id,
            cluster_name=first.cluster_name,
            step_id=first.step_id,
            name=first.step_name or first.cluster_name,
            since=first.at,
            until=ended.get(key),
        )
        for key, first in open_at.items()
    )

"""What the last decision was made from: as long as that is the same, its answer is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from emr_executor.agent.tick_state import TickState
from emr_executor.core.fact_ages import Ages
from emr_executor.core.model import ClusterUuid, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """All that a tick decides from, but for rows and time.

    acts_ended: how many acts have ended; what one told is kept in many places
    away: why nothing may be launched or placed
    launch_held, place_held, stalled: as in ``core.model.Snapshot``
    """

    acts_ended: int
    away: str | None
    launch_held: frozenset[str]
    place_held: frozenset[ClusterUuid]
    stalled: frozenset[ClusterUuid]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A tick that decided.

    read: the rows that it began with
    tick: what became of them
    compared_at: when the facts of ``ages`` were compared (monotonic)
    until: when time alone can first change an answer (monotonic); past where more than time is awaited
    """

    lease_token: int
    read: Snapshot
    tick: TickState
    ages: Ages
    compared_at: float
    ground: Ground
    until: float

    def is_of(self, lease_token: int, read: Snapshot, busy: Collection[str]) -> bool:
        """Whether it was made under this lease, from these very rows, and changed none."""
        before = self.read
        return (
            self.tick.is_as_read
            and lease_token == self.lease_token
            and busy == self.tick.busy
            and before.ready_beyond == read.ready_beyond
            and before.clusters == read.clusters
            and before.submissions == read.submissions
            and before.workloads == read.workloads
        )

    def holds(self, ground: Ground, monotonic: float) -> bool:
        """Whether its answer is still the answer."""
        return ground == self.ground and monotonic < self.until

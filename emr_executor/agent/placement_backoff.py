"""What was refused is not asked for again at once, and not for ever.

An act that ended wakes the tick, and what was not added is READY again: without a hold, the same call
would be planned and refused as fast as the database allows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from emr_executor.config import EMR_ACTIVE_STEP_LIMIT
from emr_executor.core.backoff import doubled_s
from emr_executor.core.model import ClusterUuid, Submission, Workload, WorkloadId
from emr_executor.core.waiting import Hold
from emr_executor.ports import Clock

FIRST_HOLD_S = 2.0
LONGEST_HOLD_S = 60.0
BUDGET_HOLD_S = 5.0
"""AddJobFlowSteps has one budget for all clusters, which has a token every two seconds on a good day."""
MOST_REFUSALS = 3
"""A step that EMR refused so often in a row, alone, is refused for good."""

Pair = tuple[Workload, Submission]


def hold_after_s(refusals: int) -> float:
    """How long a cluster gets no steps, or a step waits, after so many refusals in a row, 1 or more."""
    return doubled_s(FIRST_HOLD_S, LONGEST_HOLD_S, failures=refusals)


class PlacementBackoff:
    """Per cluster: 2 s after the first refusal, doubled with each one up to a minute, until it takes steps.

    Kept in memory: after a restart a cluster is tried at once.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refusals: dict[ClusterUuid, int] = {}
        self._until: dict[ClusterUuid, float] = {}
        self._why: dict[ClusterUuid, str] = {}
        self._all_until = -math.inf

    def refused(self, cluster_uuid: ClusterUuid, why: str) -> None:
        """The cluster took no steps, for a reason of its own or since nobody was reached."""
        self._why[cluster_uuid] = why
        refusals = self._refusals[cluster_uuid] = self._refusals.get(cluster_uuid, 0) + 1
        self._until[cluster_uuid] = self._clock.monotonic() + hold_after_s(refusals)

    def budget_spent(self) -> None:
        """The call was not made, and no other cluster's would be."""
        self._all_until = self._clock.monotonic() + BUDGET_HOLD_S

    def added(self, cluster_uuid: ClusterUuid) -> None:
        """The cluster took steps."""
        self._refusals.pop(cluster_uuid, None)
        self._until.pop(cluster_uuid, None)
        self._why.pop(cluster_uuid, None)

    def told(self) -> dict[ClusterUuid, Hold]:
        """The holds that clusters brought upon themselves, for people."""
        return {
            key: Hold(why=self._why[key], until=self._at(until), longest_s=LONGEST_HOLD_S)
            for key, until in self._until.items()
            if until > self._clock.monotonic()
        }

    @property
    def budget_until(self) -> datetime | None:
        """When AddJobFlowSteps may be called again, where the call budget is spent."""
        return self._at(self._all_until) if self._clock.monotonic() < self._all_until else None

    def _at(self, monotonic: float) -> datetime:
        return self._clock.now() + timedelta(seconds=monotonic - self._clock.monotonic())

    def held(self, clusters: Collection[ClusterUuid]) -> frozenset[ClusterUuid]:
        """Those of the clusters, all there are, that must get no steps now."""
        for gone in self._refusals.keys() - set(clusters):
            self.added(gone)
        now = self._clock.monotonic()
        if now < self._all_until:
            return frozenset(clusters)
        return frozenset(cluster for cluster, until in self._until.items() if now < until)


class Refusals:
    """Finds the step for which EMR refuses a whole call, by halves, and counts how often it is refused alone.

    What is known outlives the act: where the call budget ends it, the next one goes on with smaller parts.
    Kept in memory: after a restart the search and the count begin anew.
    """

    def __init__(self) -> None:
        self._at_most: dict[WorkloadId, int] = {}
        self._alone: dict[WorkloadId, int] = {}

    def parts(self, pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
        """The calls to make: one for those that nothing is known of, then for those that were refused."""
        by_size: dict[int, list[Pair]] = {}
        for pair in pairs:
            by_size.setdefault(self._at_most.get(pair[0].workload_id, EMR_ACTIVE_STEP_LIMIT), []).append(pair)
        return [
            some[start : start + size]
            for size, some in sorted(by_size.items(), reverse=True)
            for start in range(0, len(some), size)
        ]

    def together(self, pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
        """EMR refused these, two or more, in one call: the calls to make instead."""
        size = (len(pairs) + 1) // 2
        self._at_most.update((workload.workload_id, size) for workload, _ in pairs)
        return [pairs[:size], pairs[size:]]

    def alone(self, workload_id: WorkloadId) -> int:
        """EMR refused this one in a call of its own: how often so far."""
        self._at_most[workload_id] = 1
        self._alone[workload_id] = refusals = self._alone.get(workload_id, 0) + 1
        return refusals

    def has(self, workload_id: WorkloadId) -> bool:
        """Whether EMR refused it alone, and has not taken it since."""
        return workload_id in self._alone

    def over(self, workload_ids: Collection[WorkloadId]) -> None:
        """EMR took these, or they are refused for good."""
        for workload_id in workload_ids:
            self._at_most.pop(workload_id, None)
            self._alone.pop(workload_id, None)

"""Holds back steps from clusters that just took none, so that a refusal is not asked for again at once.

An act that ended wakes the tick, and what was not added is READY again: without a hold, the same call
would be planned and refused as fast as the database allows.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from emr_executor.core.backoff import doubled_s
from emr_executor.core.model import ClusterUuid
from emr_executor.ports import Clock

FIRST_HOLD_S = 2.0
LONGEST_HOLD_S = 60.0
BUDGET_HOLD_S = 5.0
"""AddJobFlowSteps has one budget for all clusters, which has a token every two seconds on a good day."""


def hold_after_s(refusals: int) -> float:
    """How long a cluster gets no steps after so many refusals in a row, 1 or more."""
    return doubled_s(FIRST_HOLD_S, LONGEST_HOLD_S, failures=refusals)


class PlacingHolds:
    """Per cluster: 2 s after the first refusal, doubled with each one up to a minute, until it takes steps.

    Kept in memory: after a restart a cluster is tried at once.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refusals: dict[ClusterUuid, int] = {}
        self._until: dict[ClusterUuid, float] = {}
        self._all_until = -math.inf

    def refused(self, cluster_uuid: ClusterUuid) -> None:
        """The cluster took no steps, for a reason of its own or since nobody was reached."""
        refusals = self._refusals[cluster_uuid] = self._refusals.get(cluster_uuid, 0) + 1
        self._until[cluster_uuid] = self._clock.monotonic() + hold_after_s(refusals)

    def budget_spent(self) -> None:
        """The call was not made, and no other cluster's would be."""
        self._all_until = self._clock.monotonic() + BUDGET_HOLD_S

    def added(self, cluster_uuid: ClusterUuid) -> None:
        """The cluster took steps."""
        self._refusals.pop(cluster_uuid, None)
        self._until.pop(cluster_uuid, None)

    def held(self, clusters: Collection[ClusterUuid]) -> frozenset[ClusterUuid]:
        """Those of the clusters, all there are, that must get no steps now."""
        for gone in self._refusals.keys() - set(clusters):
            self.added(gone)
        now = self._clock.monotonic()
        if now < self._all_until:
            return frozenset(clusters)
        return frozenset(cluster for cluster, until in self._until.items() if now < until)

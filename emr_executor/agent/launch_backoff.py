"""Holds back launches of a pool whose clusters keep failing to come up."""

from __future__ import annotations

from datetime import timedelta

from emr_executor.core.backoff import doubled_s
from emr_executor.core.fact_ages import STALE_READ_S
from emr_executor.core.model import Cluster
from emr_executor.core.settle import lost_because
from emr_executor.core.states import ClusterState
from emr_executor.core.waiting import Hold
from emr_executor.ports import Clock

FIRST_HOLD_S = 10.0
LONGEST_HOLD_S = 600.0


def hold_after_s(failures: int) -> float:
    """How long a pool does not launch after so many failed launches in a row, 1 or more."""
    return doubled_s(FIRST_HOLD_S, LONGEST_HOLD_S, failures=failures)


def is_failed_launch(over: Cluster) -> bool:
    """Whether a cluster that is over never came up, for no wish of ours."""
    return over.ready_at is None and over.end_asked_at is None


def why_failed(over: Cluster) -> str:
    """Why a cluster that is over never came up, in EMR's words where there are any."""
    refusal = over.reason if over.state is ClusterState.NEVER_LAUNCHED else None
    return refusal or lost_because(over)


class LaunchBackoff:
    """Per pool: 10 s after the first failed launch, doubled with each one up to 10 min, until one comes up.

    Kept in memory: after a restart the first launch is tried at once, still within ``max_clusters``.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: dict[str, int] = {}
        self._until: dict[str, float] = {}
        self._why: dict[str, str] = {}
        self._may_be_done: set[str] = set()

    def cluster_over(self, cluster: Cluster) -> None:
        """A cluster ended; one that never came up is a failed launch."""
        if not is_failed_launch(cluster):
            return
        failures = self._failures.get(cluster.cluster_pool, 0) + 1
        self._failures[cluster.cluster_pool] = failures
        self._until[cluster.cluster_pool] = self._clock.monotonic() + hold_after_s(failures)
        self._why[cluster.cluster_pool] = why_failed(cluster)
        self._may_be_done.discard(cluster.cluster_pool)

    def not_sent(self, cluster_pool: str, why: str) -> None:
        """RunJobFlow reached nobody: that says nothing of the template, so the hold does not grow."""
        self._why[cluster_pool] = why
        self._may_be_done.discard(cluster_pool)
        until = self._clock.monotonic() + FIRST_HOLD_S
        self._until[cluster_pool] = max(until, self._until.get(cluster_pool, until))

    def throttled(self, cluster_pool: str) -> None:
        """EMR throttled RunJobFlow: whether it launched is known when EMR's reads would show it."""
        self._why[cluster_pool] = "EMR throttled RunJobFlow"
        self._until[cluster_pool] = self._clock.monotonic() + STALE_READ_S
        self._may_be_done.add(cluster_pool)

    def cluster_ready(self, cluster: Cluster) -> None:
        """A cluster came up: the pool's template works."""
        self._failures.pop(cluster.cluster_pool, None)
        self._until.pop(cluster.cluster_pool, None)
        self._why.pop(cluster.cluster_pool, None)

    def held(self) -> frozenset[str]:
        """Pools that must not launch now."""
        now = self._clock.monotonic()
        return frozenset(pool for pool, until in self._until.items() if now < until)

    def told(self) -> dict[str, Hold]:
        """The holds by pool, for people."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        return {
            pool: Hold(
                why=self._why[pool],
                until=now + timedelta(seconds=until - monotonic),
                longest_s=LONGEST_HOLD_S,
                may_be_done=pool in self._may_be_done,
            )
            for pool, until in self._until.items()
            if until > monotonic
        }

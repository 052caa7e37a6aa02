"""What became of clusters: those that EMR shows, those that it does not, and those that it shows too late.

ListClusters is asked for what lives, so its answer is bounded by the account's clusters and needs no clock:
what vanished from it is over, and looked up. A launch whose answer was lost is found by its Name, which
carries its uuid. One that stayed unknown for ``launch_unknown`` is given up; should EMR show it after all,
its row comes back to be ended. Nothing is ever ended but what a row of ours names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from emr_executor.agent.cadence import Cadence
from emr_executor.agent.outcomes import Outcomes
from emr_executor.agent.stale import StaleWatch
from emr_executor.agent.surroundings import Surroundings
from emr_executor.agent.tick_state import TickState
from emr_executor.aws.launch import cluster_name_prefix, cluster_uuid_of_name
from emr_executor.core.fact_ages import STALE_READ_S, Ages, Fact
from emr_executor.core.model import Cluster, ClusterId, ClusterUuid, ObservedCluster
from emr_executor.core.observe import gone, observe_cluster
from emr_executor.core.states import (
    OVER_CLUSTER_STATES,
    USABLE_CLUSTER_STATES,
    ClusterState,
)
from emr_executor.core.transitions import ClusterEvent
from emr_executor.errors import BudgetSpent

POLL_WITHIN_S = 0.2
"""A poll for which the call budget has no token by then is left to a later tick, which waits for none."""
GONE_AFTER_S = 600.0
"""A cluster whose id EMR does not know for this long is over (EMR keeps ended ones for two months)."""
STRAY_LOOK_S = 300.0
"""How often ListClusters is asked while no cluster of ours lives, for launches that were given up."""
DESCRIBE_AT_ONCE = 5
"""Vanished clusters that are described one by one; more are listed together."""
OVER_MARGIN = timedelta(hours=1)
"""How much earlier than our row's time EMR may have created a cluster: the clocks of three hosts."""
UNKNOWN_POOL_PATIENCE_S = 180.0

log = structlog.get_logger(__name__)


class ClusterTracker:
    """Applies what EMR shows of this deployment's clusters to the tick's state.

    terminate: asks EMR to end clusters, for a launch that is there twice
    unshown: launches without an answer that EMR did not show after ``STALE_READ_S``
    """

    def __init__(
        self, around: Surroundings, outcomes: Outcomes, *, terminate: Callable[[Sequence[ClusterId]], None]
    ) -> None:
        self._emr, self._store, self._clock = around.emr, around.store, around.clock
        self._settings, self._deployment_id = around.settings, around.deployment_id
        self._outcomes, self._terminate = outcomes, terminate
        self._cadence = Cadence(around.clock)
        self._missing: StaleWatch[ClusterUuid] = StaleWatch()
        self._told_strays: set[ClusterId] = set()
        self._seen_at: dict[ClusterUuid, float] = {}
        self._is_over_list_due = False
        self.unshown: set[ClusterUuid] = set()

    def unseen_s(self, cluster_uuid: ClusterUuid) -> float:
        """How long ago EMR last showed the cluster to this agent; infinite when it never did.

        A list that does not show it is no sign of life: it may have ended.
        """
        return self._clock.monotonic() - self._seen_at.get(cluster_uuid, -math.inf)

    async def poll(self, tick: TickState, ages: Ages) -> None:
        """ListClusters when it is due. Raises TryAgain: then what was applied so far stands."""
        self._seen_at = {key: at for key, at in self._seen_at.items() if key in tick.clusters}
        self.unshown.clear()
        living = _living(tick)
        if living:
            self._cadence.hasten("clusters", self._settings.cluster_poll_interval_s)
        due_at = self._cadence.due_at("clusters")
        if not self._cadence.is_due(
            "clusters", self._settings.cluster_poll_interval_s if living else STRAY_LOOK_S
        ):
            return
        try:
            await self._poll_living(tick, ages, living)
        except BudgetSpent:
            self._cadence.put_off("clusters", due_at)
            raise

    async def _poll_living(self, tick: TickState, ages: Ages, living: Sequence[Cluster]) -> None:
        if self._is_over_list_due:
            # It comes first now: the list of the living would take every token that its budget gets.
            await self._look_up_together(tick, [cluster for cluster in living if cluster.cluster_id])
            living = _living(tick)
        prefix = cluster_name_prefix(self._deployment_id)
        seen = await self._emr.list_clusters(name_prefix=prefix, within_s=POLL_WITHIN_S)
        by_uuid = self._by_uuid(seen)
        vanished = []
        for cluster in living:
            shown = by_uuid.get(cluster.cluster_uuid)
            if shown:
                self._fold(tick, cluster, self._one_of(cluster, shown))
            elif cluster.cluster_uuid not in tick.busy:
                vanished.append(cluster)
        await self._look_up(tick, ages, vanished)
        await self._strays(tick, by_uuid)

    def _by_uuid(self, seen: Sequence[ObservedCluster]) -> dict[ClusterUuid, list[ObservedCluster]]:
        by_uuid: dict[ClusterUuid, list[ObservedCluster]] = {}
        for one in seen:
            cluster_uuid = cluster_uuid_of_name(self._deployment_id, one.name)
            if cluster_uuid is not None:
                by_uuid.setdefault(cluster_uuid, []).append(one)
        return by_uuid

    def _fold(self, tick: TickState, cluster: Cluster, observed: ObservedCluster) -> None:
        now = self._clock.now()
        if observed.state in USABLE_CLUSTER_STATES:
            self._seen_at[cluster.cluster_uuid] = self._clock.monotonic()
        with tick.confined(cluster):
            self._outcomes.cluster_seen(tick, cluster, observe_cluster(cluster, observed, now=now), now=now)

    def _one_of(self, cluster: Cluster, shown: Sequence[ObservedCluster]) -> ObservedCluster:
        """The launch's cluster. A request that was doubled on its way left another, which is ended."""
        first = min(shown, key=lambda one: (one.created_at is None, one.created_at, one.cluster_id))
        its_own = next((one for one in shown if one.cluster_id == cluster.cluster_id), first)
        others = [
            one.cluster_id for one in shown if one is not its_own and one.state in USABLE_CLUSTER_STATES
        ]
        if others:
            log.error("cluster_is_there_twice", cluster_uuid=cluster.cluster_uuid, ending=others)
            self._terminate(others)
        return its_own

    # -- not shown -------------------------------------------------------------------------------

    async def _look_up(self, tick: TickState, ages: Ages, vanished: Sequence[Cluster]) -> None:
        missing_s = self._missing.look(
            {cluster.cluster_uuid: True for cluster in vanished}, monotonic=self._clock.monotonic()
        )
        for cluster in vanished:
            if cluster.cluster_id is None:
                self._give_up(tick, ages, cluster)
        known = [cluster for cluster in vanished if cluster.cluster_id is not None]
        if len(known) > DESCRIBE_AT_ONCE:
            known = await self._look_up_together(tick, known)
        for cluster in known:
            await self._describe(tick, cluster, missing_s[cluster.cluster_uuid])

    async def _look_up_together(self, tick: TickState, vanished: Sequence[Cluster]) -> list[Cluster]:
        """Fold what the list of ended clusters says; those that are not in it are returned."""
        if not vanished:
            return []
        self._is_over_list_due = True
        by_uuid = self._by_uuid(
            await self._emr.list_clusters(
                name_prefix=cluster_name_prefix(self._deployment_id),
                over_since=min(cluster.intended_at for cluster in vanished) - OVER_MARGIN,
                within_s=POLL_WITHIN_S,
            )
        )
        self._is_over_list_due = False
        left = []
        for cluster in vanished:
            own = [
                one for one in by_uuid.get(cluster.cluster_uuid, ()) if one.cluster_id == cluster.cluster_id
            ]
            if own:
                self._fold(tick, cluster, own[0])
            else:
                left.append(cluster)
        return left

    async def _describe(self, tick: TickState, cluster: Cluster, missing_s: float) -> None:
        if cluster.cluster_id is None:
            return
        observed = await self._emr.describe_cluster(cluster.cluster_id, within_s=POLL_WITHIN_S)
        if observed is not None:
            self._fold(tick, cluster, observed)
        elif missing_s >= GONE_AFTER_S:
            now = self._clock.now()
            reason = f"EMR has not known the cluster for {missing_s:.0f} s"
            with tick.confined(cluster):
                over = gone(cluster, ClusterEvent.FORGOTTEN, reason, now=now)
                self._outcomes.cluster_seen(tick, cluster, over, now=now)

    def _give_up(self, tick: TickState, ages: Ages, cluster: Cluster) -> None:
        pool = self._settings.pool_named(cluster.cluster_pool)
        patience_s = pool.launch_unknown_s if pool else UNKNOWN_POOL_PATIENCE_S
        unknown_s = ages.of(Fact.INTENDED, cluster.cluster_uuid)
        if unknown_s >= STALE_READ_S:
            self.unshown.add(cluster.cluster_uuid)
        if unknown_s < patience_s:
            return
        now = self._clock.now()
        reason = f"EMR showed no such cluster within launch_unknown ({patience_s:g} s)"
        with tick.confined(cluster):
            over = gone(cluster, ClusterEvent.NEVER_SHOWN, reason, now=now)
            self._outcomes.cluster_seen(tick, cluster, over, now=now)

    # -- shown, but not expected -----------------------------------------------------------------

    async def _strays(self, tick: TickState, by_uuid: dict[ClusterUuid, list[ObservedCluster]]) -> None:
        """Living clusters of ours that the snapshot does not hold: launches that were given up, mostly."""
        strays = {
            cluster_uuid: [one for one in shown if one.state in USABLE_CLUSTER_STATES]
            for cluster_uuid, shown in by_uuid.items()
            if cluster_uuid not in tick.clusters
        }
        strays = {cluster_uuid: shown for cluster_uuid, shown in strays.items() if shown}
        if not strays:
            return
        rows = {row.cluster_uuid: row for row in await self._store.clusters(tuple(strays))}
        for cluster_uuid, shown in strays.items():
            row = rows.get(cluster_uuid)
            if row is None:
                self._tell_unknown(tick, shown)
            elif row.state is ClusterState.NEVER_LAUNCHED:
                self._bring_back(tick, row, self._one_of(row, shown))
            elif others := [one.cluster_id for one in shown if one.cluster_id != row.cluster_id]:
                log.error("cluster_is_there_twice", cluster_uuid=cluster_uuid, ending=others)
                self._terminate(others)

    def _bring_back(self, tick: TickState, row: Cluster, observed: ObservedCluster) -> None:
        """Given up, and there after all: it is ours, it counts again, and it is ended."""
        tick.take_over(row)
        self._fold(tick, row, observed)

    def _tell_unknown(self, tick: TickState, shown: Sequence[ObservedCluster]) -> None:
        """A cluster with our deployment's name and no row: told once and left alone.

        A database that was restored or emptied may not end what it does not know.
        """
        for one in shown:
            if one.cluster_id in self._told_strays:
                continue
            self._told_strays.add(one.cluster_id)
            text = (
                f"cluster {one.cluster_id} carries this deployment's name and has no row: it is left to its "
                "auto-termination policy; end it by hand if nobody needs it"
            )
            log.warning("cluster_without_a_row", cluster_id=one.cluster_id, name=one.name)
            tick.add_history(self._clock.now(), "cluster", one.cluster_id, "without_a_row", text)


def _living(tick: TickState) -> list[Cluster]:
    return [cluster for cluster in tick.clusters.values() if cluster.state not in OVER_CLUSTER_STATES]

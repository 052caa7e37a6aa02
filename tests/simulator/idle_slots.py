"""No step waits behind another while a slot of its pool is free: judged from EMR's ledger alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from emr_executor.aws.launch import cluster_name_prefix
from emr_executor.core.states import OVER_STEP_STATES, UP_CLUSTER_STATES
from emr_executor.local.ledger import LedgerEntry

LONGEST_S = 60.0
"""To see that a slot is free and that the step still waits, to cancel it, and to add it elsewhere."""


class _Wait(NamedTuple):
    """A step that was PENDING behind a running one while another cluster of its pool had a free slot."""

    step_id: str
    cluster_id: str
    since: float
    until: float


@dataclass(slots=True)
class _Cluster:
    slots: int
    is_up: bool = False
    running: set[str] = field(default_factory=set)
    waiting: dict[str, float] = field(default_factory=dict)

    @property
    def has_free_slot(self) -> bool:
        return self.is_up and len(self.running) + len(self.waiting) < self.slots


@dataclass(slots=True)
class _Pool:
    """free_since: since when some cluster has had a free slot; None: none has."""

    slots: int
    clusters: dict[str, _Cluster] = field(default_factory=dict)
    free_since: float | None = None

    def waits(self, cluster_id: str, step_ids: Iterable[str], until: float) -> list[_Wait]:
        """The waits of these steps that end now: behind others, since a slot of its own would begin them."""
        cluster = self.clusters[cluster_id]
        if self.free_since is None or not cluster.is_up:
            return []
        return [
            _Wait(step_id, cluster_id, max(cluster.waiting[step_id], self.free_since), until)
            for step_id in step_ids
        ]


def waited_in_vain(
    emr: Iterable[LedgerEntry], slots: Mapping[str, int], *, deployment_id: str, since: float
) -> Iterator[tuple[str, str]]:
    """Step id and text of every wait of more than ``LONGEST_S`` that began at ``since`` or later.

    slots: by pool
    """
    ours = cluster_name_prefix(deployment_id)
    pools = {name: _Pool(slots=count) for name, count in slots.items()}
    found: list[_Wait] = []
    for entry in emr:
        if not entry.cluster_name.startswith(ours):
            continue
        pool = pools[entry.cluster_name.removeprefix(ours).partition("/")[0]]
        cluster = pool.clusters.setdefault(entry.cluster_id, _Cluster(slots=pool.slots))
        left = _left(entry, cluster)
        found += pool.waits(entry.cluster_id, left, entry.at)
        _apply(entry, cluster)
        is_free = any(one.has_free_slot for one in pool.clusters.values())
        if is_free and pool.free_since is None:
            pool.free_since = entry.at
        elif not is_free:
            for cluster_id, one in pool.clusters.items():
                found += pool.waits(cluster_id, one.waiting, entry.at)
            pool.free_since = None
    for wait in found:
        if wait.since >= since and wait.until - wait.since > LONGEST_S:
            when = f"on {wait.cluster_id} from {wait.since:.1f} to {wait.until:.1f}"
            text = f"it waited behind others {when}, while another cluster of its pool had a free slot"
            yield wait.step_id, text


def _left(entry: LedgerEntry, cluster: _Cluster) -> list[str]:
    """The steps of the cluster that wait no more from this event on."""
    if entry.event == "cluster_lost" or (entry.event == "cluster_state" and not _is_up(entry)):
        return list(cluster.waiting)
    is_over = entry.event == "step_state" and entry.state in OVER_STEP_STATES
    begins = entry.event == "process_started" or is_over
    return [entry.step_id] if begins and entry.step_id in cluster.waiting else []


def _apply(entry: LedgerEntry, cluster: _Cluster) -> None:
    step_id = entry.step_id or ""
    match entry.event:
        case "cluster_state":
            cluster.is_up = _is_up(entry)
        case "cluster_lost":
            cluster.is_up, cluster.slots = False, 0
        case "step_added":
            cluster.waiting[step_id] = entry.at
        case "process_started":
            cluster.waiting.pop(step_id, None)
            cluster.running.add(step_id)
        case "process_ended":
            cluster.running.discard(step_id)
        case "step_state" if entry.state in OVER_STEP_STATES:
            cluster.waiting.pop(step_id, None)


def _is_up(entry: LedgerEntry) -> bool:
    return entry.state in UP_CLUSTER_STATES

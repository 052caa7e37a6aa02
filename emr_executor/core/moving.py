"""``moves``: which steps are taken back from behind others, since a slot of their pool is free elsewhere.

EMR starts a cluster's steps in the order in which they were added, so the last ones wait longest: they are
cancelled, and placed again when EMR shows them over. CancelSteps ends a step that runs as well as one that
waits, and what began is not to be touched: a step is moved only while EMR shows, in this very tick, that it
is PENDING. Where the last poll is older, a new one is asked for first.

A slot is promised to one step only (``placement.place``: moving), so nothing is taken back for a slot that
another gets, and what will begin where it is before it could be moved stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from emr_executor.core.model import (
    Cluster,
    ClusterUuid,
    Submission,
    SubmissionId,
    Workload,
    WorkloadId,
)
from emr_executor.core.placement import Load, turn
from emr_executor.core.states import UP_CLUSTER_STATES, USABLE_CLUSTER_STATES, SubmissionState

CALLS_A_TICK = 3
"""Clusters that steps are taken back from at once: CancelSteps refills one call in two seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Take one submission's step back from behind others."""

    submission_id: SubmissionId
    why: str


def moves(
    clusters: Sequence[Cluster],
    submissions: Sequence[Submission],
    wanted: Mapping[WorkloadId, Workload],
    spare: Sequence[tuple[Cluster, int]],
    load: Load,
    *,
    going: AbstractSet[SubmissionId],
    shown: AbstractSet[SubmissionId],
) -> tuple[tuple[Move, ...], frozenset[ClusterUuid]]:
    """The steps to take back now, and the clusters whose steps must be polled before more are.

    wanted: SUBMITTED workloads that are to run
    spare: slots that nobody takes
    going: submissions whose step was asked to be cancelled, and is not over yet
    shown: submissions whose step EMR has shown in this tick
    """
    left = {cluster.cluster_uuid: count for cluster, count in spare}
    if not left:
        return (), frozenset()
    queues = _queues(clusters, submissions, wanted, load, going=going)
    found: list[Move] = []
    poll: set[ClusterUuid] = set()
    sources: set[ClusterUuid] = set()
    for target, _ in spare:
        for cluster, tail in queues:
            source = cluster.cluster_uuid
            if cluster.cluster_pool != target.cluster_pool or source in left:
                continue
            while tail and left[target.cluster_uuid]:
                if tail[-1].submission_id not in shown:
                    poll.add(source)
                    break
                if source not in sources and len(sources) == CALLS_A_TICK:
                    break
                sources.add(source)
                left[target.cluster_uuid] -= 1
                why = f"a slot is free on {target.cluster_id}"
                found.append(Move(submission_id=tail.pop().submission_id, why=why))
    return tuple(found), frozenset(poll)


def _queues(
    clusters: Sequence[Cluster],
    submissions: Sequence[Submission],
    wanted: Mapping[WorkloadId, Workload],
    load: Load,
    *,
    going: AbstractSet[SubmissionId],
) -> list[tuple[Cluster, list[Submission]]]:
    """The steps of each cluster that would wait longer than a move takes; the last one last."""
    pending: dict[ClusterUuid, list[Submission]] = {}
    leaving: Counter[ClusterUuid] = Counter()
    for one in submissions:
        if one.submission_id in going:
            leaving[one.cluster_uuid] += 1
        elif one.was_sent_again or one.quarantine is not None:
            continue
        elif one.state is SubmissionState.PENDING and one.workload_id in wanted:
            pending.setdefault(one.cluster_uuid, []).append(one)
    queues = []
    for cluster in clusters:
        key = cluster.cluster_uuid
        if cluster.state not in USABLE_CLUSTER_STATES or cluster.quarantine is not None or key not in pending:
            continue
        tail = sorted(pending[key], key=lambda one: _added(one, wanted[one.workload_id]))
        if cluster.state in UP_CLUSTER_STATES:
            behind = load.live[key] - leaving[key] - cluster.slots
            # So many are about to begin: half of what began in twice the time that a move takes.
            soon = load.begun.get(key, 0) // 2
            tail = tail[max(0, len(tail) - max(0, behind)) :][soon:]
        if tail:
            queues.append((cluster, tail))
    # From clusters that are up first, and from the longest queue.
    return sorted(queues, key=lambda q: (q[0].state not in UP_CLUSTER_STATES, -len(q[1]), q[0].cluster_uuid))


def _added(
    submission: Submission, workload: Workload
) -> tuple[datetime, datetime, tuple[int, datetime, WorkloadId]]:
    added_at = submission.submitted_at or submission.intended_at
    return submission.intended_at, added_at, turn(workload)

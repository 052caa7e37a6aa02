"""The part of ``status`` on what does not come right by itself: a person has to change something."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection

from emr_executor.cli.emr_facts import PAST_CLUSTERS, PoolFacts, pool_facts
from emr_executor.cli.formatting import clock, counted, since
from emr_executor.config import Settings
from emr_executor.core.model import Cluster, ClusterId, HistoryEntry
from emr_executor.core.states import USABLE_CLUSTER_STATES, ClusterTarget, WorkloadState
from emr_executor.store import health_store, queries

SAME_AGAIN = 3
"""What went wrong so often in the same way will go wrong again."""
ENDING_S = 300.0
"""A cluster ends within minutes after TerminateJobFlows."""
RECENT_LAUNCH = timedelta(minutes=15)
"""A launch that failed is wrong for so long, and for as long as steps wait for a slot of its pool."""

_PHASES = frozenset(
    {WorkloadState.ACCEPTED, WorkloadState.PREPARING, WorkloadState.FINISHABLE, WorkloadState.FINISHING}
)


def wrong_launches(
    conn: Connection, status: queries.Status, settings: Settings | None, now: datetime
) -> list[str]:
    """Pools that cannot launch a cluster, each with the reason."""
    if settings is None:
        return []
    loads = queries.clusters(conn, over=PAST_CLUSTERS)
    waiting = {one.cluster_pool for one in status.workloads if one.state is WorkloadState.READY}
    said = []
    for pool in settings.cluster_pools:
        its_own = [load for load in loads if load.cluster.cluster_pool == pool.name]
        facts = pool_facts(its_own, pool.name, settings)
        if facts.failed_launches and (pool.name in waiting or _is_recent(facts, now)):
            said.append(_cannot_launch(facts, now))
    return said


def wrong_ends(conn: Connection, now: datetime) -> list[str]:
    """Clusters that go on though they were asked to end a while ago."""
    ending = [load.cluster for load in queries.clusters(conn) if _is_to_end(load.cluster)]
    asked = queries.history_of(conn, [("cluster", one.cluster_uuid) for one in ending]) if ending else ()
    since_when = {line.subject_id: line.at for line in asked if line.event == "ending"}
    answers: dict[ClusterId, str] = {}
    for agent in health_store.agents(conn) if ending else ():
        answers.update(agent.holds.not_ended)
    return [
        f"cluster {cluster.cluster_id} is {cluster.state}, which costs money, though it was asked to end "
        f"{since(at, now)} ago: {_answer(answers.get(cluster.cluster_id or ClusterId('')))}"
        for cluster in ending
        if (at := since_when.get(cluster.cluster_uuid)) and (now - at).total_seconds() > ENDING_S
    ]


def wrong_again(conn: Connection, history: Sequence[HistoryEntry]) -> list[str]:
    """Tasks whose phase fails in the same way again and again."""
    retried: defaultdict[str, list[str]] = defaultdict(list)
    for line in history:
        if line.event == "phase_retried":
            retried[line.subject_id].append(line.text)
    same = {key: texts[-1] for key, texts in retried.items() if _is_same(texts[-SAME_AGAIN:])}
    found: defaultdict[str, list[str]] = defaultdict(list)
    for workload in queries.live_workloads(conn, same):
        if workload.state in _PHASES:
            found[same[workload.workload_id]].append(workload.key.text)
    return [_again(sorted(tasks), text) for text, tasks in sorted(found.items())]


def _answer(words: str | None) -> str:
    if words:
        return f"TerminateJobFlows answers: {words.rstrip('. ')}"
    return "TerminateJobFlows is asked again every two minutes; look at the cluster in Amazon EMR"


def _is_recent(facts: PoolFacts, now: datetime) -> bool:
    return facts.last_failed_at is not None and now - facts.last_failed_at < RECENT_LAUNCH


def _cannot_launch(facts: PoolFacts, now: datetime) -> str:
    count = facts.failed_launches
    launches = "the last launch" if count == 1 else f"the last {count} launches"
    again = "the next is tried when a step waits"
    if facts.held_until is not None and facts.held_until > now:
        again = f"the next try is at {clock(facts.held_until, now)}"
    why = (facts.last_failure or "").rstrip(". ")
    return f"cluster pool {facts.cluster_pool!r} cannot launch: {launches} failed, {again}; last: {why}"


def _is_to_end(cluster: Cluster) -> bool:
    is_asked = cluster.target is ClusterTarget.END and cluster.end_asked_at is not None
    return is_asked and cluster.state in USABLE_CLUSTER_STATES and cluster.quarantine is None


def _is_same(texts: Sequence[str]) -> bool:
    return len(texts) == SAME_AGAIN and len(set(texts)) == 1


def _again(tasks: Sequence[str], text: str) -> str:
    others = f" and {counted(len(tasks) - 1, 'other')}" if len(tasks) > 1 else ""
    why = text.rstrip(". ")
    return f"the phase of {tasks[0]}{others} failed {SAME_AGAIN} times or more for the same reason: {why}"

"""``airflow emr status``: everything at one glance, and whether something is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.console import RenderableType
from rich.text import Text
from sqlalchemy import Connection

from emr_executor.cli import quarantine
from emr_executor.cli.emr_facts import PAST_CLUSTERS, PoolFacts, pool_facts
from emr_executor.cli.formatting import clause, clock, counted, labelled, since, table
from emr_executor.cli.health import HealthFacts, read_health, safety
from emr_executor.config import Settings
from emr_executor.core.model import Cluster, HistoryEntry
from emr_executor.core.states import (
    CAPPED_CLUSTER_STATES,
    USABLE_CLUSTER_STATES,
    ClusterTarget,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.workload import spoken_duration
from emr_executor.store import health_store, queries
from emr_executor.store.lease_store import LeaseRow
from emr_executor.store.queries import Held, WorkloadCount

HISTORY_READ = 1000
"""Lines of history in which the last problems are looked for."""
PROBLEMS_SHOWN = 5
SILENT_BEATS = 3
"""An agent that missed so many rounds of heartbeats for parked tries is called silent."""
SAME_AGAIN = 3
"""What went wrong so often in the same way will go wrong again."""
ENDING_S = 300.0
"""A cluster ends within minutes after TerminateJobFlows."""
RECENT_LAUNCH = timedelta(minutes=15)
"""A launch that failed is wrong for so long, and for as long as steps wait for a slot of its pool."""

NO_AGENT = "no agent holds the lease"
START_AGENT = (
    "the scheduler starts one where this executor is configured, `airflow emr agent` with "
    "[emr_executor] agent = service; its log says why it is not there"
)

_PROBLEMS = {
    "workload": ("lost", "step_failed", "step_lost", "step_timed_out", "phase_retried", "quarantined"),
    "submission": ("quarantined", "never_added"),
    "cluster": ("quarantined", "never_launched", "terminated_with_errors"),
}
_PARKED = frozenset({WorkloadState.READY, WorkloadState.SUBMITTED, WorkloadState.FINISHABLE})
_PHASES = frozenset(
    {WorkloadState.ACCEPTED, WorkloadState.PREPARING, WorkloadState.FINISHABLE, WorkloadState.FINISHING}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolClusters:
    """The clusters of a pool that are not over.

    counted: those that ``max_clusters`` counts, STARTING to WAITING and unresolved launches
    max_clusters: None where the configuration does not have the pool
    """

    cluster_pool: str
    counted: int
    max_clusters: int | None
    states: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something in the history that did not go well; ``about`` names the task where there is one."""

    at: datetime
    about: str
    event: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusFacts:
    """What ``status`` shows.

    last_history_at, last_heartbeat_at: the agent's newest traces, in our history and on parked tries
    ready: workloads that wait for a slot; oldest_ready_at: since when the first of them
    unread: ends that their scheduler has not read yet
    health: the agents, and what they cannot reach
    quarantine: rows on which nothing is decided any more, since a bug was met on them
    wrong: full sentences; the command's exit code is 1 when there is one
    """

    now: datetime
    agent: LeaseRow
    health: HealthFacts
    last_history_at: datetime | None
    last_heartbeat_at: datetime | None
    workloads: tuple[WorkloadCount, ...]
    clusters: tuple[PoolClusters, ...]
    steps: dict[str, int]
    ready: int
    oldest_ready_at: datetime | None
    unread: int
    quarantine: tuple[Held, ...]
    problems: tuple[Problem, ...]
    config_problems: tuple[str, ...]
    wrong: tuple[str, ...]


def read_status(
    conn: Connection, settings: Settings | None, config_problems: Sequence[str], now: datetime
) -> StatusFacts:
    """The facts as the store has them now."""
    status = queries.status(conn)
    history = queries.recent_history(conn, HISTORY_READ)
    last_heartbeat_at = queries.last_heartbeat(conn)
    last_history_at = history[-1].at if history else None
    ready = [w for w in status.workloads if w.state is WorkloadState.READY and w.target is WorkloadTarget.RUN]
    default_s = Settings.model_fields["task_heartbeat_interval_s"].default
    interval_s = settings.task_heartbeat_interval_s if settings else default_s
    held = queries.quarantined(conn)
    health = read_health(conn, settings, now)
    traces = [at for at in (last_history_at, last_heartbeat_at) if at]
    return StatusFacts(
        now=now,
        agent=status.steering,
        health=health,
        last_history_at=last_history_at,
        last_heartbeat_at=last_heartbeat_at,
        workloads=status.workloads,
        clusters=_pools(status, settings),
        steps=dict(status.submissions),
        ready=sum(w.count - w.quarantined for w in ready),
        oldest_ready_at=min((w.oldest for w in ready), default=None),
        unread=status.unread,
        quarantine=held,
        problems=_problems(conn, history),
        config_problems=tuple(config_problems),
        wrong=(
            *_wrong_agent(status, health, traces, SILENT_BEATS * interval_s, now),
            *health.wrong(status.steering.holder, now),
            *_wrong_launches(conn, status, settings, now),
            *_wrong_ends(conn, now),
            *_wrong_again(conn, history),
            *quarantine.wrong(held),
            *(f"the executor would refuse all tasks: {problem}" for problem in config_problems),
        ),
    )


def _pools(status: queries.Status, settings: Settings | None) -> tuple[PoolClusters, ...]:
    caps = {pool.name: pool.max_clusters for pool in settings.cluster_pools} if settings else {}
    pools: dict[str, Counter[str]] = {name: Counter() for name in caps}
    for name, state, count in status.clusters:
        pools.setdefault(name, Counter())[state] += count
    return tuple(
        PoolClusters(
            cluster_pool=name,
            counted=sum(count for state, count in states.items() if state in CAPPED_CLUSTER_STATES),
            max_clusters=caps.get(name),
            states=dict(states),
        )
        for name, states in pools.items()
    )


def _problems(conn: Connection, history: Sequence[HistoryEntry]) -> tuple[Problem, ...]:
    last = [entry for entry in history if entry.event in _PROBLEMS.get(entry.subject, ())][-PROBLEMS_SHOWN:]
    # A submission's id is its workload's with "-<n>" behind it (core.model.submission_id_of).
    workload_ids = [
        entry.subject_id.rpartition("-")[0] if entry.subject == "submission" else entry.subject_id
        for entry in last
    ]
    tasks = queries.keys_of(conn, workload_ids)
    abouts = [
        tasks[workload_id].text if workload_id in tasks else f"{entry.subject} {entry.subject_id}"
        for entry, workload_id in zip(last, workload_ids, strict=True)
    ]
    return tuple(
        Problem(at=entry.at, about=about, event=entry.event, text=entry.text)
        for entry, about in zip(last, abouts, strict=True)
    )


def _wrong_agent(
    status: queries.Status, health: HealthFacts, traces: Sequence[datetime], silent_s: float, now: datetime
) -> Iterator[str]:
    live = sum(w.count for w in status.workloads)
    holder = status.steering.holder
    silence_s = min(((now - at).total_seconds() for at in traces), default=0.0)
    if live and holder is None:
        safe = f"; {safety(health.safe_until, now)}" if health.safe_until else ""
        waits = f"{counted(live, 'workload')} {'waits' if live == 1 else 'wait'}"
        yield f"{NO_AGENT} while {waits}{safe}; {START_AGENT}"
    elif silence_s > silent_s and any(
        w.state in _PARKED and w.target is WorkloadTarget.RUN for w in status.workloads
    ):
        text = f"the agent {holder} left no trace for {spoken_duration(silence_s)} while tries are parked"
        yield f"{text}: look whether its process is alive"


def _wrong_launches(
    conn: Connection, status: queries.Status, settings: Settings | None, now: datetime
) -> Iterator[str]:
    """Pools that cannot launch a cluster, each with the reason."""
    loads = queries.clusters(conn, over=PAST_CLUSTERS) if settings else ()
    waiting = {one.cluster_pool for one in status.workloads if one.state is WorkloadState.READY}
    for pool in settings.cluster_pools if settings else ():
        facts = pool_facts(loads, pool.name, settings)
        is_recent = facts.last_failed_at is not None and now - facts.last_failed_at < RECENT_LAUNCH
        if facts.failed_launches and (pool.name in waiting or is_recent):
            yield _cannot_launch(facts, now)


def _cannot_launch(facts: PoolFacts, now: datetime) -> str:
    count = facts.failed_launches
    launches = "the last launch" if count == 1 else f"the last {count} launches"
    again = "the next is tried when a step waits"
    if facts.held_until is not None and facts.held_until > now:
        again = f"the next try is at {clock(facts.held_until, now)}"
    last = f"last: {clause(facts.last_failure or '')}"
    return f"cluster pool {facts.cluster_pool!r} cannot launch: {launches} failed, {again}; {last}"


def _wrong_ends(conn: Connection, now: datetime) -> Iterator[str]:
    """Clusters that go on though they were asked to end a while ago."""
    ending = [load.cluster for load in queries.clusters(conn) if _is_to_end(load.cluster)]
    asked = queries.history_of(conn, [("cluster", one.cluster_uuid) for one in ending]) if ending else ()
    since_when = {line.subject_id: line.at for line in asked if line.event == "ending"}
    agents = health_store.agents(conn) if ending else ()
    answers = {str(key): words for agent in agents for key, words in agent.holds.not_ended.items()}
    for cluster in ending:
        at = since_when.get(cluster.cluster_uuid)
        if at is None or (now - at).total_seconds() <= ENDING_S:
            continue
        answer = "TerminateJobFlows is asked again every two minutes; look at the cluster in Amazon EMR"
        if words := answers.get(str(cluster.cluster_id)):
            answer = f"TerminateJobFlows answers: {clause(words)}"
        yield (
            f"cluster {cluster.cluster_id} is {cluster.state}, which costs money, though it was asked to end "
            f"{since(at, now)} ago: {answer}"
        )


def _is_to_end(cluster: Cluster) -> bool:
    is_asked = cluster.target is ClusterTarget.END and cluster.end_asked_at is not None
    return is_asked and cluster.state in USABLE_CLUSTER_STATES and cluster.quarantine is None


def _wrong_again(conn: Connection, history: Sequence[HistoryEntry]) -> Iterator[str]:
    """Tasks whose phase fails in the same way again and again."""
    retried: defaultdict[str, list[str]] = defaultdict(list)
    for line in history:
        if line.event == "phase_retried":
            retried[line.subject_id].append(line.text)
    last = {key: texts[-SAME_AGAIN:] for key, texts in retried.items()}
    same = {key: texts[0] for key, texts in last.items() if texts == texts[:1] * SAME_AGAIN}
    found: defaultdict[str, list[str]] = defaultdict(list)
    for workload in queries.live_workloads(conn, same):
        if workload.state in _PHASES:
            found[same[workload.workload_id]].append(workload.key.text)
    for text, tasks in sorted(found.items()):
        others = f" and {counted(len(tasks) - 1, 'other')}" if len(tasks) > 1 else ""
        failed = f"failed {SAME_AGAIN} times or more for the same reason"
        yield f"the phase of {min(tasks)}{others} {failed}: {clause(text)}"


def status_view(facts: StatusFacts) -> RenderableType:
    """The facts for people."""
    now = facts.now
    steps = ", ".join(f"{count} {state}" for state, count in facts.steps.items())
    unread = [f"{counted(facts.unread, 'end')} not yet read by a scheduler"] if facts.unread else []
    problems = [f"{clock(one.at, now)} {one.about}: {one.text}" for one in facts.problems]
    waiting = "nothing waits for a slot"
    if facts.ready:
        first = since(facts.oldest_ready_at, now)
        waiting = f"{counted(facts.ready, 'step')} for a slot, the first for {first}"
    return labelled(
        [
            ("Agent", _agent_line(facts)),
            ("Agents", facts.health.agent_lines(now)),
            ("Away", facts.health.away_lines(now)),
            ("Workloads", _workloads(facts) if facts.workloads else "none live"),
            ("Clusters", list(map(_cluster_line, facts.clusters)) or "none"),
            ("Steps", steps or "none live"),
            ("Waiting", waiting),
            ("Unread", unread),
            ("Quarantine", quarantine.lines(facts.quarantine)),
            ("Problems", problems or "none in the last history"),
            *(("WRONG", Text(sentence, style="red")) for sentence in facts.wrong),
        ]
    )


def _agent_line(facts: StatusFacts) -> str:
    if facts.agent.holder is None:
        return "none holds the lease"
    traces = {"history": facts.last_history_at, "heartbeat of a parked try": facts.last_heartbeat_at}
    seen = [f"{what} {since(at, facts.now)} ago" for what, at in traces.items() if at is not None]
    told = f"; last traces: {', '.join(seen)}" if seen else ""
    return f"{facts.agent.holder} holds the lease (beat {facts.agent.beat}){told}"


def _workloads(facts: StatusFacts) -> RenderableType:
    rows = [
        (
            w.cluster_pool,
            w.state if w.target is WorkloadTarget.RUN else f"{w.state}, to be cancelled",
            str(w.count),
            since(w.oldest, facts.now),
        )
        for w in facts.workloads
    ]
    return table(("pool", "state", "count", "oldest"), rows, right=("count",))


def _cluster_line(pool: PoolClusters) -> str:
    cap = f"of {pool.max_clusters}" if pool.max_clusters is not None else "(pool not configured)"
    states = ", ".join(f"{count} {state}" for state, count in pool.states.items())
    return f"{pool.cluster_pool}: {pool.counted} {cap}" + (f" ({states})" if states else "")

"""``airflow emr status``: everything at one glance, and whether something is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text
from sqlalchemy import Connection

from emr_executor.cli import quarantine
from emr_executor.cli.formatting import clock, counted, labelled, since, table
from emr_executor.cli.health import (
    HealthFacts,
    agent_lines,
    away_lines,
    read_health,
    safety,
    wrong_health,
)
from emr_executor.cli.stuck import wrong_again, wrong_ends, wrong_launches
from emr_executor.config import Settings
from emr_executor.core.model import HistoryEntry, TaskKey
from emr_executor.core.states import CAPPED_CLUSTER_STATES, WorkloadState, WorkloadTarget
from emr_executor.core.workload import spoken_duration
from emr_executor.store import queries
from emr_executor.store.lease_store import LeaseRow
from emr_executor.store.queries import Held, WorkloadCount

HISTORY_READ = 1000
"""Lines of history in which the last problems are looked for."""
PROBLEMS_SHOWN = 5
SILENT_BEATS = 3
"""An agent that missed so many rounds of heartbeats for parked tries is called silent."""

NO_AGENT = "no agent holds the lease"
START_AGENT = (
    "the scheduler starts one where this executor is configured, `airflow emr agent` with "
    "[emr_executor] agent = service; its log says why it is not there"
)

_PROBLEMS = frozenset(
    {
        ("workload", "lost"),
        ("workload", "step_failed"),
        ("workload", "step_lost"),
        ("workload", "step_timed_out"),
        ("workload", "phase_retried"),
        ("workload", "quarantined"),
        ("submission", "quarantined"),
        ("submission", "never_added"),
        ("cluster", "quarantined"),
        ("cluster", "never_launched"),
        ("cluster", "terminated_with_errors"),
    }
)
_PARKED = frozenset({WorkloadState.READY, WorkloadState.SUBMITTED, WorkloadState.FINISHABLE})


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
    interval_s = (
        settings.task_heartbeat_interval_s
        if settings
        else Settings.model_fields["task_heartbeat_interval_s"].default
    )
    held = queries.quarantined(conn)
    health = read_health(conn, settings, now)
    traces = [at for at in (last_history_at, last_heartbeat_at) if at]
    wrong = (
        *_wrong_agent(status, health, traces, SILENT_BEATS * interval_s, now),
        *wrong_health(health, status.steering.holder, now),
        *wrong_launches(conn, status, settings, now),
        *wrong_ends(conn, now),
        *wrong_again(conn, history),
    )
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
        wrong=(*wrong, *quarantine.wrong(held), *_wrong_config(config_problems)),
    )


def status_view(facts: StatusFacts) -> RenderableType:
    """The facts for people."""
    parts: list[tuple[str, RenderableType]] = [
        ("Agent", _agent_line(facts)),
        *((("Agents", Text("\n".join(lines))),) if (lines := agent_lines(facts.health, facts.now)) else ()),
        *((("Away", Text("\n".join(lines))),) if (lines := away_lines(facts.health, facts.now)) else ()),
        ("Workloads", _workloads(facts)),
        ("Clusters", Text("\n".join(_cluster_line(pool) for pool in facts.clusters) or "none")),
        ("Steps", ", ".join(f"{count} {state}" for state, count in facts.steps.items()) or "none live"),
        ("Waiting", _waiting_line(facts)),
    ]
    if facts.unread:
        parts.append(("Unread", f"{counted(facts.unread, 'end')} not yet read by a scheduler"))
    if facts.quarantine:
        parts.append(("Quarantine", _quarantine_lines(facts)))
    parts.append(("Problems", _problem_lines(facts)))
    parts.extend(("WRONG", Text(sentence, style="red")) for sentence in facts.wrong)
    return labelled(parts)


def _wrong_agent(
    status: queries.Status, health: HealthFacts, traces: Sequence[datetime], silent_s: float, now: datetime
) -> list[str]:
    live = sum(w.count for w in status.workloads)
    holder = status.steering.holder
    if not live:
        return []
    if holder is None:
        text = f"{NO_AGENT} while {counted(live, 'workload')} {'waits' if live == 1 else 'wait'}"
        safe = f"; {safety(health.safe_until, now)}" if health.safe_until else ""
        return [f"{text}{safe}; {START_AGENT}"]
    parked = any(w.state in _PARKED and w.target is WorkloadTarget.RUN for w in status.workloads)
    silence_s = min(((now - at).total_seconds() for at in traces), default=0.0)
    if not parked or silence_s <= silent_s:
        return []
    text = f"the agent {holder} left no trace for {spoken_duration(silence_s)} while tries are parked"
    return [f"{text}: look whether its process is alive"]


def _wrong_config(problems: Sequence[str]) -> list[str]:
    return [f"the executor would refuse all tasks: {problem}" for problem in problems]


def _pools(status: queries.Status, settings: Settings | None) -> tuple[PoolClusters, ...]:
    states: dict[str, Counter[str]] = (
        {pool.name: Counter() for pool in settings.cluster_pools} if settings else {}
    )
    for name, state, count in status.clusters:
        states.setdefault(name, Counter())[state] += count
    pools = {pool.name: pool for pool in settings.cluster_pools} if settings else {}
    return tuple(
        PoolClusters(
            cluster_pool=name,
            counted=sum(count for state, count in in_states.items() if state in CAPPED_CLUSTER_STATES),
            max_clusters=pools[name].max_clusters if name in pools else None,
            states=dict(in_states),
        )
        for name, in_states in states.items()
    )


def _problems(conn: Connection, history: Sequence[HistoryEntry]) -> tuple[Problem, ...]:
    last = [entry for entry in history if (entry.subject, entry.event) in _PROBLEMS][-PROBLEMS_SHOWN:]
    tasks = queries.keys_of(conn, {_workload_id(entry) for entry in last})
    return tuple(
        Problem(at=entry.at, about=_about(entry, tasks), event=entry.event, text=entry.text) for entry in last
    )


def _workload_id(entry: HistoryEntry) -> str:
    # A submission's id is its workload's with "-<n>" behind it (core.model.submission_id_of).
    return entry.subject_id.rpartition("-")[0] if entry.subject == "submission" else entry.subject_id


def _about(entry: HistoryEntry, tasks: dict[str, TaskKey]) -> str:
    key = tasks.get(_workload_id(entry))
    return key.text if key else f"{entry.subject} {entry.subject_id}"


def _agent_line(facts: StatusFacts) -> str:
    if facts.agent.holder is None:
        return "none holds the lease"
    traces = [
        f"{what} {since(at, facts.now)} ago"
        for what, at in (
            ("history", facts.last_history_at),
            ("heartbeat of a parked try", facts.last_heartbeat_at),
        )
        if at is not None
    ]
    told = f"; last traces: {', '.join(traces)}" if traces else ""
    return f"{facts.agent.holder} holds the lease (beat {facts.agent.beat}){told}"


def _workloads(facts: StatusFacts) -> RenderableType:
    if not facts.workloads:
        return Text("none live")
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


def _waiting_line(facts: StatusFacts) -> str:
    if not facts.ready:
        return "nothing waits for a slot"
    return (
        f"{counted(facts.ready, 'step')} for a slot, the first for {since(facts.oldest_ready_at, facts.now)}"
    )


def _quarantine_lines(facts: StatusFacts) -> RenderableType:
    lines = [quarantine.line(held) for held in facts.quarantine[: quarantine.SHOWN]]
    if len(facts.quarantine) > quarantine.SHOWN:
        lines.append(f"and {len(facts.quarantine) - quarantine.SHOWN} more (all of them with `-o json`)")
    return Group(*(Text(one, overflow="fold") for one in lines))


def _problem_lines(facts: StatusFacts) -> RenderableType:
    if not facts.problems:
        return Text("none in the last history")
    return Group(
        *(Text(f"{clock(p.at, facts.now)} {p.about}: {p.text}", overflow="fold") for p in facts.problems)
    )

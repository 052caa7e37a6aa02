"""The part of ``status`` on the agents: who lives, who steers, what is away, and what tasks have of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from emr_executor.cli.formatting import clock, filled, since
from emr_executor.config import Settings
from emr_executor.core.health import SILENT_S, AgentHealth, Dependency
from emr_executor.core.workload import spoken_duration
from emr_executor.store import health_store, queries

_MEANS = {
    Dependency.EMR: "no cluster is launched or ended and no step added; steps that run go on, no task fails",
    Dependency.S3: "output comes late, ends are seen by ListSteps, new tasks wait; no task fails for it",
    Dependency.CREDENTIALS: "what needs them waits and goes on when they are there; no task fails for it",
    Dependency.TASK_LOGS: "lines wait in the agent's memory, 8 MiB at most; tasks go on",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AwayFacts:
    """Something that an agent cannot reach. ``means``: what that does to tasks."""

    dependency: str
    since: datetime
    error: str
    means: str
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFacts:
    """The agents' own words.

    safe_until: when Airflow may fail the parked try it has not heard of for longest; None: none is parked
    """

    agents: tuple[AgentHealth, ...]
    away: tuple[AwayFacts, ...]
    safe_until: datetime | None

    def agent_lines(self, now: datetime) -> list[str]:
        """One line for each agent."""
        return [
            f"{agent.holder} {'steers' if agent.steering else 'stands by'}, version {agent.version}, up for"
            f" {since(agent.started_at, now)}, "
            + (f"SILENT for {since(agent.told_at, now)}" if is_silent(agent, now) else "well")
            for agent in self.agents
        ]

    def away_lines(self, now: datetime) -> list[str]:
        """One line for each thing that is away."""
        return [
            f"{one.dependency} since {clock(one.since, now)} ({since(one.since, now)}): {one.error}"
            for one in self.away
        ]

    def wrong(self, holder: str | None, now: datetime) -> Iterator[str]:
        """Full sentences on what must be looked at. ``holder``: of the lease."""
        for one in self.away:
            yield f"{one.dependency} cannot be used for {since(one.since, now)}: {one.means}"
        for agent in self.agents:
            if agent.holder == holder and is_silent(agent, now):
                yield (
                    f"the agent {holder} that steers has told nothing of itself for "
                    f"{since(agent.told_at, now)}: another one takes over when there is one; "
                    f"{safety(self.safe_until, now)}"
                )


def read_health(conn: Connection, settings: Settings | None, now: datetime) -> HealthFacts:
    """The facts as the store has them now."""
    default_s = Settings.model_fields["task_heartbeat_timeout_s"].default
    timeout_s = settings.task_heartbeat_timeout_s if settings else default_s
    oldest = queries.oldest_heartbeat(conn)
    safe_until = None if oldest is None else oldest + timedelta(seconds=timeout_s)
    agents = health_store.agents(conn)
    away: dict[Dependency, AwayFacts] = {}
    for agent in agents:
        for one in agent.away if not is_silent(agent, now) else ():
            means = _MEANS.get(one.dependency) or safety(safe_until, now)
            # The one that steers comes first, and it is the one that needs all of them.
            away.setdefault(one.dependency, filled(AwayFacts, one, means=means, holder=agent.holder))
    return HealthFacts(agents=agents, away=tuple(away.values()), safe_until=safe_until)


def is_silent(agent: AgentHealth, now: datetime) -> bool:
    """Whether an agent told nothing of itself for too long, by the clock of this host and that of its own."""
    return (now - agent.told_at).total_seconds() > SILENT_S


def safety(safe_until: datetime | None, now: datetime) -> str:
    """How long parked tasks can do without a heartbeat."""
    if safe_until is None:
        return "no task is parked"
    if safe_until <= now:
        return "parked tasks are beyond task_instance_heartbeat_timeout: Airflow may fail them"
    return f"parked tasks are safe for another {spoken_duration((safe_until - now).total_seconds())}"

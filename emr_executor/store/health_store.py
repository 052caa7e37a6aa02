"""What agents say of themselves: one row for each, written by it alone, read by people and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select

from emr_executor.core.health import AgentHealth, Away, Dependency, redacted
from emr_executor.core.model import ClusterId, ClusterUuid
from emr_executor.core.waiting import Hold, Holds
from emr_executor.store.dialect import upsert
from emr_executor.store.runner import Runner, reads, writes
from emr_executor.store.schema import AGENT


def tell_health(conn: Connection, health: AgentHealth) -> None:
    """Write an agent's row, or write it anew."""
    row = {
        "holder": health.holder,
        "host": health.host,
        "pid": health.pid,
        "version": health.version,
        "steering": health.steering,
        "started_at": health.started_at,
        "beat": health.beat,
        "told_at": health.told_at,
        "away": [
            {"dependency": a.dependency.name, "since": a.since.isoformat(), "error": a.error}
            for a in health.away
        ],
        "holds": _columns_of(health.holds),
    }
    insert = upsert(conn.dialect.name, AGENT).values(row)
    changed = {name: insert.excluded[name] for name in row if name != "holder"}
    conn.execute(insert.on_conflict_do_update(index_elements=["holder"], set_=changed))


def agents(conn: Connection) -> tuple[AgentHealth, ...]:
    """Every agent that has told of itself and was not forgotten; the one that steers first."""
    rows = conn.execute(select(AGENT).order_by(AGENT.c.steering.desc(), AGENT.c.started_at, AGENT.c.holder))
    return tuple(_agent_from(row) for row in rows.mappings())


def forget_agent(conn: Connection, holder: str, beat: int | None = None) -> bool:
    """Delete an agent's row; with ``beat`` only while it still shows that. Whether there was one."""
    which = AGENT.c.holder == holder
    if beat is not None:
        which &= AGENT.c.beat == beat
    return bool(conn.execute(delete(AGENT).where(which)).rowcount)


def _agent_from(row: Mapping[Any, Any]) -> AgentHealth:
    away = tuple(
        Away(
            dependency=Dependency[one["dependency"]],
            since=datetime.fromisoformat(one["since"]),
            error=one["error"],
        )
        for one in row["away"] or ()
        if one["dependency"] in Dependency.__members__  # a newer release may know more
    )
    return AgentHealth(
        holder=row["holder"],
        host=row["host"],
        pid=row["pid"],
        version=row["version"],
        steering=row["steering"],
        started_at=row["started_at"],
        beat=row["beat"],
        told_at=row["told_at"],
        away=away,
        holds=_holds_from(row["holds"] or {}),
    )


def _columns_of(holds: Holds) -> dict[str, Any]:
    return {
        "away": holds.away,
        "launch": {pool: _hold_columns(hold) for pool, hold in holds.launch.items()},
        "place": {cluster: _hold_columns(hold) for cluster, hold in holds.place.items()},
        "budget_until": holds.budget_until.isoformat() if holds.budget_until else None,
        "not_ended": {cluster: redacted(why) for cluster, why in holds.not_ended.items()},
    }


def _hold_columns(hold: Hold) -> dict[str, Any]:
    return {
        "why": redacted(hold.why),
        "until": hold.until.isoformat(),
        "longest_s": hold.longest_s,
        "may_be_done": hold.may_be_done,
    }


def _holds_from(columns: Mapping[str, Any]) -> Holds:
    budget_until = columns.get("budget_until")
    return Holds(
        away=columns.get("away"),
        launch={pool: _hold_from(hold) for pool, hold in columns.get("launch", {}).items()},
        place={ClusterUuid(key): _hold_from(hold) for key, hold in columns.get("place", {}).items()},
        budget_until=datetime.fromisoformat(budget_until) if budget_until else None,
        not_ended={ClusterId(key): why for key, why in columns.get("not_ended", {}).items()},
    )


def _hold_from(columns: Mapping[str, Any]) -> Hold:
    return Hold(
        why=columns["why"],
        until=datetime.fromisoformat(columns["until"]),
        longest_s=columns["longest_s"],
        may_be_done=columns["may_be_done"],
    )


class HealthStore:
    """What an agent writes and reads of agents. Each call may raise StoreBusy."""

    tell = writes(tell_health)
    agents = reads(agents)
    forget = writes(forget_agent)

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

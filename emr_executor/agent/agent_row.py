"""Writes what this agent is and cannot reach into its row, and deletes the rows of agents that are gone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from emr_executor.agent.dependencies import Dependencies
from emr_executor.agent.stale import StaleWatch
from emr_executor.core.health import REPORT_S, AgentHealth, Dependency
from emr_executor.core.waiting import Holds
from emr_executor.ports import Clock
from emr_executor.store.health_store import HealthStore

GONE_S = 600.0
"""An agent that told nothing for so long, on the watcher's clock, is forgotten."""

log = structlog.get_logger("emr_executor.agent")


class AgentRow:
    """One agent's row. Every method may raise StoreBusy.

    is_steering: whether this agent holds the lease now
    holds: what the one that steers does not ask of EMR for now
    """

    def __init__(
        self,
        *,
        store: HealthStore,
        dependencies: Dependencies,
        clock: Clock,
        holder: str,
        host: str,
        pid: int,
        version: str,
        is_steering: Callable[[], bool],
        holds: Callable[[], Holds] = Holds,
    ) -> None:
        self._store, self._dependencies, self._clock = store, dependencies, clock
        self._holder, self._host, self._pid, self._version = holder, host, pid, version
        self._is_steering, self._holds = is_steering, holds
        self._started_at: datetime = clock.now()
        self._beat = 0
        self._told_at: float | None = None
        self._told: object = None
        self._others: StaleWatch[str] = StaleWatch(max_gap_s=4 * REPORT_S)

    async def step(self) -> None:
        """Tell when something changed or it is time; the one that steers forgets those that are gone."""
        now = self._clock.monotonic()
        away = tuple(one for one in self._dependencies.away() if one.dependency is not Dependency.DATABASE)
        is_steering = self._is_steering()
        holds = self._holds() if is_steering else Holds()
        held = (*holds.launch.items(), *holds.place.items())
        whys = {key: hold.why for key, hold in held} | {str(key): why for key, why in holds.not_ended.items()}
        news = (is_steering, {(one.dependency, one.since) for one in away}, whys)
        if news == self._told and self._told_at is not None and now < self._told_at + REPORT_S:
            return
        self._beat += 1
        await self._store.tell(
            AgentHealth(
                holder=self._holder,
                host=self._host,
                pid=self._pid,
                version=self._version,
                steering=news[0],
                started_at=self._started_at,
                beat=self._beat,
                told_at=self._clock.now(),
                away=away,
                holds=holds,
            )
        )
        self._told_at, self._told = now, news
        if news[0]:
            await self._forget_gone()

    async def close(self) -> None:
        """This agent ends in order: nobody need wonder where it is."""
        await self._store.forget(self._holder)

    async def _forget_gone(self) -> None:
        beats = {one.holder: one.beat for one in await self._store.agents()}
        silent = self._others.look(beats, monotonic=self._clock.monotonic())
        for holder, silent_s in silent.items():
            if silent_s > GONE_S and await self._store.forget(holder, beats[holder]):
                log.info("agent_forgotten", holder=holder, silent_s=round(silent_s))

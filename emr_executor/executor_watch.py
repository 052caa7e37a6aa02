"""SCHEDULER PROCESS. What the executor says of its own health: a line when it changes, and metrics.

Airflow asks no executor how it is (`airflow jobs check` and the API server's health page look at jobs), so an
executor tells through the scheduler's log and through Airflow's metrics:

===========================================  ==========================================================
gauge ``emr_executor.unsteered_seconds``     how long no agent has steered; 0 while one does
gauge ``emr_executor.agents``                agents that show life
gauge ``emr_executor.away``, tag             1 while the steering agent cannot reach the ``dependency``
gauge ``emr_executor.database_away_seconds`` how long the executor itself cannot use the database
counter ``emr_executor.agent_restarts``      with the tag ``reason``: ended, hung
===========================================  ==========================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from airflow.observability import stats
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from emr_executor.agent.stale import StaleWatch
from emr_executor.config import Settings
from emr_executor.core.health import SILENT_S, AgentHealth, Dependency, redacted
from emr_executor.store.health_store import agents
from emr_executor.store.lease_store import LeaseRow, read_lease, release_lease
from emr_executor.store.schema import STEERING

LOOK_S = 10.0
ERROR_QUIET_S = 30.0
FAILED = "emr_executor could not sync; it tries again in the next loop"


def tell_failure(watch: ExecutorWatch | None, log: Any, error: Exception) -> None:
    """A loop of the executor failed."""
    if watch is not None:
        watch.failed(error)
    else:
        log.error(FAILED, exc_info=error)


class ExecutorWatch:
    """Watches lease and agents from the scheduler's loop, on its own monotonic clock.

    log: Airflow's logger of the executor; metrics: has ``gauge`` and ``incr`` as Airflow's own
    """

    def __init__(
        self,
        log: Any,
        settings: Settings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        metrics: Any = stats,
    ) -> None:
        self._log, self._settings, self._monotonic, self._metrics = log, settings, monotonic, metrics
        self._lease: StaleWatch[str] = StaleWatch(max_gap_s=3 * LOOK_S)
        self._agents: StaleWatch[str] = StaleWatch(max_gap_s=3 * LOOK_S)
        self._look_at = self._quiet_until = 0.0
        self._unsteered_since: float | None = None
        self._told_unsteered = False
        self._away: dict[Dependency, str] = {}
        self._database_since: float | None = None
        self._dead: set[str] = set()

    @property
    def unsteered_bound_s(self) -> float:
        """A successor steers well before this: it needs the lease's time and one beat."""
        return 2 * self._settings.lease_s + 5.0

    def synced(self, run: Callable[..., None], parked: int) -> None:
        """The database answered; look at the agents when it is time.

        run: runs work with a connection, in a transaction of its own
        parked: tries of this scheduler that wait or run
        """
        now = self._monotonic()
        if self._database_since is not None:
            away_s = now - self._database_since
            self._database_since = None
            self._metrics.gauge("emr_executor.database_away_seconds", 0.0)
            self._log.info("Airflow's metadata database answers EmrExecutor again, after %.0f s", away_s)
        if self._dead:
            run(self._hand_over)
            self._dead.clear()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            run(self.look, parked)

    def look(self, conn: Connection, parked: int) -> None:
        """Read the lease and the agents' rows."""
        now = self._monotonic()
        self._judge_lease(read_lease(conn, STEERING), parked, now)
        self._judge_agents(agents(conn), now)

    def restarted(self, reason: str, dead: str | None) -> None:
        """The agent that is this scheduler's child is gone and comes again.

        dead: its name, where it was seen dead
        """
        if dead is not None:
            self._dead.add(dead)
        self._metrics.incr("emr_executor.agent_restarts", tags={"reason": reason})

    def _hand_over(self, conn: Connection) -> None:
        """Free the lease of a child that is dead: nobody need watch it until it is silent for long enough."""
        lease = read_lease(conn, STEERING)
        if lease.holder is not None and lease.holder.rpartition("/")[2] in self._dead:
            release_lease(conn, STEERING, lease.holder, lease.token)
            self._log.info("the lease of the EMR agent that ended is handed over: %s", lease.holder)

    def failed(self, error: Exception) -> None:
        """A loop of the executor failed."""
        now = self._monotonic()
        if isinstance(error, (DBAPIError, PoolTimeoutError)):
            if self._database_since is None:
                self._database_since = now
                why = redacted(str(getattr(error, "orig", None) or error))
                self._log.error(
                    "Airflow's metadata database does not answer EmrExecutor (%s): steps that run go on, and "
                    "what became of them is read when it is back",
                    why,
                )
            self._metrics.gauge("emr_executor.database_away_seconds", now - self._database_since)
        elif now >= self._quiet_until:
            self._quiet_until = now + ERROR_QUIET_S
            self._log.error(FAILED, exc_info=error)

    def _judge_lease(self, lease: LeaseRow, parked: int, now: float) -> None:
        unchanged_s = self._lease.look({STEERING: (lease.token, lease.beat)}, monotonic=now)[STEERING]
        if unchanged_s < self._settings.lease_s and lease.holder is not None:
            if self._told_unsteered and self._unsteered_since is not None:
                self._log.info(
                    "an agent steers EMR again, after %.0f s: %s", now - self._unsteered_since, lease.holder
                )
            self._unsteered_since, self._told_unsteered = None, False
            self._metrics.gauge("emr_executor.unsteered_seconds", 0.0)
            return
        if self._unsteered_since is None:
            self._unsteered_since = now - unchanged_s
        silent_s = now - self._unsteered_since
        self._metrics.gauge("emr_executor.unsteered_seconds", silent_s)
        if silent_s > self.unsteered_bound_s and not self._told_unsteered:
            self._told_unsteered = True
            self._log.error(
                "no agent has steered EMR for %.0f s: %d parked tasks get no heartbeat, and Airflow fails "
                "them after %.0f s without one. `airflow emr status` shows the agents",
                silent_s,
                parked,
                self._settings.task_heartbeat_timeout_s,
            )

    def _judge_agents(self, rows: tuple[AgentHealth, ...], now: float) -> None:
        silent = self._agents.look({row.holder: row.beat for row in rows}, monotonic=now)
        alive = [row for row in rows if silent[row.holder] < SILENT_S]
        away = {one.dependency: one.error for row in alive if row.steering for one in row.away}
        for dependency, error in away.items():
            if dependency not in self._away:
                self._log.warning("the EMR agent cannot use %s: %s", dependency, error)
        for dependency in self._away:
            if dependency not in away:
                self._log.info("the EMR agent can use %s again", dependency)
        self._away = away
        self._metrics.gauge("emr_executor.agents", len(alive))
        for dependency in Dependency:
            if dependency is not Dependency.DATABASE:
                self._metrics.gauge(
                    "emr_executor.away", int(dependency in away), tags={"dependency": dependency.name.lower()}
                )

"""Ends what is over and old: rows of the database and objects in S3, a little in each round.

Only the agent that steers does it. Each part is bounded (a few batches, a few listings a round), begins a
while after the lease was taken, so that an agent which keeps dying does not list S3 all the time, and tells
what it deleted in one line a round.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import structlog

from emr_executor.agent.lease import LeaseKeeper
from emr_executor.agent.retention_s3 import Expired, S3Retention
from emr_executor.agent.surroundings import Surroundings
from emr_executor.errors import TryAgain

ROUND_INTERVAL_S = 60.0
FIRST_AFTER_S = 300.0
"""How long after taking the lease the first round works."""
ROWS_EVERY_S = 3600.0
BATCHES_A_ROUND = 20
"""Transactions of one round, each over at most ``history_store.PURGE_BATCH`` rows of each table."""
WALK_EVERY_S = 86_400.0
"""S3 is walked through once a day; it is made of whole days anyway."""
AFTER_ERROR_S = 600.0

log = structlog.get_logger("emr_executor.agent")


@dataclass(slots=True)
class Done(Expired):
    """What one round did."""

    workloads: int = 0
    submissions: int = 0
    clusters: int = 0
    history: int = 0

    @property
    def is_nothing(self) -> bool:
        """Whether nothing was changed; to have looked is nothing."""
        return not any(count for name, count in asdict(self).items() if name != "listings")


class DatabaseRetention:
    """Deletes what is old enough, in the database and in S3; only the agent that steers does it."""

    def __init__(self, around: Surroundings, lease: LeaseKeeper) -> None:
        self._store, self._expiry, self._clock, self._lease = around.store, around.expiry, around.clock, lease
        self._keep_history_s = around.settings.keep_history_s
        self._rows_at: float | None = None
        self._walk_at: float | None = None

    async def round(self) -> None:
        """What is due now. Raises nothing for a database or an S3 that is away."""
        now = self._clock.monotonic()
        if self._lease.token is None:
            self._rows_at = self._walk_at = None
            return
        if self._rows_at is None or self._walk_at is None:
            self._rows_at = self._walk_at = now + FIRST_AFTER_S
        did = Done()
        try:
            if self._keep_history_s and now >= self._rows_at:
                self._rows_at = await self._purge(did, now)
            if self._expiry is not None and now >= self._walk_at:
                self._walk_at = await self._expire(self._expiry, did, now)
        finally:
            if not did.is_nothing:
                log.info("housekeeping", **{name: count for name, count in asdict(did).items() if count})

    async def _purge(self, did: Done, now: float) -> float:
        """Delete some old rows; when there may be others to delete."""
        for _ in range(BATCHES_A_ROUND):
            if self._lease.token is None:
                return now
            try:
                purged = await self._store.purge(self._clock.now(), self._keep_history_s)
            except TryAgain as error:
                log.warning("purge_failed", error=str(error))
                return now + AFTER_ERROR_S
            did.workloads += purged.workloads
            did.submissions += purged.submissions
            did.clusters += purged.clusters
            did.history += purged.history
            if not purged.more:
                return now + ROWS_EVERY_S
        return now

    async def _expire(self, expiry: S3Retention, did: Done, now: float) -> float:
        """Walk on; when to go on, or to begin again."""
        if not expiry.is_walking:
            expiry.begin()
        try:
            await expiry.round(did)
        except TryAgain as error:
            log.warning("expiry_failed", error=str(error))
            return now + AFTER_ERROR_S
        return now if expiry.is_walking else now + WALK_EVERY_S

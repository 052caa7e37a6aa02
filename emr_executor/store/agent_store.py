"""The store as the agent sees it: each call is one short transaction, and may raise StoreBusy."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from emr_executor.core.model import HistoryEntry, Snapshot
from emr_executor.store import (
    change_store,
    history_store,
    lease_store,
    phase_store,
    queries,
    scheduler_store,
    snapshot_store,
)
from emr_executor.store.runner import Runner, reads, writes


class AgentStore:
    """Leases, claims, snapshots and guarded changes through one runner: the functions say what they do."""

    deployment_id = writes(scheduler_store.deployment_id)

    read_lease = reads(lease_store.read_lease)
    take_lease = writes(lease_store.take_lease)
    beat_lease = writes(lease_store.beat_lease)
    release_lease = writes(lease_store.release_lease)

    claimable = reads(phase_store.claimable)
    claim = writes(phase_store.claim)
    claims = reads(phase_store.claims)
    free_claim = writes(phase_store.free_claim)
    record_intent = writes(phase_store.record_intent)
    record_over = writes(phase_store.record_over)
    record_gone = writes(phase_store.record_gone)

    live = reads(scheduler_store.live)
    ask_cancel = writes(scheduler_store.ask_cancel_unless_queued)
    clusters = reads(snapshot_store.clusters)
    line = reads(snapshot_store.line)
    heartbeat_targets = reads(snapshot_store.heartbeat_targets)
    unwanted = reads(snapshot_store.unwanted)

    apply = writes(change_store.apply)
    append = writes(history_store.append)
    purge = writes(history_store.purge)

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._known = snapshot_store.Known()

    async def snapshot(self, now: datetime, ready_limit: int) -> Snapshot:
        """``snapshot_store.snapshot`` that reads only what changed since this agent's last one."""
        return await self.runner.read(snapshot_store.snapshot, now, ready_limit, self._known)

    async def story(self, subject: str, subject_id: str, limit: int) -> tuple[HistoryEntry, ...]:
        """The last lines on one row, oldest first."""
        last_lines = partial(queries.history_of, subjects=[(subject, subject_id)], limit=limit)
        return await self.runner.read(last_lines)

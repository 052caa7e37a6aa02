"""The store as the agent sees it: each method is one short transaction, and may raise StoreBusy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial

from emr_executor.core.model import (
    Cluster,
    ClusterUuid,
    HistoryEntry,
    Identity,
    InLine,
    Snapshot,
    Workload,
    WorkloadId,
)
from emr_executor.core.states import WorkloadState
from emr_executor.core.transitions import Row
from emr_executor.store import (
    change_store,
    history_store,
    lease_store,
    phase_store,
    queries,
    scheduler_store,
    snapshot_store,
)
from emr_executor.store.change_store import Change
from emr_executor.store.history_store import Purged
from emr_executor.store.lease_store import LeaseRow
from emr_executor.store.runner import Runner


class AgentStore:
    """Leases, claims, snapshots and guarded changes through one runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._known = snapshot_store.Known()

    async def deployment_id(self) -> str:
        """The identity of this deployment, made by whoever asks first; the same for all who ask."""
        return await self._runner.run(scheduler_store.deployment_id)

    async def read_lease(self, name: str) -> LeaseRow:
        """The lease as it stands; who is silent is judged by the caller, on its own monotonic clock."""
        return await self._runner.read(lease_store.read_lease, name)

    async def take_lease(self, name: str, holder: str, seen: LeaseRow) -> int | None:
        """The new token, higher than any before, or None when the lease is no longer as it was seen."""
        return await self._runner.run(lease_store.take_lease, name, holder, seen)

    async def beat_lease(self, name: str, holder: str, token: int) -> bool:
        """Give a sign of life; False when the lease is lost."""
        return await self._runner.run(lease_store.beat_lease, name, holder, token)

    async def release_lease(self, name: str, holder: str, token: int) -> None:
        """Let go, so that another need not wait; nothing when it is lost already."""
        await self._runner.run(lease_store.release_lease, name, holder, token)

    async def claimable(self, now: datetime) -> tuple[WorkloadState, ...]:
        """The kinds of phases of which ``claim`` finds any, FINISHING first; asked without a lock."""
        return await self._runner.read(phase_store.claimable, now)

    async def claim(
        self,
        kind: WorkloadState,
        limit: int,
        identity: Identity,
        *,
        now: datetime,
        new_token: Callable[[], str],
    ) -> tuple[Workload, ...]:
        """Up to ``limit`` workloads whose phase (PREPARING or FINISHING) is now the caller's, by turn.

        They come whole, with ``workload`` and ``executor_config``, each with a token of its own. ``identity``
        is given to those only that have none. A claim of PREPARING first makes every ACCEPTED workload with
        target CANCEL CANCELLED: no user code of theirs has run. Quarantined ones are never claimed.
        """
        work = partial(phase_store.claim, now=now, new_token=new_token)
        return await self._runner.run(work, kind, limit, identity)

    async def claims(self) -> tuple[tuple[WorkloadId, str, int], ...]:
        """(workload id, claim token, beat) of every phase that is claimed, in no order."""
        return await self._runner.read(phase_store.claims)

    async def free_claim(
        self, workload_id: WorkloadId, token: str, beat: int, not_before: datetime | None
    ) -> bool:
        """Give a phase back to be claimed again; False when it moved since (token, beat) was seen."""
        return await self._runner.run(phase_store.free_claim, workload_id, token, beat, not_before)

    async def live(self, workload_ids: Collection[WorkloadId]) -> set[WorkloadId]:
        """Those of the workloads that are known and not over."""
        return await self._runner.read(scheduler_store.live, workload_ids)

    async def record_intent(self, workload_id: WorkloadId, token: str, airflow_state: str) -> None:
        """Airflow is about to be told this state; a sign of life as well. Raises StaleWriter."""
        await self._runner.run(phase_store.record_intent, workload_id, token, airflow_state)

    async def record_over(
        self, workload_id: WorkloadId, token: str, airflow_state: str, now: datetime
    ) -> None:
        """Airflow has its state for this try: FINISHED. Raises StaleWriter: the claim is lost."""
        await self._runner.run(phase_store.record_over, workload_id, token, airflow_state, now)

    async def record_gone(self, workload_id: WorkloadId, token: str, reason: str, now: datetime) -> None:
        """As ``phase_store.record_gone``. Raises StaleWriter: the claim is lost."""
        await self._runner.run(phase_store.record_gone, workload_id, token, reason, now)

    async def snapshot(self, now: datetime, ready_limit: int) -> Snapshot:
        """All that lives, of one moment, at a cost that what is over does not change.

        READY workloads come first and by turn, at most ``ready_limit``; ``ready_beyond`` counts the rest. Of
        those with target RUN neither has the quarantined ones.
        Other workloads, clusters and submissions are in no order. ``workload`` and ``executor_config`` of
        each workload are left empty.
        """
        return await self._runner.read(snapshot_store.snapshot, now, ready_limit, self._known)

    async def apply(
        self, lease_token: int, changes: Sequence[Change], history: Sequence[HistoryEntry] = ()
    ) -> tuple[Row, ...]:
        """Write all changes and their story, or nothing; the new values with new versions, in order.

        Only fields that differ are written; several changes of one row count as one. Raises StaleWriter: the
        steering lease is lost, a row moved on since it was read, or a new row exists already; read again and
        decide again.
        """
        return await self._runner.run(change_store.apply, lease_token, changes, history)

    async def clusters(self, cluster_uuids: Collection[ClusterUuid]) -> tuple[Cluster, ...]:
        """Those of the clusters that have a row, over or not."""
        return await self._runner.read(snapshot_store.clusters, cluster_uuids)

    async def line(self) -> tuple[InLine, ...]:
        """Every live workload by turn, whatever its state and target."""
        return await self._runner.read(snapshot_store.line)

    async def heartbeat_targets(self) -> tuple[tuple[WorkloadId, Identity], ...]:
        """Tries that Airflow must hear of and no phase speaks for, in no order.

        With target RUN and an identity: parked ones (READY, SUBMITTED, FINISHABLE), and ACCEPTED ones whose
        task instance is RUNNING: they wait to be prepared once more.
        """
        return await self._runner.read(snapshot_store.heartbeat_targets)

    async def unwanted(self) -> tuple[tuple[WorkloadId, str | None], ...]:
        """Live tries that Airflow no longer wants, with its state for them; None when it is gone or has none.

        Only those that no phase has claimed, with target RUN and an identity. In no order.
        """
        return await self._runner.read(snapshot_store.unwanted)

    async def ask_cancel(self, workload_ids: Collection[WorkloadId], reason: str) -> int:
        """Set the target of workloads to CANCEL; how many were not over and not cancelled yet.

        A try whose task instance is SCHEDULED or QUEUED is left: it is handed over again.
        """
        return await self._runner.run(scheduler_store.ask_cancel_unless_queued, workload_ids, reason)

    async def story(self, subject: str, subject_id: str, limit: int) -> tuple[HistoryEntry, ...]:
        """The last lines on one row, oldest first."""
        last_lines = partial(queries.history_of, subjects=[(subject, subject_id)], limit=limit)
        return await self._runner.read(last_lines)

    async def append(self, entries: Sequence[HistoryEntry]) -> None:
        """Add lines to the story."""
        await self._runner.run(history_store.append, entries)

    async def purge(self, now: datetime, keep_s: float) -> Purged:
        """Delete one batch of what has been over for more than ``keep_s``; call again while ``more``."""
        return await self._runner.run(history_store.purge, now, keep_s)

"""The three faces of the store, and what it reads of Airflow, as Protocols.

``AgentStore`` (``store.agent_store``) with ``SchedulerStore`` and ``PhaseStore`` (``store.async_stores``)
keep everything in Airflow's metadata database, or in one in memory for a simulated world. Each method is one
transaction: all of it happens or nothing. Each may raise StoreBusy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Protocol

from emr_executor.core.model import (
    Cluster,
    ClusterUuid,
    HistoryEntry,
    Identity,
    InLine,
    Snapshot,
    StepPlan,
    TaskKey,
    Workload,
    WorkloadId,
)
from emr_executor.core.states import WorkloadState
from emr_executor.store.change_store import Change
from emr_executor.store.history_store import Purged
from emr_executor.store.lease_store import LeaseRow
from emr_executor.store.rows import Stored
from emr_executor.store.scheduler_store import Reported

__all__ = [
    "AgentFace",
    "Change",
    "LeaseRow",
    "PhaseFace",
    "Purged",
    "Reported",
    "SchedulerFace",
    "Stored",
    "TaskInstances",
]


class AgentFace(Protocol):
    """What an agent's loops read and write."""

    async def deployment_id(self) -> str:
        """The identity of this deployment, made by whoever asks first; the same for all who ask."""
        ...

    async def read_lease(self, name: str) -> LeaseRow:
        """The lease as it stands; who is silent is judged by the caller, on its own monotonic clock."""
        ...

    async def take_lease(self, name: str, holder: str, seen: LeaseRow) -> int | None:
        """The new token, higher than any before, or None when the lease is no longer as it was seen."""
        ...

    async def beat_lease(self, name: str, holder: str, token: int) -> bool:
        """Give a sign of life; False when the lease is lost."""
        ...

    async def release_lease(self, name: str, holder: str, token: int) -> None:
        """Let go, so that another need not wait; nothing when it is lost already."""
        ...

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
        ...

    async def claims(self) -> tuple[tuple[WorkloadId, str, int], ...]:
        """(workload id, claim token, beat) of every phase that is claimed, in no order."""
        ...

    async def free_claim(
        self, workload_id: WorkloadId, token: str, beat: int, not_before: datetime | None
    ) -> bool:
        """Give a phase back to be claimed again; False when it moved since (token, beat) was seen."""
        ...

    async def live(self, workload_ids: Collection[WorkloadId]) -> set[WorkloadId]:
        """Those of the workloads that are known and not over."""
        ...

    async def record_intent(self, workload_id: WorkloadId, token: str, airflow_state: str) -> None:
        """Airflow is about to be told this state; a sign of life as well. Raises StaleWriter."""
        ...

    async def record_over(
        self, workload_id: WorkloadId, token: str, airflow_state: str, now: datetime
    ) -> None:
        """Airflow has its state for this try: FINISHED. Raises StaleWriter: the claim is lost."""
        ...

    async def record_gone(self, workload_id: WorkloadId, token: str, reason: str, now: datetime) -> None:
        """As ``PhaseFace.record_gone``. Raises StaleWriter: the claim is lost."""
        ...

    async def snapshot(self, now: datetime, ready_limit: int) -> Snapshot:
        """All that lives, of one moment, at a cost that what is over does not change.

        READY workloads come first and by turn, at most ``ready_limit``; ``ready_beyond`` counts the rest. Of
        those with target RUN neither has the quarantined ones.
        Other workloads are by turn, clusters and submissions in no order. ``workload`` and
        ``executor_config`` of each workload are left empty.
        """
        ...

    async def apply(
        self, lease_token: int, changes: Sequence[Change], history: Sequence[HistoryEntry] = ()
    ) -> tuple[Stored, ...]:
        """Write all changes and their story, or nothing; the new values with new versions, in order.

        Only fields that differ are written; several changes of one row count as one. Raises StaleWriter: the
        steering lease is lost, a row moved on since it was read, or a new row exists already; read again and
        decide again.
        """
        ...

    async def clusters(self, cluster_uuids: Collection[ClusterUuid]) -> tuple[Cluster, ...]:
        """Those of the clusters that have a row, over or not."""
        ...

    async def line(self) -> tuple[InLine, ...]:
        """Every live workload by turn, whatever its state and target."""
        ...

    async def heartbeat_targets(self) -> tuple[tuple[WorkloadId, Identity], ...]:
        """Tries that Airflow must hear of and no phase speaks for, in no order.

        With target RUN and an identity: parked ones (READY, SUBMITTED, FINISHABLE), and ACCEPTED ones whose
        task instance is RUNNING: they wait to be prepared once more.
        """
        ...

    async def unwanted(self) -> tuple[tuple[WorkloadId, str | None], ...]:
        """Live tries that Airflow no longer wants, with its state for them; None when it is gone or has none.

        Only those that no phase has claimed, with target RUN and an identity. In no order.
        """
        ...

    async def ask_cancel(self, workload_ids: Collection[WorkloadId], reason: str) -> int:
        """Set the target of workloads to CANCEL; how many were not over and not cancelled yet.

        A try whose task instance is SCHEDULED or QUEUED is left: it is handed over again.
        """
        ...

    async def story(self, subject: str, subject_id: str, limit: int) -> tuple[HistoryEntry, ...]:
        """The last lines on one row, oldest first."""
        ...

    async def append(self, entries: Sequence[HistoryEntry]) -> None:
        """Add lines to the story."""
        ...

    async def purge(self, now: datetime, keep_s: float) -> Purged:
        """Delete one batch of what has been over for more than ``keep_s``; call again while ``more``."""
        ...


class SchedulerFace(Protocol):
    """What the executor in a scheduler's loop reads and writes."""

    async def deployment_id(self) -> str:
        """The identity of this deployment, made by whoever asks first; the same for all who ask."""
        ...

    async def accept(self, workloads: Sequence[Workload]) -> None:
        """Take workloads over, each in ACCEPTED as given.

        One whose row is not over goes on where it stands: a cancellation is taken back, only its owner and
        priority follow the new hand-over. One that is over starts anew; ``submissions`` goes on counting, so
        that no submission id is ever used twice.
        """
        ...

    async def take_outcomes(self, scheduler_job_id: int, limit: int) -> list[Reported]:
        """Outcomes that this scheduler has not read yet, oldest first, at most ``limit``.

        A CANCELLED workload is offered again, after those never read, each time as long as Airflow holds its
        task instance in RESTARTING.
        """
        ...

    async def adopt(self, workload_ids: Collection[WorkloadId], scheduler_job_id: int) -> set[WorkloadId]:
        """Those of the workloads that are known and not over, now owned by this scheduler."""
        ...

    async def live(self, workload_ids: Collection[WorkloadId]) -> set[WorkloadId]:
        """Those of the workloads that are known and not over."""
        ...

    async def ask_cancel(
        self, workload_ids: Collection[WorkloadId], reason: str, scheduler_job_id: int
    ) -> int:
        """As ``AgentFace.ask_cancel``, of those that this scheduler owns, whatever Airflow's state is."""
        ...


class PhaseFace(Protocol):
    """What the process of a prepare or finish phase writes, guarded by its claim's token.

    Every method raises StaleWriter when the claim is lost: the phase runs elsewhere, drop the result.
    """

    async def renew_claim(self, workload_id: WorkloadId, token: str) -> None:
        """The phase's sign of life."""
        ...

    async def record_parked(self, workload_id: WorkloadId, token: str, step: StepPlan, now: datetime) -> None:
        """PREPARING -> READY with its step; the claim is over. StaleWriter also from FINISHING."""
        ...

    async def record_intent(self, workload_id: WorkloadId, token: str, airflow_state: str) -> None:
        """Airflow is about to be told this state; a sign of life as well. Raises StaleWriter."""
        ...

    async def record_over(
        self, workload_id: WorkloadId, token: str, airflow_state: str, now: datetime
    ) -> None:
        """Airflow has its state for this try, from either phase: FINISHED."""
        ...

    async def record_retry(
        self,
        workload_id: WorkloadId,
        token: str,
        not_before: datetime,
        note: str,
        *,
        now: datetime,
        spent: bool = True,
    ) -> None:
        """The phase must run again, not earlier than ``not_before``; ``note`` says why.

        spent: False gives the attempt back: an outage, which says nothing of the task, made it fail
        """
        ...

    async def record_gone(self, workload_id: WorkloadId, token: str, reason: str, now: datetime) -> None:
        """The Execution API refuses the try.

        FINISHED where Airflow has the state that was recorded as intent; back to be claimed, after a pause,
        where it is SCHEDULED or QUEUED; else Airflow no longer wants it: CANCELLED without a step, else READY
        with target CANCEL.
        """
        ...


class TaskInstances(Protocol):
    """Airflow's task_instance table, as far as the store reads it (``unwanted``, ``take_outcomes``).

    Written by a model of Airflow, at once and outside of the store's transactions.
    """

    def put(self, ti_id: str, key: TaskKey, state: str | None) -> None:
        """The task instance as it is now. One row for each task instance: an older id of its key is gone.

        ti_id: the task instance's UUID as text, which is also the workload's id
        key: with the number of the present try
        """
        ...

    def remove(self, ti_id: str) -> None:
        """The row is deleted; absent is fine."""
        ...

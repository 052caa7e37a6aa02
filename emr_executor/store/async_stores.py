"""The scheduler's and the phase's face of the SQL store as coroutines, for a world in one event loop.

The executor and the processes of phases call ``scheduler_store`` and ``phase_store`` in transactions of their
own; these two bring the same functions behind ``store.protocols``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial

from emr_executor.core.model import StepPlan, Workload, WorkloadId
from emr_executor.store import phase_store, scheduler_store
from emr_executor.store.runner import Runner
from emr_executor.store.scheduler_store import Reported


class SchedulerStore:
    """``SchedulerFace`` through a runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def deployment_id(self) -> str:
        """The identity of this deployment."""
        return await self._runner.run(scheduler_store.deployment_id)

    async def accept(self, workloads: Sequence[Workload]) -> None:
        """Take workloads over."""
        await self._runner.run(scheduler_store.accept, workloads)

    async def take_outcomes(self, scheduler_job_id: int, limit: int) -> list[Reported]:
        """Outcomes that this scheduler has not read yet."""
        return await self._runner.run(scheduler_store.take_outcomes, scheduler_job_id, limit)

    async def adopt(self, workload_ids: Collection[WorkloadId], scheduler_job_id: int) -> set[WorkloadId]:
        """Those that are known and not over, now owned by this scheduler."""
        return await self._runner.run(scheduler_store.adopt, workload_ids, scheduler_job_id)

    async def live(self, workload_ids: Collection[WorkloadId]) -> set[WorkloadId]:
        """Those that are known and not over."""
        return await self._runner.read(scheduler_store.live, workload_ids)

    async def ask_cancel(
        self, workload_ids: Collection[WorkloadId], reason: str, scheduler_job_id: int
    ) -> int:
        """Set the target of workloads to CANCEL that this scheduler owns."""
        return await self._runner.run(scheduler_store.ask_cancel, workload_ids, reason, scheduler_job_id)


class PhaseStore:
    """``PhaseFace`` through a runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def renew_claim(self, workload_id: WorkloadId, token: str) -> None:
        """The phase's sign of life."""
        await self._runner.run(phase_store.renew_claim, workload_id, token)

    async def record_parked(self, workload_id: WorkloadId, token: str, step: StepPlan, now: datetime) -> None:
        """PREPARING -> READY with its step."""
        await self._runner.run(phase_store.record_parked, workload_id, token, step, now)

    async def record_intent(self, workload_id: WorkloadId, token: str, airflow_state: str) -> None:
        """Airflow is about to be told this state."""
        await self._runner.run(phase_store.record_intent, workload_id, token, airflow_state)

    async def record_over(
        self, workload_id: WorkloadId, token: str, airflow_state: str, now: datetime
    ) -> None:
        """Airflow has its state for this try."""
        await self._runner.run(phase_store.record_over, workload_id, token, airflow_state, now)

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
        """The phase must run again."""
        work = partial(phase_store.record_retry, now=now, spent=spent)
        await self._runner.run(work, workload_id, token, not_before, note)

    async def record_gone(self, workload_id: WorkloadId, token: str, reason: str, now: datetime) -> None:
        """The Execution API refuses the try."""
        await self._runner.run(phase_store.record_gone, workload_id, token, reason, now)

"""What a phase's process writes, in memory: each method is one transaction (see ``memory_store``)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from emr_executor.core.model import HistoryEntry, StepPlan, Workload, WorkloadId
from emr_executor.core.states import WorkloadState, WorkloadTarget
from emr_executor.core.transitions import WorkloadEvent
from emr_executor.core.workload import seen_in_refusal
from emr_executor.store.phase_store import CLAIMED_FROM, handed_over_again, refused_pause, told_before
from emr_executor.store.snapshot_store import RESTARTING
from tests.simulator.memory_database import MemoryDatabase

NO_CLAIM: dict[str, Any] = {"claim_token": None, "claim_beat": 0}


class MemoryPhaseStore:
    """``PhaseFace`` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._db = database

    async def renew_claim(self, workload_id: WorkloadId, token: str) -> None:
        """The phase's sign of life."""
        workload = self._db.claimed(workload_id, token)
        self._db.workloads.put(replace(workload, claim_beat=workload.claim_beat + 1))

    async def record_parked(self, workload_id: WorkloadId, token: str, step: StepPlan, now: datetime) -> None:
        """PREPARING -> READY with its step."""
        workload = self._db.claimed(workload_id, token, WorkloadState.PREPARING)
        self._end_phase(
            workload,
            state=WorkloadState.READY,
            step=step,
            ready_at=workload.ready_at or now,
            phase_attempts=0,
            not_before=None,
            airflow_state=None,
        )

    async def record_intent(self, workload_id: WorkloadId, token: str, airflow_state: str) -> None:
        """Airflow is about to be told this state."""
        workload = self._db.claimed(workload_id, token)
        self._db.workloads.put(
            replace(
                workload,
                airflow_state=airflow_state,
                claim_beat=workload.claim_beat + 1,
                version=workload.version + 1,
            )
        )

    async def record_over(
        self, workload_id: WorkloadId, token: str, airflow_state: str, now: datetime
    ) -> None:
        """Airflow has its state for this try."""
        workload = self._db.claimed(workload_id, token)
        self._end_phase(workload, state=WorkloadState.FINISHED, airflow_state=airflow_state, finished_at=now)

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
        """The phase must run again, not earlier than ``not_before``."""
        workload = self._db.claimed(workload_id, token)
        attempts = workload.phase_attempts if spent else max(0, workload.phase_attempts - 1)
        state = CLAIMED_FROM[workload.state]
        self._end_phase(workload, state=state, not_before=not_before, phase_attempts=attempts)
        self._tell(now, workload_id, "phase_retried", note)

    async def record_gone(self, workload_id: WorkloadId, token: str, reason: str, now: datetime) -> None:
        """The Execution API refuses the try; what that means is looked up in Airflow's row."""
        workload = self._db.claimed(workload_id, token)
        airflow, intent = self._db.task_instances, workload.airflow_state
        seen = seen_in_refusal(
            intent=intent,
            airflow_state=airflow.state_of(workload_id),
            is_restarting=airflow.state_of_try(workload.key) == RESTARTING,
        )
        if seen is WorkloadEvent.REPORTED and intent is not None:
            await self.record_over(workload_id, token, intent, now)
            self._tell(now, workload_id, "told_before", told_before(intent))
            return
        if seen is WorkloadEvent.TO_REPEAT:
            not_before = now + refused_pause(workload.phase_attempts)
            await self.record_retry(workload_id, token, not_before, handed_over_again(reason), now=now)
            return
        no_step = workload.step is None
        self._end_phase(
            workload,
            target=WorkloadTarget.CANCEL,
            cancel_reason=reason,
            state=WorkloadState.CANCELLED if no_step else WorkloadState.READY,
            finished_at=now if no_step else None,
        )
        self._tell(now, workload_id, "no_longer_wanted", reason)

    def _end_phase(self, workload: Workload, **changes: Any) -> None:
        self._db.workloads.put(replace(workload, version=workload.version + 1, **NO_CLAIM, **changes))

    def _tell(self, at: datetime, workload_id: WorkloadId, event: str, text: str) -> None:
        line = HistoryEntry(at=at, subject="workload", subject_id=workload_id, event=event, text=text)
        self._db.story.append([line])

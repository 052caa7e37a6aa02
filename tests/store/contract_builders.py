"""Workloads in the states that the tests of the store are about, and what is said of them."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import replace
from typing import Any

from emr_executor.core.model import HistoryEntry, Identity, StepOutcome, Workload, WorkloadId
from emr_executor.core.states import Verdict, WorkloadState
from emr_executor.store.scheduler_store import Reported
from tests.store.builders import ME, NOW, STEP, a_parked, a_workload, at
from tests.store.whole_store import Store

OTHER = Identity(hostname="host-b", unixname="airflow", pid=1)
UNKNOWN = WorkloadId(str(uuid.UUID(int=2**120)))
OUTCOME = StepOutcome(
    verdict=Verdict.FAILED, cause="exit code 1", exit_code=1, started_at=NOW, ended_at=at(1)
)
OVER = (WorkloadState.FINISHED, WorkloadState.CANCELLED)
LIVE = [state for state in WorkloadState if state not in OVER]
CLAIMED = {WorkloadState.PREPARING: WorkloadState.ACCEPTED, WorkloadState.FINISHING: WorkloadState.FINISHABLE}
LINE = HistoryEntry(at=NOW, subject="workload", subject_id="w", event="placed", text="on a cluster")


def a_claimed(kind: WorkloadState = WorkloadState.PREPARING, **changes: Any) -> Workload:
    phase = {"state": kind, "claim_token": "mine", "claim_beat": 3, "version": 5, "identity": ME}
    if kind is WorkloadState.FINISHING:
        phase |= {"step": STEP, "ready_at": NOW, "outcome": OUTCOME}
    return a_workload(**{**phase, **changes})


def an_over(state: WorkloadState = WorkloadState.FINISHED, **changes: Any) -> Workload:
    told = "success" if state is WorkloadState.FINISHED else None
    return a_parked(**{"state": state, "airflow_state": told, "finished_at": NOW, "version": 7, **changes})


def told(workload: Workload) -> Reported:
    return Reported(
        workload_id=workload.workload_id,
        key=workload.key,
        airflow_state=workload.airflow_state,
        state=workload.state,
    )


async def claim_all(store: Store, kind: WorkloadState, limit: int = 10, who: Identity = ME, **changes: Any):
    numbers = itertools.count(1)
    asked = {"now": NOW, "new_token": lambda: f"token-{next(numbers)}", **changes}
    return await store.agent.claim(kind, limit, who, **asked)


def placed(workload: Workload) -> Workload:
    return replace(workload, state=WorkloadState.SUBMITTED, submissions=workload.submissions + 1)

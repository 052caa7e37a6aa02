"""Keeps parked tries RUNNING in Airflow, and notices those that Airflow no longer wants.

Airflow purges a RUNNING try without a heartbeat after ``[scheduler]
task_instance_heartbeat_timeout`` (300 s). Two ways lead to "no longer wanted": a SELECT over live
tries every few seconds, and a heartbeat that is refused, should the first have missed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from emr_executor.core.model import Identity, WorkloadId
from emr_executor.errors import TaskGone, TryAgain
from emr_executor.ports import Clock, TaskApi
from emr_executor.store.faces import AgentFace

PARALLEL_HEARTBEATS = 16
"""Small next to the API server's own threads; 10,000 tries at 60 s are 170 calls a second."""

log = structlog.get_logger(__name__)


class Heartbeats:
    """Sends the heartbeats of every parked try and turns refusals into cancellations."""

    def __init__(self, store: AgentFace, api: TaskApi, clock: Clock, *, wake: Callable[[], None]) -> None:
        self._store, self._api, self._clock, self._wake = store, api, clock, wake

    async def beat(self) -> None:
        """One heartbeat for each parked try. Tries that did not answer are left to the next round."""
        gate = asyncio.Semaphore(PARALLEL_HEARTBEATS)
        targets = await self._store.heartbeat_targets()
        gone = await asyncio.gather(*(self._one(gate, *target) for target in targets))
        await self._cancel([(workload_id, why) for workload_id, why in gone if why is not None])

    async def look(self) -> None:
        """Cancel live workloads whose task instance was cleared, marked, deleted or purged."""
        unwanted = await self._store.unwanted()
        await self._cancel(
            [
                (
                    workload_id,
                    f"Airflow set the task to {state}" if state else "Airflow cleared or removed the try",
                )
                for workload_id, state in unwanted
            ]
        )

    async def _one(
        self, gate: asyncio.Semaphore, workload_id: WorkloadId, identity: Identity
    ) -> tuple[WorkloadId, str | None]:
        async with gate:
            try:
                await self._api.heartbeat(workload_id, identity)
            except TaskGone as gone:
                return workload_id, str(gone)
            except TryAgain as error:
                log.warning("heartbeat_failed", workload_id=workload_id, error=str(error))
        return workload_id, None

    async def _cancel(self, gone: list[tuple[WorkloadId, str]]) -> None:
        for workload_id, why in gone:
            await self._store.ask_cancel([workload_id], why)
            log.info("try_no_longer_wanted", workload_id=workload_id, why=why)
        if gone:
            self._wake()

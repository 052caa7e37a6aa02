"""Keeps parked tries RUNNING in Airflow, and notices those that Airflow no longer wants.

Airflow purges a RUNNING try without a heartbeat after ``[scheduler]
task_instance_heartbeat_timeout`` (300 s). Two ways lead to "no longer wanted": a SELECT over live
tries every few seconds, and a heartbeat that is refused, should the first have missed it.

An API server that is away costs the tries nothing as long as it is back before that timeout: what
a round could not send is sent again every few seconds, the longest unheard first, instead of after
a whole interval.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from emr_executor.agent.surroundings import Surroundings
from emr_executor.core.model import Identity, WorkloadId
from emr_executor.errors import TaskGone, TryAgain
from emr_executor.ports import Clock, TaskApi

PARALLEL_HEARTBEATS = 16
"""Small next to the API server's own threads; 10,000 tries at 60 s are 170 calls a second."""
RETRY_S = 5.0
"""Pause before what failed is sent again."""

log = structlog.get_logger(__name__)

Target = tuple[WorkloadId, Identity]


class Heartbeats:
    """Sends the heartbeats of every parked try and turns refusals into cancellations."""

    def __init__(self, around: Surroundings, *, wake: Callable[[], None]) -> None:
        self._store, self._api, self._clock, self._wake = around.store, around.api, around.clock, wake
        self._interval_s = around.settings.task_heartbeat_interval_s
        self._round_at = -math.inf
        self._sent_at: dict[WorkloadId, float] = {}
        self._is_failing = False

    async def beat(self) -> float:
        """Send what is due, the longest unheard first; the seconds after which to call again.

        A round is one heartbeat for each parked try, and begins every ``interval_s``. As long as something of
        a round could not be sent, only that is sent again, after a short pause.
        """
        now = self._clock.monotonic()
        if now >= self._round_at + self._interval_s:
            self._round_at = now
        targets = await self._store.heartbeat_targets()
        sent = {workload_id: self._sent_at.get(workload_id, -math.inf) for workload_id, _ in targets}
        self._sent_at = sent
        due = [target for target in targets if sent[target[0]] < self._round_at]
        sending = _Sending(self._api, self._clock, sorted(due, key=lambda target: sent[target[0]]))
        await sending.run()
        sent.update(sending.sent_at)
        if due:
            self._tell(len(due) - len(sending.sent_at) - len(sending.gone))
        await self._cancel(sending.gone)
        if sending.is_complete:
            return max(0.0, self._round_at + self._interval_s - self._clock.monotonic())
        return min(RETRY_S, self._interval_s)

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

    def _tell(self, unsent: int) -> None:
        if bool(unsent) != self._is_failing:
            self._is_failing = bool(unsent)
            if unsent:
                log.warning("heartbeats_fail", tries=unsent, again_in_s=RETRY_S)
            else:
                log.info("heartbeats_are_sent_again")

    async def _cancel(self, gone: Sequence[tuple[WorkloadId, str]]) -> None:
        for workload_id, why in gone:
            await self._store.ask_cancel([workload_id], why)
            log.info("try_no_longer_wanted", workload_id=workload_id, why=why)
        if gone:
            self._wake()


class _Sending:
    """Heartbeats for some tries, in their order, until all are sent or nobody answers.

    After a row of failures one try from the far end of the line is asked as well: when that is answered, it
    is the tries at the front that fail and not the server, and the line moves on past them.
    """

    def __init__(self, api: TaskApi, clock: Clock, targets: Sequence[Target]) -> None:
        self._api, self._clock = api, clock
        self._line = deque(targets)
        self._failed_in_a_row = 0
        self.failed = 0
        self.sent_at: dict[WorkloadId, float] = {}
        self.gone: list[tuple[WorkloadId, str]] = []

    @property
    def is_complete(self) -> bool:
        """Every try was answered."""
        return not self._line and not self.failed

    async def run(self) -> None:
        """Send; raises nothing that the server could cause."""
        workers = min(PARALLEL_HEARTBEATS, len(self._line))
        await asyncio.gather(*(self._work() for _ in range(workers)))

    async def _work(self) -> None:
        while self._line and self._failed_in_a_row <= PARALLEL_HEARTBEATS:
            doubtful = self._failed_in_a_row == PARALLEL_HEARTBEATS
            await self._one(*(self._line.pop() if doubtful else self._line.popleft()))

    async def _one(self, workload_id: WorkloadId, identity: Identity) -> None:
        asked_at = self._clock.monotonic()
        try:
            await self._api.heartbeat(workload_id, identity)
        except TaskGone as gone:
            self.gone.append((workload_id, str(gone)))
        except TryAgain as error:
            self.failed += 1
            self._failed_in_a_row += 1
            log.debug("heartbeat_failed", workload_id=workload_id, error=str(error))
            return
        else:
            self.sent_at[workload_id] = asked_at
        self._failed_in_a_row = 0

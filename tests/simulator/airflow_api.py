"""The Execution API as a client meets it: the model behind a line that can be down, or lose answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from emr_executor.core.model import Identity
from emr_executor.ports import Clock
from tests.simulator.airflow import AirflowModel
from tests.simulator.airflow_entities import ApiSilent, TaskState, Token, mint
from tests.simulator.fault_profile import Shares

PHASE_TIMEOUT_S = 5.0
"""``[workers] execution_api_timeout``: how long a phase's client waits for an answer."""
AGENT_TIMEOUT_S = 20.0
"""``task.task_api.REQUEST_TIMEOUT_S``."""

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class ApiFaults(Shares):
    """What goes wrong on the line; one object for all clients, driven from outside.

    refused: share of calls that get no answer and have no effect
    answer_lost: share of calls that have their effect, and whose answer never comes
    is_down: no call gets through
    """

    refused: float = 0.0
    answer_lost: float = 0.0
    is_down: bool = False


class ExecutionApi:
    """One client of the Execution API. Every call may raise ApiSilent and ApiRefused.

    clock: of the client's host; tokens are minted by it
    timeout_s: how long a client waits for an answer that does not come
    """

    def __init__(
        self,
        airflow: AirflowModel,
        *,
        clock: Clock,
        rng: random.Random,
        faults: ApiFaults,
        timeout_s: float = PHASE_TIMEOUT_S,
    ) -> None:
        self._airflow, self._clock, self._rng, self._faults = airflow, clock, rng, faults
        self._timeout_s = timeout_s

    def mint(self, ti_id: str) -> Token:
        """A token of one try."""
        return mint(ti_id, self._clock.now().timestamp())

    async def run(
        self, ti_id: str, token: Token, identity: Identity, *, started_at: float
    ) -> tuple[bool, Token]:
        """``AirflowModel.run``, and the token to use from now on."""
        should_retry = await self._through(
            lambda: self._airflow.run(ti_id, token, identity, started_at=started_at)
        )
        return should_retry, self._airflow.refreshed(token)

    async def heartbeat(self, ti_id: str, token: Token, identity: Identity) -> Token:
        """``AirflowModel.heartbeat``; the token to use from now on."""
        await self._through(lambda: self._airflow.heartbeat(ti_id, token, identity))
        return self._airflow.refreshed(token)

    async def finish(self, ti_id: str, token: Token, state: TaskState, *, by: str) -> None:
        """``AirflowModel.finish``."""
        await self._through(lambda: self._airflow.finish(ti_id, token, state, by=by))

    async def _through(self, act: Callable[[], T]) -> T:
        faults = self._faults
        if faults.is_down or (faults.refused and self._rng.random() < faults.refused):
            faults.counts["api_refused"] += 1
            raise ApiSilent("simulated: the Execution API did not answer")
        answer = act()
        if faults.answer_lost and self._rng.random() < faults.answer_lost:
            faults.counts["api_answer_lost"] += 1
            await self._clock.sleep(self._timeout_s)
            raise ApiSilent("simulated: the answer of the Execution API was lost")
        return answer

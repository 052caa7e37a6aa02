"""``ports.TaskApi`` over the model of Airflow, as ``task.task_api`` is over HTTP: a token for each call."""

from __future__ import annotations

from datetime import datetime

from emr_executor.core.model import Identity, WorkloadId
from emr_executor.errors import TaskGone, TryAgain
from tests.simulator.airflow_api import ExecutionApi
from tests.simulator.airflow_entities import ApiRefused, ApiSilent, TaskState


class SimTaskApi:
    """The agent's client of the Execution API. ``api``: with the agent's clock and ``AGENT_TIMEOUT_S``."""

    def __init__(self, api: ExecutionApi) -> None:
        self._api = api

    async def heartbeat(self, workload_id: WorkloadId, identity: Identity) -> None:
        """Keep the try RUNNING. Raises TaskGone, TryAgain."""
        try:
            await self._api.heartbeat(workload_id, self._api.mint(workload_id), identity)
        except (ApiRefused, ApiSilent) as error:
            raise _as_production(error) from error

    async def fail_terminally(self, workload_id: WorkloadId, *, ended_at: datetime) -> None:
        """Set the try FAILED without a retry. Raises TaskGone, TryAgain."""
        del ended_at
        token = self._api.mint(workload_id)
        try:
            await self._api.finish(workload_id, token, TaskState.FAILED, by="fail_terminally")
        except (ApiRefused, ApiSilent) as error:
            raise _as_production(error) from error


def _as_production(error: ApiRefused | ApiSilent) -> TaskGone | TryAgain:
    """The ladder of ``HttpTaskApi._send``."""
    if isinstance(error, ApiSilent):
        return TryAgain(f"the Airflow API server did not answer: {error}")
    if error.status in (404, 410):
        return TaskGone(f"Airflow does not know the try any more ({error.status})")
    if error.status == 409 and error.reason in ("not_running", "invalid_state", "running_elsewhere"):
        return TaskGone(f"Airflow refused: {error.reason}")
    return TryAgain(f"the Airflow API server answered {error}")

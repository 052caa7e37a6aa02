"""Airflow's Execution API for parked tries (``ports.TaskApi``), from the agent's event loop.

A token is minted for each call and never kept: ``JWTGenerator`` with scope ``execution`` serves
heartbeats and the end alike (airflow/api_fastapi/execution_api/app.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Any

import httpx
import structlog

from emr_executor.core.model import Identity, WorkloadId
from emr_executor.errors import TaskGone, TokenRefused, TryAgain
from emr_executor.task import skew

log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_S = 20.0
REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
KEYS_DIFFER = (
    "clocks agree, so it has another signing key, audience or issuer: give agent and API server the same "
    "[api_auth] jwt_secret (or jwt_private_key_path), [execution_api] jwt_audience and [api_auth] jwt_issuer"
)
GONE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
ENDED = frozenset({"not_running", "invalid_state"})
"""Reasons of a 409: the first to a heartbeat, the second to an end, for a try that is not RUNNING."""


class HttpTaskApi:
    """One connection pool to the API server. ``mint`` gives a token for a task instance id."""

    def __init__(self, server_url: str, mint: Callable[[WorkloadId], str]) -> None:
        self._mint = mint
        self._is_refused = False
        self._client = httpx.AsyncClient(
            base_url=server_url,
            timeout=REQUEST_TIMEOUT_S,
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=32),
        )

    async def heartbeat(self, workload_id: WorkloadId, identity: Identity) -> None:
        """Keep the try RUNNING. Raises TaskGone, TryAgain."""
        body = {"hostname": identity.hostname, "pid": identity.pid}
        await self._send("PUT", workload_id, "heartbeat", body)

    async def fail_terminally(self, workload_id: WorkloadId, *, ended_at: datetime) -> None:
        """Set the try FAILED without a retry. Raises TaskGone, TryAgain."""
        body = {"state": "failed", "end_date": ended_at.isoformat()}
        await self._send("PATCH", workload_id, "state", body)

    async def probe(self) -> None:
        """Whether the server answers; it needs no token. Raises TryAgain."""
        try:
            answer = await self._client.get("health")
        except httpx.HTTPError as error:
            raise TryAgain(f"the Airflow API server did not answer: {error!r}") from error
        if answer.is_server_error:
            raise TryAgain(f"the Airflow API server answered {answer.status_code} to health")

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _send(self, method: str, workload_id: WorkloadId, what: str, body: dict[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {self._mint(workload_id)}"}
        url = f"task-instances/{workload_id}/{what}"
        try:
            response = await self._client.request(method, url, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise TryAgain(f"the Airflow API server did not answer: {error!r}") from error
        if response.is_success:
            if self._is_refused:
                self._is_refused = False
                log.info("api_server_takes_tokens_again")
            return
        reason = _reason(response)
        if response.status_code in REFUSED:
            raise self._refusal(response)
        if response.status_code in GONE:
            raise TaskGone(f"Airflow does not know the try any more ({response.status_code})")
        if response.status_code == HTTPStatus.CONFLICT and reason in ENDED:
            raise TaskGone("Airflow ended the try")
        if response.status_code == HTTPStatus.CONFLICT and reason == "running_elsewhere":
            raise TaskGone("Airflow runs the try elsewhere")
        raise TryAgain(f"the Airflow API server answered {response.status_code} {reason} to {what}")

    async def look_at_clock(self) -> None:
        """Log what is wrong with this host's clock, if anything; nothing when the API server is away."""
        with suppress(httpx.HTTPError):
            answer = await self._client.get("health", timeout=skew.PROBE_TIMEOUT_S)
            if problem := skew.problem_of_answer(answer):
                log.error("api_server_refuses_tokens", why=problem)
                self._is_refused = True

    def _refusal(self, answer: httpx.Response) -> TokenRefused:
        why = skew.problem_of_answer(answer) or KEYS_DIFFER
        if not self._is_refused:
            self._is_refused = True
            log.error("api_server_refuses_tokens", status=answer.status_code, why=why)
        return TokenRefused(f"the Airflow API server refuses our token ({answer.status_code}): {why}")


def _reason(response: httpx.Response) -> str:
    try:
        detail = response.json().get("detail")
    except ValueError:
        return response.text[:200]
    return str(detail.get("reason", detail)) if isinstance(detail, dict) else str(detail)

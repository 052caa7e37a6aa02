"""The Execution API as one phase uses it: Airflow's client, the stored identity, a token minted here."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import httpx
import tenacity
from airflow.sdk.api import client as sdk_client
from airflow.sdk.api.client import Client, TaskInstanceOperations
from airflow.sdk.api.datamodels._generated import (
    TaskInstanceState,
    TIEnterRunningPayload,
    TIHeartbeatInfo,
    TIRunContext,
)

from emr_executor.core.model import Identity, Workload
from emr_executor.core.states import WorkloadState
from emr_executor.errors import Bug
from emr_executor.task.phase_result import LONGEST_PAUSE_S
from emr_executor.task.ticker import Ticker
from emr_executor.task.tokens import token_mint


def _intended(name: str, state: TaskInstanceState) -> Any:
    """Airflow's way ``name`` to end a try, the intent written before."""
    original = getattr(TaskInstanceOperations, name)

    def end(self: Any, *args: Any, **kwargs: Any) -> None:
        self._intend(state)
        original(self, *args, **kwargs)

    return end


class _StoredIdentity(TaskInstanceOperations):
    """``/run`` and heartbeat under the identity and start date stored for the try."""

    __slots__ = ("_started_at", "_stored", "_without_clearing")

    def __init__(self, client: PhaseClient, workload: Workload) -> None:
        super().__init__(client)
        if workload.identity is None or workload.started_at is None:
            raise Bug(f"workload {workload.workload_id} runs a phase without a stored identity")
        self._stored: Identity = workload.identity
        self._started_at = workload.started_at
        self._without_clearing = workload.state is WorkloadState.FINISHING

    def start(self, id: Any, pid: int, when: datetime) -> TIRunContext:  # noqa: A002 - Airflow's name
        """``/run``, the same each time: accepted again while the try is RUNNING."""
        del pid, when
        body = TIEnterRunningPayload(
            hostname=self._stored.hostname,
            unixname=self._stored.unixname,
            pid=self._stored.pid,
            start_date=self._started_at,
        )
        answer = self.client.patch(f"task-instances/{id}/run", content=body.model_dump_json())
        context = TIRunContext.model_validate_json(answer.read())
        context.start_date = context.start_date or self._started_at
        if self._without_clearing:
            context.xcom_keys_to_clear = []  # What prepare pushed stays.
        return context

    succeed = _intended("succeed", TaskInstanceState.SUCCESS)
    retry = _intended("retry", TaskInstanceState.UP_FOR_RETRY)
    defer = _intended("defer", TaskInstanceState.DEFERRED)
    reschedule = _intended("reschedule", TaskInstanceState.UP_FOR_RESCHEDULE)

    def finish(self, id: Any, state: Any, *args: Any, **kwargs: Any) -> None:  # noqa: A002 - Airflow's name
        """As Airflow's, the intent written before."""
        self._intend(state)
        super().finish(id, state, *args, **kwargs)

    def _intend(self, state: Any) -> None:
        ticker: Ticker | None = self.client.ticker
        if ticker is not None:
            ticker.intend(str(getattr(state, "value", state)))

    def heartbeat(self, id: Any, pid: int) -> None:  # noqa: A002 - Airflow's name
        """A heartbeat that Airflow matches with ``start``'s identity."""
        del pid
        body = TIHeartbeatInfo(hostname=self._stored.hostname, pid=self._stored.pid)
        self.client.put(f"task-instances/{id}/heartbeat", content=body.model_dump_json())


class PhaseClient(Client):
    """Airflow's client for one phase: the stored identity, and waits that show signs of life."""

    def __init__(self, workload: Workload, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._operations = _StoredIdentity(self, workload)
        self.ticker: Ticker | None = None
        self.patience_s = 0.0

    @property
    def task_instances(self) -> TaskInstanceOperations:
        """See ``_StoredIdentity``."""
        return self._operations

    def request(self, method: str, url: Any, **kwargs: Any) -> httpx.Response:
        """As Airflow's, its retries included, and more of them: for ``patience_s`` at least.

        A call that fails fails user code, whose step may have run for hours. Between the attempts the claim
        is renewed. A heartbeat is tried once: it is sent again soon anyway.
        """
        stop: Any = tenacity.stop_all(
            tenacity.stop_after_attempt(sdk_client.API_RETRIES), tenacity.stop_after_delay(self.patience_s)
        )
        # By method and both ends: a variable or an XCom may be called "heartbeat", too.
        if method == "PUT" and re.fullmatch(r"task-instances/[^/]+/heartbeat", str(url)):
            stop = tenacity.stop_after_attempt(1)
        wait = tenacity.wait_random_exponential(
            min=min(sdk_client.API_RETRY_WAIT_MIN, LONGEST_PAUSE_S),
            max=min(sdk_client.API_RETRY_WAIT_MAX, LONGEST_PAUSE_S),
        )
        return Client.request.retry_with(sleep=self._sleep, stop=stop, wait=wait)(self, method, url, **kwargs)

    def _sleep(self, delay_s: float) -> None:
        if self.ticker is None:
            time.sleep(delay_s)
        else:
            self.ticker.sleep(delay_s)


def warm_up() -> None:
    """Build Airflow's TLS context once, for every process forked from this one."""
    PhaseClient._get_ssl_context_cached(sdk_client.API_SSL_CA_FILE_PATH, sdk_client.API_SSL_CERT_PATH)


@contextmanager
def api_client(workload: Workload) -> Iterator[PhaseClient]:
    """A client with a token of its own, closed at the end."""
    from airflow.executors.base_executor import get_execution_api_server_url

    limits = httpx.Limits(max_keepalive_connections=1, max_connections=10)
    client = PhaseClient(
        workload,
        base_url=get_execution_api_server_url(),
        token=token_mint()(workload.workload_id),
        limits=limits,
    )
    try:
        yield client
    finally:
        with suppress(Exception):
            client.close()

"""The supervisor of one phase: Airflow's own ``ActivitySubprocess``, changed where a parked try differs.

It runs in a process of its own, forked by the task host, and forks the task runner. It speaks
to the Execution API under the identity stored for the try, whatever host and pid it has itself
(facts 3 and 4), and writes the phase's result to the store, guarded by the row's claim.

This file holds all use of private names of Airflow's SDK on the supervisor's side; ``child``
and its two users hold the task runner's. All were read in Airflow 3.3 (``check_airflow``).
"""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, get_args

import attrs
import httpx
import structlog
from airflow import __version__ as airflow_version
from airflow.sdk._shared.secrets_masker import reset_secrets_masker
from airflow.sdk.api.client import Client, ServerResponseError, TaskInstanceOperations
from airflow.sdk.api.datamodels._generated import (
    BundleInfo,
    TaskInstance,
    TIEnterRunningPayload,
    TIHeartbeatInfo,
    TIRunContext,
)
from airflow.sdk.exceptions import ErrorType
from airflow.sdk.execution_time import supervisor as sdk
from airflow.sdk.execution_time.comms import ErrorResponse, RescheduleTask, ToSupervisor
from pydantic import Field, TypeAdapter

from emr_executor.core.model import Identity, Workload
from emr_executor.core.states import WorkloadState
from emr_executor.errors import Bug, ConfigError, StaleWriter, WorkloadRejected
from emr_executor.task import finish, prepare
from emr_executor.task.child import ChildSetup
from emr_executor.task.masking import known_secrets
from emr_executor.task.messages import FinishBegan, Park
from emr_executor.task.results import PhaseResults, ResultsFactory, backoff_s
from emr_executor.task.staging import Staging, client_config, s3_client_of
from emr_executor.task.wire import Phase

log = structlog.get_logger(__name__)

SUPPORTED_MINORS = ("3.3",)
NOT_WANTED = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.CONFLICT})
"""The Execution API's answers that mean: this try is no longer to run."""
EXIT_NO_RESULT = 75
"""Exit code of a supervisor that wrote no result: its claim runs out and the phase runs again."""
_STORE_ATTEMPTS = 6
_STORE_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseReport:
    """The end of a phase. masks: values to redact from driver output, for memory only."""

    exit_code: int
    masks: tuple[str, ...] = ()


def check_airflow() -> None:
    """Raises ConfigError for an Airflow minor whose private classes nobody has read yet."""
    minor = ".".join(airflow_version.split(".")[:2])
    if minor not in SUPPORTED_MINORS:
        raise ConfigError(
            [
                f"this emr_executor knows Airflow {', '.join(SUPPORTED_MINORS)} and not {airflow_version}; upgrade it"
            ]
        )


def run_phase(phase: Phase, open_results: ResultsFactory) -> PhaseReport:
    """Run one prepare or finish phase to its end, in this process and a child of it.

    Writes the phase's result; raises nothing that a caller could act on.
    """
    sdk._make_process_nondumpable()
    results = open_results(phase.workload_id, phase.claim_token)
    exit_code = EXIT_NO_RESULT
    with _api_client(phase.workload) as client, _task_logger(phase.workload, client) as logger:
        sdk.ensure_secrets_backend_loaded()
        reset_secrets_masker()
        try:
            exit_code = _supervise(phase, results, client, logger)
        except StaleWriter:
            log.warning("phase_claim_lost", workload_id=phase.workload_id)
    return PhaseReport(exit_code=exit_code, masks=known_secrets())


def _supervise(phase: Phase, results: PhaseResults, client: PhaseClient, logger: Any) -> int:
    workload = phase.workload
    delay_s = backoff_s(workload.phase_attempts)
    ticker = Ticker(results)
    client.ticker = ticker
    try:
        process = _start(phase, results, ticker, client, logger)
    except httpx.HTTPStatusError as error:
        if error.response.status_code in NOT_WANTED:
            ticker.write(
                functools.partial(results.gone, f"Airflow no longer wants the try: {_reason(error)}")
            )
        else:
            note = f"the Execution API refused to start the phase: {error}"
            ticker.write(functools.partial(results.retry, delay_s, note))
        return 0
    except httpx.RequestError as error:
        ticker.write(functools.partial(results.retry, delay_s, f"no answer from the Execution API: {error}"))
        return 0
    failure: httpx.HTTPError | None = None
    try:
        process.wait()
    except httpx.HTTPError as error:
        failure = error
    _write_result(process, ticker, failure, delay_s)
    return int(process._exit_code or 0)


def _start(
    phase: Phase, results: PhaseResults, ticker: Ticker, client: PhaseClient, logger: Any
) -> PhaseProcess:
    workload, settings = phase.workload, phase.settings
    is_finish = workload.state is WorkloadState.FINISHING
    if not is_finish and workload.state is not WorkloadState.PREPARING:
        raise Bug(f"workload {workload.workload_id} is {workload.state}: there is no such phase")
    pool = settings.pool_named(workload.cluster_pool) or settings.pool_of_queue(workload.queue)
    setup = ChildSetup(workload=workload)
    if pool is not None:
        setup = ChildSetup(workload=workload, deploy_mode=pool.deploy_mode, yarn_queue=pool.yarn_queue)
    return PhaseProcess.start(
        what=TaskInstance.model_validate(workload.workload["ti"]),
        dag_rel_path=workload.workload["dag_rel_path"],
        bundle_info=BundleInfo.model_validate(workload.workload["bundle_info"]),
        sentry_integration=workload.workload.get("sentry_integration", ""),
        client=client,
        logger=logger,
        target=functools.partial(finish.main if is_finish else prepare.main, setup),
        results=results,
        ticker=ticker,
        phase=phase,
        is_finish=is_finish,
    )


def _write_result(
    process: PhaseProcess, ticker: Ticker, failure: httpx.HTTPError | None, delay_s: float
) -> None:
    """Store what the phase came to, once. Nothing for a parked one (stored already) or a lost claim."""
    results = process.results
    if process.is_stale:
        raise StaleWriter(f"the claim of workload {process.phase.workload_id} was lost while its phase ran")
    if process.parked:
        return
    if process._terminal_state == sdk.SERVER_TERMINATED:
        write = functools.partial(results.gone, "Airflow no longer wants the try (answer to a heartbeat)")
    elif isinstance(failure, httpx.HTTPStatusError) and failure.response.status_code in NOT_WANTED:
        write = functools.partial(results.gone, f"Airflow no longer wants the try: {_reason(failure)}")
    elif failure is not None:
        write = functools.partial(results.retry, delay_s, f"Airflow could not be told of the end: {failure}")
    elif note := process.unfinished():
        write = functools.partial(results.retry, delay_s, note)
    else:
        write = functools.partial(results.over, str(process.final_state))
    ticker.write(write)


def _reason(error: httpx.HTTPStatusError) -> str:
    detail = getattr(error, "detail", None)
    words = detail if isinstance(detail, dict) else {}
    parts = [str(words[key]) for key in ("reason", "message", "previous_state") if words.get(key)]
    return f"{error.response.status_code} {', '.join(parts)}".strip()


class Ticker:
    """The phase's sign of life while something in this one thread takes long."""

    def __init__(
        self,
        results: PhaseResults,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._results = results
        self._monotonic = monotonic
        self._sleep = sleep
        self._last: float | None = None
        self.heartbeat: Callable[[], None] = lambda: None

    def tick(self) -> None:
        """Renew the claim if ``[workers] min_heartbeat_interval`` has passed. Raises StaleWriter."""
        now = self._monotonic()
        if self._last is not None and now - self._last < sdk.MIN_HEARTBEAT_INTERVAL:
            return
        self._last = now
        try:
            self._results.renew()
        except StaleWriter:
            raise
        except Exception:
            log.warning("claim_not_renewed", exc_info=True)

    def work(self) -> None:
        """A tick with the heartbeat to Airflow that goes with it."""
        self.tick()
        self.heartbeat()

    def sleep(self, delay_s: float) -> None:
        """Wait, ticking. Raises StaleWriter."""
        end = self._monotonic() + delay_s
        while (left := end - self._monotonic()) > 0:
            self._sleep(min(left, 1.0))
            self.tick()

    def write(self, write: Callable[[], None]) -> None:
        """Write a result, several times if the store does not answer. Raises StaleWriter, or the last error."""
        for attempt in range(1, _STORE_ATTEMPTS + 1):
            try:
                return write()
            except StaleWriter:
                raise
            except Exception:
                if attempt == _STORE_ATTEMPTS:
                    raise
                log.warning("result_not_written", attempt=attempt, exc_info=True)
                self._sleep(_STORE_PAUSE_S * attempt)
        raise Bug("unreachable")


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

    @property
    def task_instances(self) -> TaskInstanceOperations:
        """See ``_StoredIdentity``."""
        return self._operations

    def request(self, *args: Any, **kwargs: Any) -> httpx.Response:
        """As Airflow's, its retries included; between them the claim is renewed."""
        patient = Client.request.retry_with(sleep=self._sleep)
        return patient(self, *args, **kwargs)

    def _sleep(self, delay_s: float) -> None:
        if self.ticker is None:
            time.sleep(delay_s)
        else:
            self.ticker.sleep(delay_s)


_Message = Annotated[get_args(ToSupervisor)[0] | Park | FinishBegan, Field(discriminator="type")]


@attrs.define(kw_only=True)
class PhaseProcess(sdk.ActivitySubprocess):
    """The task runner of one phase, seen from its supervisor.

    parked: the step is staged and stored; whatever the child says after that changes nothing
    is_stale: the claim was lost, somebody else runs this phase
    """

    decoder: ClassVar[TypeAdapter[Any]] = TypeAdapter(_Message)

    results: PhaseResults
    ticker: Ticker
    phase: Phase
    is_finish: bool
    parked: bool = attrs.field(default=False, init=False)
    is_stale: bool = attrs.field(default=False, init=False)
    _began: bool = attrs.field(default=False, init=False)
    _held: bool = attrs.field(default=False, init=False)

    def unfinished(self) -> str | None:
        """Why a finish phase did not end the try, or None when it did; prepare always ends one way."""
        if not self.is_finish or self._terminal_state is not None:
            return None
        if self._held:
            return "the DAG or its task is missing from the DAG file; the outcome is held"
        if not self._began or self._exit_code != 0:
            return f"the finish process ended early, exit code {self._exit_code}"
        return None

    def update_task_state_if_needed(self) -> None:
        """Tell Airflow how the child ended, unless it is parked, held or run again."""
        if self.parked or self.is_stale or self._terminal_state == sdk.SERVER_TERMINATED or self.unfinished():
            return
        if self._pending_terminal_state_msg is not None:
            # Not by the stock replay, which would swallow the answer that decides what is stored.
            self._send_terminal_state_msg(self._pending_terminal_state_msg)
            return
        super().update_task_state_if_needed()

    def _send_heartbeat_if_needed(self) -> None:
        self._tick()
        super()._send_heartbeat_if_needed()

    def _tick(self) -> None:
        try:
            self.ticker.tick()
        except StaleWriter:
            self._abandon()

    def _abandon(self) -> None:
        """The claim is lost: this phase must leave no trace from here on."""
        self.is_stale = True
        with suppress(Exception):
            self._signal_subprocess(signal.SIGKILL)

    def _handle_request(self, msg: Any, log: Any, req_id: int) -> None:
        if self.parked or self.is_stale:
            self.send_msg(None, request_id=req_id)
        elif isinstance(msg, Park):
            self._park(msg, req_id)
        elif isinstance(msg, FinishBegan):
            self._began = True
            self.send_msg(None, request_id=req_id)
        elif isinstance(msg, RescheduleTask) and self.is_finish and not self._began:
            # A DAG missing at parse: passed on, the finished step would run again (fact 8).
            self._held = True
            self.send_msg(None, request_id=req_id)
        else:
            super()._handle_request(msg, log, req_id)

    def _park(self, park: Park, req_id: int) -> None:
        error: ErrorResponse | None = None
        try:
            step = Staging(
                self.phase.settings, self._s3_client(), beat=self.ticker.work, sleep=self.ticker.sleep
            ).complete(park)
            self.ticker.write(functools.partial(self.results.parked, step))
            self.parked = True
            self.process_log.info(
                "Parked: the step is ready and waits for a slot on an EMR cluster.",
                staged_files=len(park.files),
            )
        except StaleWriter:
            self._abandon()
            return
        except WorkloadRejected as rejection:
            error = _answer(type(rejection).__name__, str(rejection))
        self.send_msg(None, request_id=req_id, error=error)

    def _s3_client(self) -> Any:
        access = self.phase.settings.aws
        if access.aws_conn_id is None:
            return s3_client_of(access)
        from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
        from airflow.sdk.execution_time.context import _preset_connections

        connection = sdk._fetch_remote_logging_conn(access.aws_conn_id, self.client)
        if connection is None:
            raise WorkloadRejected(
                f"the connection {access.aws_conn_id!r} of [emr_executor] aws_conn_id does not exist"
            )
        known = _preset_connections.set({access.aws_conn_id: connection})
        try:
            session = AwsGenericHook(
                aws_conn_id=access.aws_conn_id, region_name=access.region_name
            ).get_session()
            return session.client("s3", endpoint_url=access.endpoint_url, config=client_config(access))
        finally:
            _preset_connections.reset(known)


def _answer(kind: str, message: str) -> ErrorResponse:
    return ErrorResponse(error=ErrorType.GENERIC_ERROR, detail={prepare.REJECTION: kind, "message": message})


@contextmanager
def _api_client(workload: Workload) -> Iterator[PhaseClient]:
    from airflow.executors.base_executor import get_execution_api_server_url

    limits = httpx.Limits(max_keepalive_connections=1, max_connections=10)
    client = PhaseClient(
        workload, base_url=get_execution_api_server_url(), token=_mint_token(workload), limits=limits
    )
    try:
        yield client
    finally:
        with suppress(Exception):
            client.close()


def _mint_token(workload: Workload) -> str:
    """A token of this try alone, as BaseExecutor.jwt_generator makes them. Never stored, never logged."""
    from airflow.api_fastapi.auth.tokens import JWTGenerator, get_signing_args
    from airflow.configuration import conf

    generator = JWTGenerator(
        valid_for=conf.getint("execution_api", "jwt_expiration_time"),
        audience=conf.get_mandatory_list_value("execution_api", "jwt_audience")[0],
        issuer=conf.get("api_auth", "jwt_issuer", fallback=None),
        **get_signing_args(make_secret_key_if_needed=False),
    )
    return str(generator.generate({"sub": workload.workload_id, "scope": "execution"}))


@contextmanager
def _task_logger(workload: Workload, client: Client) -> Iterator[Any]:
    """The try's ordinary log file, opened for append, as Airflow's own supervisor opens it."""
    if workload.log_path is None:
        yield None
        return
    logger, file = sdk._configure_logging(workload.log_path, client)
    try:
        yield logger
    finally:
        file.close()

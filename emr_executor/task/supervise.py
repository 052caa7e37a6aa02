"""The supervisor of one phase: Airflow's own ``ActivitySubprocess``, changed where a parked try differs.

It runs in a process of its own, forked by the task host, and forks the task runner. It speaks
to the Execution API under the identity stored for the try, whatever host and pid it has itself
(facts 3 and 4), and writes the phase's result to the store, guarded by the row's claim.

This file holds all use of private names of Airflow's SDK on the supervisor's side; ``child``
and its two users hold the task runner's. All were read in Airflow 3.3; the executor refuses other minors.
"""

from __future__ import annotations

import functools
import operator
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast, get_args

import attrs
import httpx
import structlog
from airflow.sdk._shared.secrets_masker import reset_secrets_masker
from airflow.sdk.api.datamodels._generated import BundleInfo, TaskInstance, TaskInstanceState
from airflow.sdk.exceptions import ErrorType
from airflow.sdk.execution_time import supervisor as sdk
from airflow.sdk.execution_time.comms import ErrorResponse, RescheduleTask, RetryTask, ToSupervisor
from airflow.sdk.log import init_log_file, logging_processors
from pydantic import Field, TypeAdapter

from emr_executor.aws.access import way_of
from emr_executor.core.model import Workload
from emr_executor.core.states import WorkloadState
from emr_executor.errors import Bug, ConfigError, StaleWriter, TryAgain, WorkloadRejected
from emr_executor.task import finish, prepare
from emr_executor.task.api import PhaseClient, api_client
from emr_executor.task.child import ChildSetup
from emr_executor.task.masking import in_one_line, known_secrets
from emr_executor.task.messages import FinishBegan, Park
from emr_executor.task.phase_result import EXIT_NO_RESULT, supervise
from emr_executor.task.results import PhaseResults, ResultsFactory
from emr_executor.task.staging import Staging
from emr_executor.task.ticker import Ticker
from emr_executor.task.wire import Phase, PhaseReply
from emr_executor.tolerant_streams import LossyFile

log = structlog.get_logger(__name__)

_EXIT_POLL_S = 0.01


def run_phase(phase: Phase, open_results: ResultsFactory) -> PhaseReply:
    """Run one prepare or finish phase to its end, in this process and a child of it.

    Writes the phase's result; raises nothing that a caller could act on.
    """
    sdk._make_process_nondumpable()
    results = open_results(phase.workload_id, phase.claim_token)
    exit_code = EXIT_NO_RESULT
    with api_client(phase.workload) as client, _task_logger(phase.workload, client) as logger:
        sdk.ensure_secrets_backend_loaded()
        reset_secrets_masker()
        try:
            exit_code = _supervise(phase, results, client, logger)
        except StaleWriter:
            log.warning("phase_claim_lost", workload_id=phase.workload_id)
    return PhaseReply(id=phase.id, exit_code=exit_code, masks=known_secrets())


def _supervise(phase: Phase, results: PhaseResults, client: PhaseClient, logger: Any) -> int:
    patience_s = client.patience_s = phase.settings.outage_s
    ticker = client.ticker = Ticker(results, interval_s=sdk.MIN_HEARTBEAT_INTERVAL, patience_s=patience_s)
    start = functools.partial(_start, phase, results, ticker, client, logger)
    return supervise(start, phase.workload, results, ticker)


def _start(
    phase: Phase, results: PhaseResults, ticker: Ticker, client: PhaseClient, logger: Any
) -> PhaseProcess:
    workload, settings = phase.workload, phase.settings
    is_finish = workload.state is WorkloadState.FINISHING
    if not is_finish and workload.state is not WorkloadState.PREPARING:
        raise Bug(f"workload {workload.workload_id} is {workload.state}: there is no such phase")
    pool = settings.pool_named(workload.cluster_pool) or settings.pool_of_queue(workload.queue)
    setup = ChildSetup.of(workload, pool)
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


if TYPE_CHECKING:
    _Message = Any
else:
    # Airflow's own union of messages with ours: operator.or_, because get_args is no type to mypy.
    _Message = Annotated[
        functools.reduce(operator.or_, (get_args(ToSupervisor)[0], Park, FinishBegan)),
        Field(discriminator="type"),
    ]


@attrs.define(kw_only=True)
class PhaseProcess(sdk.ActivitySubprocess):
    """The task runner of one phase, seen from its supervisor.

    parked: the step is staged and stored; whatever the child says after that changes nothing
    reported_state: what Airflow was told for a child that said nothing itself
    is_in_outage: it was ended because something that it needs is away
    """

    decoder: ClassVar[TypeAdapter[Any]] = TypeAdapter(_Message)

    results: PhaseResults
    ticker: Ticker
    phase: Phase
    is_finish: bool
    parked: bool = attrs.field(default=False, init=False)
    reported_state: str | None = attrs.field(default=None, init=False)
    is_in_outage: bool = attrs.field(default=False, init=False)
    _began: bool = attrs.field(default=False, init=False)
    _held: bool = attrs.field(default=False, init=False)
    _is_killed: bool = attrs.field(default=False, init=False)
    _abandoned_why: str | None = attrs.field(default=None, init=False)
    _last_beat: float = attrs.field(default=0.0, init=False)

    @property
    def exit_code(self) -> int:
        """See ``TaskRunner``, as for the others."""
        return int(self._exit_code or 0)

    @property
    def is_refused(self) -> bool:
        """The stock supervisor's state for it."""
        return bool(self._terminal_state == sdk.SERVER_TERMINATED)

    @property
    def told_state(self) -> str:
        """By the child, or for it."""
        state = self.reported_state or self.final_state
        return str(getattr(state, "value", state))

    def unfinished(self) -> str | None:
        """Abandoned, or in finish: held, or ended without a word."""
        if self._abandoned_why:
            return self._abandoned_why
        if self._terminal_state or self._pending_terminal_state_msg or not self.is_finish:
            return None
        if self._held:
            return "the DAG or its task is missing from the DAG file; the outcome is held"
        return f"the finish process ended early, exit code {self._exit_code}"

    def update_task_state_if_needed(self) -> None:
        """Tell Airflow how the child ended, unless it is parked, held or run again."""
        if self.parked or self.ticker.is_lost or self.unfinished():
            return
        if self._pending_terminal_state_msg is not None:
            # Not by the stock replay, which would swallow the answer that decides what is stored.
            self._send_terminal_state_msg(self._pending_terminal_state_msg)
            return
        if self._terminal_state is None:
            self._report_unspoken_end()
            return
        super().update_task_state_if_needed()

    def _report_unspoken_end(self) -> None:
        """The child died, or exited without a word: up for retry or failed, as `/run` said.

        The stock code would let exit code 0 pass for success, and ask for UP_FOR_RETRY where the API
        takes terminal states only.
        """
        if self._exit_code == 0:
            self.process_log.error("The task's process ended without saying how the task ended.")
        now = datetime.now(UTC)
        if self._should_retry:
            self._send_terminal_state_msg(RetryTask(end_date=now))
            return
        state = TaskInstanceState.FAILED
        self.client.task_instances.finish(self.id, state, now, self._rendered_map_index)
        self.reported_state = state.value

    def kill(self, *args: Any, **kwargs: Any) -> None:
        """End the child; whatever it still asks for, it does not park."""
        self._is_killed = True
        super().kill(*args, **kwargs)

    def _handle_heartbeat_failures(self, exc: Exception) -> None:
        """Unlike Airflow's, which ends user code after a few failures and reports a failed try.

        The API server is away or does not serve; nothing says that the try is not wanted. User code goes on
        as long as Airflow cannot have taken the try for dead. After that the phase is ended, before it can
        take this for a failure of its own, and runs again.
        """
        self.failed_heartbeats += 1
        unheard_s = time.monotonic() - self._last_successful_heartbeat
        if self.failed_heartbeats == 1:
            log.warning("heartbeat_failed", ti_id=self.id, error=repr(exc))
        if unheard_s < self.phase.settings.outage_s:
            return
        self.process_log.warning(
            "No heartbeat gets through to Airflow's API server: this is ended and run again soon.",
            failed_heartbeats=self.failed_heartbeats,
        )
        self.is_in_outage = True
        self._abandon(f"no heartbeat got through to the Execution API, last: {exc!r}")

    def _service_subprocess(self, max_wait_time: float, *args: Any, **kwargs: Any) -> Any:
        """As Airflow's, but a child that has closed its channels is looked at again at once.

        There is nothing left to wake the stock code then, and it sleeps out its heartbeat interval
        when the end of the process comes a moment after that of its channels.
        """
        if not self._open_sockets:
            max_wait_time = min(max_wait_time, _EXIT_POLL_S)
        return super()._service_subprocess(max_wait_time, *args, **kwargs)

    def _check_subprocess_exit(
        self, raise_on_timeout: bool = False, expect_signal: int | None = None
    ) -> int | None:
        """As Airflow's, which calls every SIGKILL "Likely out of memory" in the task's log: not our own."""
        if self._abandoned_why:
            expect_signal = signal.SIGKILL
        code: int | None = super()._check_subprocess_exit(raise_on_timeout, expect_signal)
        return code

    def _send_heartbeat_if_needed(self) -> None:
        self._tick()
        super()._send_heartbeat_if_needed()

    def _tick(self) -> None:
        try:
            self.ticker.tick()
        except StaleWriter as stale:
            self._abandon(str(stale))

    def _abandon(self, why: str) -> None:
        """End the child before it can have an effect; Airflow is told nothing."""
        self._abandoned_why = why
        with suppress(Exception):
            self._signal_subprocess(signal.SIGKILL)

    def _handle_request(self, msg: Any, log: Any, req_id: int) -> None:
        if self.parked or self.ticker.is_lost or self._abandoned_why:
            self.send_msg(None, request_id=req_id)
        elif isinstance(msg, Park) and self._is_killed:
            self._abandon("the phase was to end when it asked to park")
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
            try:
                super()._handle_request(msg, log, req_id)
            except StaleWriter as stale:
                # It asked to tell Airflow its end, which is another process's to tell by now.
                self._abandon(str(stale))

    def _park(self, park: Park, req_id: int) -> None:
        error: ErrorResponse | None = None
        try:
            staging = Staging(
                self.phase.settings, self._s3_client(), beat=self._beat, sleep=self.ticker.sleep
            )
            step = staging.complete(park)
            self.process_log.info(f"The step's command: {in_one_line(step.command)}")
            self.ticker.write(functools.partial(self.results.parked, step), meanwhile=self._beat)
            self.parked = True
            self.process_log.info(
                "Parked: the step is ready and waits for a slot on an EMR cluster.",
                staged_files=len(park.files),
            )
        except StaleWriter as stale:
            self._abandon(f"the step was staged and could not be stored: {stale}")
            return
        except TryAgain as later:
            # Not the task's fault, S3 or the store is away: it may not fail for it.
            self.process_log.warning(
                "The task cannot be parked now and is prepared again soon.", why=str(later)
            )
            self.is_in_outage = True
            self._abandon(f"the step could not be staged or stored: {later}")
            return
        except WorkloadRejected as rejection:
            error = _answer(type(rejection).__name__, str(rejection))
        self.send_msg(None, request_id=req_id, error=error)

    def _beat(self) -> None:
        """Signs of life while a request of the child's is being served. Raises StaleWriter."""
        self.ticker.tick()
        now = time.monotonic()
        if now - self._last_beat < sdk.MIN_HEARTBEAT_INTERVAL:
            return
        self._last_beat = now
        # Not the stock heartbeat, which may end the child, and that from inside its own request. A
        # refusal is met by the next heartbeat.
        with suppress(httpx.HTTPError):
            self.client.task_instances.heartbeat(self.id, self.pid)

    def _s3_client(self) -> Any:
        access = self.phase.settings.aws
        if access.aws_conn_id is None:
            return way_of(access).client("s3")
        from airflow.sdk.execution_time.context import _preset_connections

        connection = sdk._fetch_remote_logging_conn(access.aws_conn_id, self.client)
        if connection is None:
            raise WorkloadRejected(
                f"the connection {access.aws_conn_id!r} of [emr_executor] aws_conn_id does not exist"
            )
        known = _preset_connections.set({access.aws_conn_id: connection})
        try:
            return way_of(access).client("s3")
        except ConfigError as error:
            raise WorkloadRejected(str(error)) from error
        finally:
            _preset_connections.reset(known)


def _answer(kind: str, message: str) -> ErrorResponse:
    return ErrorResponse(error=ErrorType.GENERIC_ERROR, detail={prepare.REJECTION: kind, "message": message})


@contextmanager
def _task_logger(workload: Workload, client: PhaseClient) -> Iterator[Any]:
    """The try's ordinary log file, opened for append, as Airflow's own supervisor opens it.

    But a line that cannot be written is dropped: with Airflow's, a full disk ends the supervisor in the
    middle of user code.
    """
    if workload.log_path is None:
        yield None
        return
    with LossyFile(functools.partial(_open_log, workload.log_path)) as file:
        file.write(b"")
        with sdk._remote_logging_conn(client):
            processors = logging_processors(json_output=True)
        underlying = structlog.BytesLogger(cast("Any", file))
        yield structlog.wrap_logger(underlying, processors=processors, logger_name="task").bind()


def _open_log(log_path: str) -> int:
    return os.open(init_log_file(log_path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o664)

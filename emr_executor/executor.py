"""SCHEDULER PROCESS. ``EmrExecutor``: takes workloads over, hands outcomes back, adopts, revokes.

It runs inside the scheduler's loop, where anything raised ends the scheduler for every executor:
so it only reads and writes a few rows, starts nothing before ``start``, and lets nothing escape.
A configuration that cannot be used puts it in a *refusing* state (``refusal``); all else goes on.

Parked tries are not in ``running`` and occupy no slot of ``[core] parallelism``: the base class
would stop queueing at that number, and a parked try costs the scheduler nothing. Phases are bounded by
the agent's ``task_runner_parallelism``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Concatenate, TypeVar
from uuid import UUID

from airflow.executors import workloads
from airflow.executors.base_executor import BaseExecutor
from airflow.utils.state import TaskInstanceState
from sqlalchemy import Connection, select
from sqlalchemy.orm import object_session

from emr_executor.agent_process import AgentProcess
from emr_executor.airflow_mapping import airflow_key, is_of_the_row, savepoint, to_workload, workload_id_of
from emr_executor.config import Settings
from emr_executor.config_load import executor_problem, load_settings, refusal_hold_s
from emr_executor.config_refusal import Refusal, never_stored, refuse_unknown_airflow, tell_refused
from emr_executor.core.model import Workload, WorkloadId
from emr_executor.errors import ConfigError
from emr_executor.executor_watch import ExecutorWatch, tell_failure
from emr_executor.parked_tries import ATTEMPTS_TO_STORE, OUTCOMES_A_SYNC, ParkedTries
from emr_executor.store import scheduler_store
from emr_executor.store.revision import tables_problem

if TYPE_CHECKING:
    from airflow.executors.workloads import ExecutorWorkload
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.taskinstancekey import TaskInstanceKey
    from sqlalchemy.orm import Session

ALONE_A_SYNC = 20
"""So many of those that could not be stored together are stored one by one in one loop of the scheduler."""

_T = TypeVar("_T")


class EmrExecutor(BaseExecutor):
    """Routes the tasks of its queues to a managed pool of EMR clusters.

    Written into airflow.cfg behind the executor for all other tasks:
    ``[core] executor = LocalExecutor,emr_executor.EmrExecutor``.
    """

    serve_logs = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings: Settings | None = None
        self._refusal: Refusal | None = None
        self._agent: AgentProcess | None = None
        self._tries: ParkedTries[TaskInstanceKey] = ParkedTries()
        self._watch: ExecutorWatch | None = None

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Read the configuration and start the agent. Ends a scheduler that would give us all tasks."""
        order = executor_problem()
        problems = [*([order] if order else []), *self._read_configuration()]
        if problems:
            self._settings = None
            self._refuse(str(ConfigError(problems)), ends_scheduler=order is not None)
        if self._settings is not None:
            self._watch = ExecutorWatch(self.log, self._settings)
            if self._settings.agent == "child":
                self._agent = AgentProcess(
                    self.log, hang_s=self._settings.agent_hang_s, on_restart=self._watch.restarted
                )

    def end(self) -> None:
        """Ask the agent to end and do not wait: parked tasks go on without a scheduler."""
        if self._agent is not None:
            self._agent.stop()

    def terminate(self) -> None:
        """Nothing: steps outlive the scheduler."""

    @property
    def refusal(self) -> str | None:
        """Why this executor takes no task, or None."""
        return self._refusal.problems if self._refusal else None

    # -- from the scheduler ----------------------------------------------------------------------

    def queue_workload(self, workload: ExecutorWorkload, session: Session) -> None:
        """Store the workload in the scheduler's own transaction: it stands or falls with QUEUED."""
        if not isinstance(workload, workloads.ExecuteTask):
            raise NotImplementedError(
                f"EmrExecutor runs tasks only; {type(workload).__name__} belongs to the executor before it"
            )
        if self._settings is None:
            self._hold(workload)
            return
        try:
            accepted = to_workload(workload, self._settings, self._job_id, datetime.now(tz=UTC))
        except Exception as error:  # noqa: BLE001 - an escape here would stop the scheduler
            self._fail(workload.key, workload.log_path, f"EmrExecutor cannot read this task: {error!r}")
            return
        self._tries.park(accepted.workload_id, workload.key)
        try:
            connection = session.connection()
            with savepoint(connection):
                scheduler_store.accept(connection, [accepted])
        except Exception:
            # The savepoint is rolled back, QUEUED stays: it is accepted in one of the next loops.
            self.log.exception("emr_executor could not store %s now; it tries again", workload.key)
            self._tries.not_stored(accepted)

    def heartbeat(self) -> None:
        """Called in each scheduler loop: keep the agent running, read outcomes; nothing may escape."""
        try:
            self._emit_metrics(self.parallelism, len(self._tries), 0)
            if self._agent is not None:
                self._agent.keep_running()
            self.sync()
            if self._watch is not None:
                self._watch.synced(self._in_own_transaction, len(self._tries))
        except Exception as error:  # noqa: BLE001 - an escape here would stop the scheduler
            # Nor may it escape that the log cannot be written.
            with suppress(Exception):
                tell_failure(self._watch, self.log, error)

    def sync(self) -> None:
        """Hand outcomes to the scheduler: at most two statements, whatever is parked.

        Before that come what could not be written earlier; nothing of it holds up anything behind it. Raises
        the first error when all was tried.
        """
        if self._refusal is not None:
            self._fail_refused(self._refusal)
            return
        self._tries.begin_loop()
        errors: list[Exception] = []
        for part in (self._store_late, self._adopt_late, self._send_cancels, self._take_outcomes):
            try:
                part()
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)
        if errors:
            raise errors[0]

    def change_state(self, key: Any, state: Any, info: Any = None, remove_running: bool = True) -> None:
        """The scheduler failed a try itself (purge, too often stuck): drop it at once and cancel its step."""
        self._tries.failed(key, str(state))
        super().change_state(key, state, info, remove_running)

    def has_task(self, task_instance: TaskInstance) -> bool:
        """Whether this scheduler's executor has the try parked."""
        return workload_id_of(task_instance) in self._tries

    def revoke_task(self, *, ti: TaskInstance) -> None:
        """A try was QUEUED for ``[scheduler] task_queued_timeout``; never raises.

        Its row stays as it is. Airflow queues the try again under the same id, and it goes on where it
        stands, its place in the line included; or fails it, too often stuck, and says so with
        ``change_state`` at once.
        """
        with suppress(Exception):
            self._tries.revoke(workload_id_of(ti), ti.key)

    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Take over the tries of a dead scheduler; those that are not ours are returned."""
        if self._settings is None:
            for workload in never_stored(tis):
                self._hold(workload)
            return []
        try:
            return self._adopt(tis, self._settings) if tis else tis
        except Exception:
            # Returned tries would be reset and their steps run twice: Airflow makes us their owner, and
            # the next ``sync`` adopts those that are ours.
            self.log.exception("emr_executor could not adopt %d tries now; it tries again", len(tis))
            for ti in tis:
                ti.last_heartbeat_at = datetime.now(tz=UTC)
                self._tries.park_unadopted(workload_id_of(ti))
            return []

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _job_id(self) -> int | None:
        return int(self.job_id) if self.job_id is not None else None

    def _read_configuration(self) -> list[str]:
        """Every reason why this executor cannot run here."""
        problems: list[str] = []
        for read in (refuse_unknown_airflow, self._refuse_other_tables, self._load):
            try:
                read()
            except ConfigError as error:
                problems += error.problems
            except Exception as error:  # noqa: BLE001 - an escape here would stop the scheduler
                problems.append(f"emr_executor could not read its configuration: {error!r}")
        return problems

    def _load(self) -> None:
        self._settings = load_settings()

    def _refuse_other_tables(self) -> None:
        if problem := self._in_own_transaction(tables_problem):
            raise ConfigError([problem])

    def _refuse(self, text: str, *, ends_scheduler: bool = False) -> Refusal:
        self._refusal = Refusal(text, hold_s=refusal_hold_s(), ends_scheduler=ends_scheduler)
        self.log.error("%s", self._refusal.announcement)
        return self._refusal

    def _hold(self, workload: workloads.ExecuteTask) -> None:
        refusal = self._refusal or self._refuse("EmrExecutor has not been started")
        workload_id = WorkloadId(str(workload.ti.id))
        self._tries.park(workload_id, workload.key)
        refusal.hold(workload_id, workload.key, workload.log_path)

    def _fail_refused(self, refusal: Refusal) -> None:
        for workload_id, key, log_path in refusal.due():
            if workload_id not in self._tries:
                continue  # Airflow took it back.
            self._tries.forget(WorkloadId(workload_id))
            self._fail(key, log_path, refusal.failure_text)

    def _fail(self, key: TaskInstanceKey, log_path: str | None, text: str) -> None:
        tell_refused(log_path, text)
        self.log_task_event(event="emr_executor refused", extra=text, ti_key=key)
        super().change_state(key, TaskInstanceState.FAILED, text)

    def _store_late(self) -> None:
        """All in one statement, or one by one where that fails, so that each fails for itself alone."""
        batch = self._tries.late()
        if not batch:
            return
        try:
            self._accept(batch)
        except Exception as error:
            if len(batch) == 1 and not is_of_the_row(error):
                raise
        else:
            return
        for workload in batch[:ALONE_A_SYNC]:
            try:
                self._accept([workload])
            except Exception as error:
                self._tries.not_stored(workload)
                if not is_of_the_row(error):
                    raise
                if self._tries.is_refused(workload):
                    self._fail_unstorable(workload, error)

    def _accept(self, batch: Sequence[Workload]) -> None:
        self._in_own_transaction(scheduler_store.accept, batch)
        self._tries.stored(batch)

    def _fail_unstorable(self, workload: Workload, error: Exception) -> None:
        cause = getattr(error, "orig", None) or error
        self._fail(
            airflow_key(workload.key),
            workload.log_path,
            f"EmrExecutor cannot store this task, in {ATTEMPTS_TO_STORE} attempts: {cause!r}",
        )

    def _adopt_late(self) -> None:
        """Tries that Airflow made ours while our statement failed."""
        ids = self._tries.unadopted()
        if not ids or self._settings is None:
            return
        from airflow.models.taskinstance import TaskInstance

        ours = (
            TaskInstance.id.in_([UUID(workload_id) for workload_id in ids]),
            TaskInstance.queued_by_job_id == self._job_id,
        )
        with self._own_session() as session:
            if tis := session.scalars(select(TaskInstance).where(*ours)).all():
                self._adopt(tis, self._settings)
        self._tries.looked_for(ids)

    def _send_cancels(self) -> None:
        for reason, ids in self._tries.cancels():
            self._in_own_transaction(scheduler_store.ask_cancel, ids, reason, self._job_id)
            self._tries.cancelled(ids)

    def _take_outcomes(self) -> None:
        outcomes = self._in_own_transaction(scheduler_store.take_outcomes, self._job_id or 0, OUTCOMES_A_SYNC)
        for outcome in self._tries.ended(outcomes):
            # The Execution API already has the real state; SUCCESS says "the executor is done with it"
            # and is what frees a try that was cleared while it ran (process_executor_events).
            super().change_state(airflow_key(outcome.key), TaskInstanceState.SUCCESS)

    def _adopt(self, tis: Sequence[TaskInstance], settings: Settings) -> Sequence[TaskInstance]:
        session = object_session(tis[0])
        if session is None:
            return tis
        by_id = {workload_id_of(ti): ti for ti in tis}
        job_id, connection = self._job_id or 0, session.connection()
        # No flush: what the session has pending would be lost with the savepoint, and thought written.
        with session.no_autoflush, savepoint(connection):
            adopted = scheduler_store.adopt(connection, list(by_id), job_id)
            # QUEUED was committed, our row was not: the scheduler died in between.
            lost = [w for w, ti in by_id.items() if w not in adopted and ti.state == TaskInstanceState.QUEUED]
            now = datetime.now(tz=UTC)
            made = [to_workload(workloads.ExecuteTask.make(by_id[w]), settings, job_id, now) for w in lost]
            scheduler_store.accept(connection, made)
            keys = {workload_id: by_id[workload_id].key for workload_id in (*adopted, *lost)}
        for workload_id, key in keys.items():
            # The purge of silent tries starts seconds after adoption, before the agent's next heartbeat.
            by_id[workload_id].last_heartbeat_at = now
            self._tries.adopted(workload_id, key)
        return [ti for workload_id, ti in by_id.items() if workload_id not in keys]

    def _in_own_transaction(self, work: Callable[Concatenate[Connection, ...], _T], *args: Any) -> _T:
        with self._own_session() as session:
            return work(session.connection(), *args)

    def _own_session(self) -> AbstractContextManager[Session]:
        from airflow.utils.session import create_session

        return create_session(scoped=False)

"""SCHEDULER PROCESS. ``EmrExecutor``: takes workloads over, hands outcomes back, adopts, revokes.

It runs inside the scheduler's loop, where anything raised ends the scheduler for every executor:
so it only reads and writes a few rows, starts nothing before ``start``, and lets nothing escape.
A configuration that cannot be used puts it in a *refusing* state: tasks fail with its text, the
scheduler and the other executors go on.

Parked tries are not in ``running`` and occupy no slot of ``[core] parallelism``: the base class
would stop queueing at that number, and a parked try costs the scheduler nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.configuration import conf
from airflow.exceptions import AirflowConfigException
from airflow.executors import workloads
from airflow.executors.base_executor import BaseExecutor
from airflow.utils.state import TaskInstanceState
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import object_session

from emr_executor.agent_process import AgentProcess
from emr_executor.config import Settings
from emr_executor.config_load import load_settings
from emr_executor.core.model import TaskKey, Workload, WorkloadId
from emr_executor.errors import ConfigError
from emr_executor.refusal import tell_refused
from emr_executor.store import scheduler_store
from emr_executor.store.revision import tables_problem

if TYPE_CHECKING:
    from airflow.executors.workloads import ExecutorWorkload
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.taskinstancekey import TaskInstanceKey
    from sqlalchemy.orm import Session

OUTCOMES_A_SYNC = 500
KNOWN_AIRFLOW_MINORS = ("3.3",)
"""Minor versions whose private Task SDK classes ``task.supervise`` was written against."""
ERROR_QUIET_S = 30.0

_T = TypeVar("_T")


class EmrExecutor(BaseExecutor):
    """Routes the tasks of its queues to a managed pool of EMR clusters.

    Written into airflow.cfg behind the executor for all other tasks:
    ``[core] executor = LocalExecutor,emr_executor.EmrExecutor``.
    """

    is_local: bool = False
    is_production: bool = True
    serve_logs: bool = True
    supports_ad_hoc_ti_run: bool = False
    supports_callbacks: bool = False
    supports_multi_team: bool = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings: Settings | None = None
        self._refusal: str | None = None
        self._agent: AgentProcess | None = None
        self._parked: dict[WorkloadId, TaskInstanceKey | None] = {}
        self._late: dict[WorkloadId, Workload] = {}
        self._to_cancel: dict[WorkloadId, str] = {}
        self._quiet_until = 0.0

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Read the configuration and start the agent. Raises only where no other executor is configured."""
        self._refuse_alone()
        try:
            self._refuse_unknown_airflow()
            self._refuse_other_tables()
            self._settings = load_settings()
        except ConfigError as error:
            self._refuse(str(error))
        except Exception as error:  # noqa: BLE001 - an escape here would stop the scheduler
            self._refuse(f"emr_executor could not read its configuration: {error!r}")
        if self._settings is not None and self._settings.agent == "child":
            self._agent = AgentProcess(self.log)

    def end(self) -> None:
        """Ask the agent to end and do not wait: parked tasks go on without a scheduler."""
        if self._agent is not None:
            self._agent.stop()

    def terminate(self) -> None:
        """Nothing: steps outlive the scheduler."""

    @property
    def refusal(self) -> str | None:
        """Why this executor takes no task, or None."""
        return self._refusal

    # -- from the scheduler ----------------------------------------------------------------------

    def queue_workload(self, workload: ExecutorWorkload, session: Session) -> None:
        """Store the workload in the scheduler's own transaction: it stands or falls with QUEUED."""
        if not isinstance(workload, workloads.ExecuteTask):
            raise NotImplementedError(
                f"EmrExecutor runs tasks only; {type(workload).__name__} belongs to the executor before it"
            )
        if self._settings is None:
            self._fail_refused(workload)
            return
        accepted = to_workload(workload, self._settings, self._job_id, datetime.now(tz=UTC))
        self._parked[accepted.workload_id] = workload.key
        try:
            connection = session.connection()
            with _savepoint(connection):
                scheduler_store.accept(connection, [accepted])
        except SQLAlchemyError:
            # The savepoint is rolled back, QUEUED stays: it is accepted in one of the next loops.
            self.log.exception("emr_executor could not store %s now; it tries again", workload.key)
            self._late[accepted.workload_id] = accepted

    def heartbeat(self) -> None:
        """Called in each scheduler loop: keep the agent running, read outcomes; nothing may escape."""
        try:
            self._emit_metrics(self.parallelism, len(self._parked), 0)
            if self._agent is not None:
                self._agent.keep_running()
            self.sync()
        except Exception:
            if time.monotonic() >= self._quiet_until:
                self._quiet_until = time.monotonic() + ERROR_QUIET_S
                self.log.exception("emr_executor could not sync; it tries again in the next loop")

    def sync(self) -> None:
        """Hand outcomes to the scheduler: at most two statements, whatever is parked."""
        if self._settings is None:
            return
        if self._late or self._to_cancel:
            self._in_own_transaction(self._send_late)
            self._in_own_transaction(self._send_cancels)
            return
        outcomes = self._in_own_transaction(
            lambda session: scheduler_store.take_outcomes(
                session.connection(), self._job_id or 0, OUTCOMES_A_SYNC
            )
        )
        for outcome in outcomes:
            self._parked.pop(outcome.workload_id, None)
            # The Execution API already has the real state; SUCCESS says "the executor is done with it"
            # and is what frees a try that was cleared while it ran (process_executor_events).
            super().change_state(_airflow_key(outcome.key), TaskInstanceState.SUCCESS)

    def change_state(self, key: Any, state: Any, info: Any = None, remove_running: bool = True) -> None:
        """The scheduler failed a try itself (heartbeat purge): drop it at once and cancel its step."""
        for workload_id in [w for w, parked in self._parked.items() if parked == key]:
            del self._parked[workload_id]
            self._to_cancel[workload_id] = f"the scheduler set the try to {state}"
        super().change_state(key, state, info, remove_running)

    def has_task(self, task_instance: TaskInstance) -> bool:
        """Whether this scheduler's executor has the try parked."""
        return _workload_id(task_instance) in self._parked or super().has_task(task_instance)

    def revoke_task(self, *, ti: TaskInstance) -> None:
        """Stop a try that was stuck in queued; never raises."""
        with suppress(Exception):
            workload_id = _workload_id(ti)
            self._parked.pop(workload_id, None)
            self._to_cancel[workload_id] = "revoked by the scheduler"

    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Take over the tries of a dead scheduler; those that are not ours are returned."""
        if not tis or self._settings is None:
            return [] if self._settings is None else tis
        try:
            return self._adopt(tis, self._settings)
        except Exception:
            # Returned tries would be reset and their steps run twice: leave them for the next look.
            self.log.exception("emr_executor could not adopt %d tries; it tries again", len(tis))
            return []

    @property
    def slots_available(self) -> int:
        """Every slot: a parked try holds none."""
        return int(self.parallelism)

    @property
    def slots_occupied(self) -> int:
        """None: phases are bounded by the agent's ``task_runner_parallelism``."""
        return 0

    def get_task_log(self, ti: TaskInstance, try_number: int) -> tuple[list[str], list[str]]:  # noqa: ARG002
        """Nothing: every line is in the task's ordinary log file."""
        return [], []

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _job_id(self) -> int | None:
        return int(self.job_id) if self.job_id is not None else None

    def _refuse_alone(self) -> None:
        configured = conf.get("core", "executor")
        if "," not in configured.split(";", 1)[0]:
            raise AirflowConfigException(
                "EmrExecutor runs only the tasks of its EMR queues, so another executor must run the rest. "
                "Write in airflow.cfg:\n\n    [core]\n    executor = LocalExecutor,emr_executor.EmrExecutor\n"
            )

    def _refuse_unknown_airflow(self) -> None:
        from airflow import __version__

        if not __version__.startswith(tuple(f"{minor}." for minor in KNOWN_AIRFLOW_MINORS)):
            known = ", ".join(KNOWN_AIRFLOW_MINORS)
            raise ConfigError(
                [f"this release knows Airflow {known}, this is Airflow {__version__}: upgrade emr-executor"]
            )

    def _refuse_other_tables(self) -> None:
        if problem := self._in_own_transaction(lambda session: tables_problem(session.connection())):
            raise ConfigError([problem])

    def _refuse(self, text: str) -> None:
        self._refusal = text
        self.log.error(
            "EmrExecutor refuses all tasks until this is fixed and the scheduler restarted:\n%s", text
        )

    def _fail_refused(self, workload: workloads.ExecuteTask) -> None:
        text = self._refusal or "EmrExecutor has not been started"
        tell_refused(workload.log_path, text)
        self.log_task_event(event="emr_executor refused", extra=text, ti_key=workload.key)
        super().change_state(workload.key, TaskInstanceState.FAILED, text)

    def _send_late(self, session: Session) -> None:
        scheduler_store.accept(session.connection(), list(self._late.values()))
        self._late.clear()

    def _send_cancels(self, session: Session) -> None:
        asked, self._to_cancel = self._to_cancel, {}
        try:
            reasons = sorted(set(asked.values()))
            for reason in reasons:
                ids = [workload_id for workload_id, why in asked.items() if why == reason]
                scheduler_store.ask_cancel(session.connection(), ids, reason)
        except Exception:
            self._to_cancel = asked | self._to_cancel
            raise

    def _adopt(self, tis: Sequence[TaskInstance], settings: Settings) -> Sequence[TaskInstance]:
        session = object_session(tis[0])
        if session is None:
            return tis
        by_id = {_workload_id(ti): ti for ti in tis}
        job_id = self._job_id or 0
        adopted = scheduler_store.adopt(session.connection(), list(by_id), job_id)
        for workload_id, ti in by_id.items():
            if workload_id not in adopted and ti.state == TaskInstanceState.QUEUED:
                # QUEUED was committed, our row was not: the scheduler died in between.
                workload = workloads.ExecuteTask.make(ti)
                now = datetime.now(tz=UTC)
                scheduler_store.accept(session.connection(), [to_workload(workload, settings, job_id, now)])
                adopted.add(workload_id)
        for workload_id in adopted:
            ti = by_id[workload_id]
            # The purge of silent tries starts seconds after adoption, before the agent's next heartbeat.
            ti.last_heartbeat_at = datetime.now(tz=UTC)
            self._parked[workload_id] = ti.key
        return [ti for workload_id, ti in by_id.items() if workload_id not in adopted]

    def _in_own_transaction(self, work: Callable[[Session], _T]) -> _T:
        from airflow.utils.session import create_session

        with create_session(scoped=False) as session:
            return work(session)


def to_workload(
    workload: workloads.ExecuteTask, settings: Settings, job_id: int | None, now: datetime
) -> Workload:
    """Airflow's workload as ours; its token is left behind (the agent mints its own)."""
    ti = workload.ti
    pool = settings.pool_of_queue(ti.queue) or settings.cluster_pools[0]
    body = workload.model_dump(mode="json", exclude={"token"})
    return Workload(
        workload_id=WorkloadId(str(ti.id)),
        key=TaskKey(
            dag_id=ti.dag_id,
            task_id=ti.task_id,
            run_id=ti.run_id,
            try_number=ti.try_number,
            map_index=-1 if ti.map_index is None else ti.map_index,
        ),
        cluster_pool=pool.name,
        queue=ti.queue,
        priority_weight=ti.priority_weight,
        accepted_at=now,
        scheduler_job_id=job_id,
        workload=body,
        # model_dump drops it (airflow/executors/workloads/task.py, exclude=True).
        executor_config=dict(ti.executor_config or {}),
        log_path=workload.log_path,
    )


def _savepoint(connection: Connection) -> AbstractContextManager[object]:
    """Keeps a failed statement from spoiling the scheduler's transaction.

    On the connection, since the session's own savepoint looks like a commit to the scheduler's guard
    (airflow/utils/sqlalchemy.py). SQLite needs none, and its driver would begin a transaction with it.
    """
    return nullcontext() if connection.dialect.name == "sqlite" else connection.begin_nested()


def _workload_id(ti: TaskInstance) -> WorkloadId:
    return WorkloadId(str(ti.id))


def _airflow_key(key: TaskKey) -> TaskInstanceKey:
    from airflow.models.taskinstancekey import TaskInstanceKey

    return TaskInstanceKey(
        dag_id=key.dag_id,
        task_id=key.task_id,
        run_id=key.run_id,
        try_number=key.try_number,
        map_index=key.map_index,
    )

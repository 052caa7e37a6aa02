"""Between Airflow's values and ours, for ``executor``: what is handed over, and its key back."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from emr_executor.config import Settings
from emr_executor.core.model import TaskKey, Workload, WorkloadId

if TYPE_CHECKING:
    from airflow.executors import workloads
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.taskinstancekey import TaskInstanceKey


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


def savepoint(connection: Connection) -> AbstractContextManager[object]:
    """Keeps a failed statement from spoiling the scheduler's transaction.

    On the connection, since the session's own savepoint looks like a commit to the scheduler's guard
    (airflow/utils/sqlalchemy.py). SQLite needs none, and its driver would begin a transaction with it.
    """
    return nullcontext() if connection.dialect.name == "sqlite" else connection.begin_nested()


def workload_id_of(ti: TaskInstance) -> WorkloadId:
    """A task instance's id is also its workload's."""
    return WorkloadId(str(ti.id))


def airflow_key(key: TaskKey) -> TaskInstanceKey:
    """Our key as Airflow's."""
    from airflow.models.taskinstancekey import TaskInstanceKey

    return TaskInstanceKey(
        dag_id=key.dag_id,
        task_id=key.task_id,
        run_id=key.run_id,
        try_number=key.try_number,
        map_index=key.map_index,
    )


def is_of_the_row(error: BaseException | None) -> bool:
    """Whether a statement failed for the values that it was given, and not for the database's state.

    Those of a driver that checks values itself come as they are (psycopg2: ValueError for a NUL character).
    """
    if isinstance(error, DBAPIError):
        return isinstance(error, DataError | IntegrityError)
    return isinstance(error, StatementError | ValueError | TypeError)

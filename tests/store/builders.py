"""Values, rows and a statement counter for the tests of the store."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy import Connection, event, insert, select, update

from emr_executor.core.model import (
    Cluster,
    ClusterUuid,
    Identity,
    StepPlan,
    Submission,
    TaskKey,
    Workload,
    WorkloadId,
    submission_id_of,
)
from emr_executor.core.states import ClusterState, SubmissionState, WorkloadState
from emr_executor.store.rows import mapping_of, workload_from
from emr_executor.store.schema import TASK_INSTANCE, WORKLOAD

NOW = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
SCHEDULER = 11
ME = Identity(hostname="host-a", unixname="airflow", pid=4711)
STEP = StepPlan(
    command=("spark-submit", "--conf", "a=b", "job.py"), env={"A": "ä"}, spec_uri="s3://b/specs/1.json"
)

_numbers = count(1)


def at(seconds: float) -> datetime:
    """A moment so many seconds from NOW."""
    return NOW + timedelta(seconds=seconds)


def a_workload(**changes: Any) -> Workload:
    """A workload as the scheduler hands it over, each with ids of its own."""
    n = next(_numbers)
    fields: dict[str, Any] = {
        "workload_id": WorkloadId(str(uuid.UUID(int=n))),
        "key": TaskKey(dag_id="salaries", task_id=f"t{n}", run_id="run-1", try_number=1),
        "cluster_pool": "default",
        "queue": "emr",
        "priority_weight": 1,
        "accepted_at": at(n / 1000),
        "scheduler_job_id": SCHEDULER,
        "workload": {"ti": {"task_id": f"t{n}"}},
        **changes,
    }
    return Workload(**fields)


def a_parked(**changes: Any) -> Workload:
    """A workload that waits with its step for a slot."""
    return a_workload(
        **{"state": WorkloadState.READY, "identity": ME, "step": STEP, "ready_at": NOW, **changes}
    )


def a_cluster(**changes: Any) -> Cluster:
    """A cluster that runs."""
    fields: dict[str, Any] = {
        "cluster_uuid": ClusterUuid(str(uuid.UUID(int=10**6 + next(_numbers)))),
        "cluster_pool": "default",
        "name": "airflow-emr/d/default/u",
        "template_hash": "0123456789abcdef",
        "slots": 4,
        "state": ClusterState.RUNNING,
        "intended_at": NOW,
        **changes,
    }
    return Cluster(**fields)


def a_submission(workload: Workload, cluster: Cluster, n: int = 1, **changes: Any) -> Submission:
    """A workload's n-th submission, just intended."""
    fields: dict[str, Any] = {
        "submission_id": submission_id_of(workload.workload_id, n),
        "workload_id": workload.workload_id,
        "n": n,
        "cluster_uuid": cluster.cluster_uuid,
        "state": SubmissionState.INTENDED,
        "intended_at": NOW,
        **changes,
    }
    return Submission(**fields)


def store(conn: Connection, *values: Any) -> None:
    """Put values into their tables as they are."""
    for value in values:
        mapping = mapping_of(type(value))
        conn.execute(insert(mapping.table), [mapping.columns(value)])


def stored(conn: Connection, workload_id: WorkloadId) -> Workload:
    """A workload as it stands in the store."""
    row = conn.execute(select(WORKLOAD).where(WORKLOAD.c.workload_id == workload_id)).mappings().one()
    return workload_from(row)


def put_task_instance(
    conn: Connection, workload: Workload, state: str | None, ti_id: str | None = None
) -> None:
    """Airflow's row of a workload's try, with the workload's id or another."""
    key = workload.key
    conn.execute(
        insert(TASK_INSTANCE).values(
            id=uuid.UUID(ti_id or workload.workload_id),
            dag_id=key.dag_id,
            task_id=key.task_id,
            run_id=key.run_id,
            map_index=key.map_index,
            try_number=key.try_number,
            state=state,
        )
    )


def set_task_state(conn: Connection, workload: Workload, state: str | None) -> None:
    """Airflow gives the task instance of a workload another state."""
    conn.execute(
        update(TASK_INSTANCE).where(TASK_INSTANCE.c.task_id == workload.key.task_id).values(state=state)
    )


@contextmanager
def what_is_read(conn: Connection) -> Iterator[Callable[[], tuple[int, int]]]:
    """Asked behind it: the rows, and the characters in them, that the statements meanwhile read."""
    seen: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    def read() -> tuple[int, int]:
        rows = [row for statement in seen for row in conn.exec_driver_sql(*statement)]
        return len(rows), sum(len(str(cell)) for row in rows for cell in row)

    event.listen(conn.engine, "before_cursor_execute", note)
    try:
        yield read
    finally:
        event.remove(conn.engine, "before_cursor_execute", note)


@contextmanager
def statements(conn: Connection) -> Iterator[list[str]]:
    """The statements that the connection's engine executes meanwhile."""
    seen: list[str] = []

    def note(*arguments: Any) -> None:
        seen.append(arguments[2])

    event.listen(conn.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(conn.engine, "before_cursor_execute", note)

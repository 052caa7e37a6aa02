"""The executor's own promises, on a real database: statements a sync, adoption, purge, refusal."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow import settings as airflow_settings
from airflow.executors import workloads
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import Column, MetaData, String, Table, delete, event, insert, select

from emr_executor.config_refusal import tell_refused
from emr_executor.core.states import WorkloadState
from emr_executor.executor import EmrExecutor
from emr_executor.store import scheduler_store
from emr_executor.store.rows import mapping_of
from emr_executor.store.schema import AIRFLOW, METADATA, VERSION_TABLE, WORKLOAD
from tests.agent.fakes import SETTINGS
from tests.builders import NOW, make_workload

JOB_ID = 7


@pytest.fixture(scope="module", autouse=True)
def tables() -> Iterator[None]:
    airflow_settings.configure_orm()
    METADATA.create_all(airflow_settings.engine)
    AIRFLOW.create_all(airflow_settings.engine)
    yield
    METADATA.drop_all(airflow_settings.engine)
    AIRFLOW.drop_all(airflow_settings.engine)


@pytest.fixture(autouse=True)
def empty(tables: None) -> None:
    with airflow_settings.engine.begin() as connection:
        connection.execute(delete(WORKLOAD))


@pytest.fixture
def executor() -> EmrExecutor:
    executor = EmrExecutor()
    executor.job_id = JOB_ID
    executor._settings = SETTINGS
    return executor


@pytest.fixture
def statements() -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    event.listen(airflow_settings.engine, "before_cursor_execute", note)
    yield seen
    event.remove(airflow_settings.engine, "before_cursor_execute", note)


@contextmanager
def without_tables() -> Iterator[None]:
    METADATA.drop_all(airflow_settings.engine)
    try:
        yield
    finally:
        METADATA.create_all(airflow_settings.engine)


def store(*rows: Any) -> None:
    with airflow_settings.engine.begin() as connection:
        for row in rows:
            connection.execute(insert(WORKLOAD).values({**mapping_of(type(row)).columns(row), "reported": 0}))


def rows() -> dict[str, Any]:
    with airflow_settings.engine.connect() as connection:
        return {row.workload_id: row for row in connection.execute(select(WORKLOAD))}


def stored(workload_id: str) -> Any:
    return rows()[workload_id]


def workload(name: str, **changes: Any) -> Any:
    return make_workload(name, scheduler_job_id=JOB_ID, **changes)


def execute_task(name: str = "t") -> workloads.ExecuteTask:
    ti = {
        "id": str(uuid.uuid4()),
        "dag_version_id": str(uuid.uuid4()),
        "task_id": name,
        "dag_id": "d",
        "run_id": "r",
        "try_number": 1,
        "map_index": -1,
        "pool_slots": 1,
        "queue": "emr",
        "priority_weight": 5,
        "executor_config": {"k": "v"},
    }
    return workloads.ExecuteTask.model_validate(
        {
            "ti": ti,
            "token": "a-token-that-must-not-be-stored",
            "dag_rel_path": "d.py",
            "bundle_info": {"name": "b", "version": None},
            "log_path": "d/t.log",
        }
    )


def queued(executor: EmrExecutor, task: workloads.ExecuteTask) -> str:
    """The task is queued; the id of its workload."""
    with create_session() as session:
        executor.queue_workload(task, session)
    return str(task.ti.id)


def ti_of(task: workloads.ExecuteTask) -> Any:
    return SimpleNamespace(id=task.ti.id, key=task.key)


@pytest.mark.parametrize("parked", [0, 1, 400])
def test_sync_makes_at_most_two_statements_whatever_is_parked(
    executor: EmrExecutor, statements: list[str], parked: int
) -> None:
    store(*[workload(f"p{i}") for i in range(parked)])
    store(
        *[workload(f"f{i}", state=WorkloadState.FINISHED, airflow_state="success") for i in range(20)],
        workload("c", state=WorkloadState.CANCELLED),
    )
    statements.clear()
    executor.sync()
    assert len([s for s in statements if not s.startswith(("BEGIN", "PRAGMA"))]) == 2
    assert len(executor.event_buffer) == 21
    assert {state for state, _ in executor.event_buffer.values()} == {TaskInstanceState.SUCCESS}
    statements.clear()
    executor.sync()
    assert len([s for s in statements if not s.startswith(("BEGIN", "PRAGMA"))]) <= 1


def test_a_handed_over_workload_is_stored_in_the_schedulers_transaction(executor: EmrExecutor) -> None:
    task = execute_task()
    with create_session() as session:
        executor.queue_workload(task, session)
        session.rollback()
    assert rows() == {}
    row = stored(queued(executor, task))
    assert (row.state, row.cluster_pool, row.priority_weight) == ("ACCEPTED", "default", 5)
    assert row.executor_config == {"k": "v"}
    assert "a-token-that-must-not-be-stored" not in str(tuple(row))
    assert executor.has_task(ti_of(task))


def test_a_parked_try_occupies_no_slot(executor: EmrExecutor) -> None:
    for i in range(50):
        queued(executor, execute_task(f"t{i}"))
    assert (executor.slots_occupied, executor.slots_available) == (0, executor.parallelism)


def test_a_try_that_the_scheduler_purged_is_dropped_at_once_and_its_step_cancelled(
    executor: EmrExecutor,
) -> None:
    task = execute_task()
    workload_id = queued(executor, task)
    executor.change_state(task.key, TaskInstanceState.FAILED)
    assert not executor.has_task(ti_of(task))
    executor.sync()
    assert stored(workload_id).target == "CANCEL"


def test_a_try_that_is_stuck_in_queued_goes_on_where_it_stands_when_it_is_queued_again(
    executor: EmrExecutor,
) -> None:
    """SJR:3015: revoked, SCHEDULED, and QUEUED again under the same id before the next ``sync``."""
    task = execute_task()
    workload_id = queued(executor, task)
    before = stored(workload_id)
    executor.revoke_task(ti=ti_of(task))
    executor.revoke_task(ti=None)  # type: ignore[arg-type]
    assert not executor.has_task(ti_of(task))
    queued(executor, task)
    executor.sync()
    assert stored(workload_id) == before
    assert executor.has_task(ti_of(task))


def test_a_try_that_is_stuck_too_often_is_cancelled(executor: EmrExecutor) -> None:
    """SJR:3115: revoked, set to FAILED, and ``executor.fail`` in the same breath."""
    task = execute_task()
    workload_id = queued(executor, task)
    executor.revoke_task(ti=ti_of(task))
    executor.fail(task.key)
    executor.sync()
    assert stored(workload_id).target == "CANCEL"
    assert executor.event_buffer == {task.key: (TaskInstanceState.FAILED, None)}


def test_a_late_cancel_does_not_reach_a_try_that_was_taken_over_again(executor: EmrExecutor) -> None:
    task = execute_task()
    workload_id = queued(executor, task)
    executor.change_state(task.key, TaskInstanceState.FAILED)
    queued(executor, task)
    executor.sync()
    assert stored(workload_id).target == "RUN"
    executor.change_state(task.key, TaskInstanceState.FAILED)
    other = EmrExecutor()
    other.job_id, other._settings = 8, SETTINGS
    queued(other, task)
    executor.sync()
    assert (stored(workload_id).target, stored(workload_id).scheduler_job_id) == ("RUN", 8)


def unstorable() -> workloads.ExecuteTask:
    """What JSON cannot hold."""
    task = execute_task("poison")
    return task.model_copy(update={"ti": task.ti.model_copy(update={"executor_config": {"k": object()}})})


def test_a_workload_that_cannot_be_stored_holds_up_nothing_and_fails_with_the_reason(
    executor: EmrExecutor,
) -> None:
    poison, good, purged = unstorable(), execute_task("good"), execute_task("purged")
    purged_id = queued(executor, purged)
    executor.change_state(purged.key, TaskInstanceState.FAILED)
    executor.event_buffer.clear()
    queued(executor, poison)
    with without_tables():
        good_id = queued(executor, good)
    store(workload(purged_id), workload("f", state=WorkloadState.FINISHED, finished_at=NOW))
    executor.sync()
    assert stored(good_id).state == "ACCEPTED"
    assert stored(purged_id).target == "CANCEL"
    assert [key.task_id for key in executor.event_buffer] == ["f"]
    executor.sync()
    executor.sync()
    (state, why) = executor.event_buffer[poison.key]
    assert state == TaskInstanceState.FAILED
    assert "cannot store this task, in 3 attempts: TypeError" in why
    assert not executor.has_task(ti_of(poison))
    executor.event_buffer.clear()
    executor.sync()
    assert executor.event_buffer == {}


def test_what_could_not_be_stored_is_forgotten_when_airflow_takes_it_back(executor: EmrExecutor) -> None:
    task = execute_task()
    with without_tables():
        queued(executor, task)
    executor.revoke_task(ti=ti_of(task))
    executor.sync()
    assert rows() == {}


def test_a_refusal_is_written_into_the_task_log_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path / "logs"))
    tell_refused("dag_id=d/attempt=1.log", "first line\nsecond line")
    written = (tmp_path / "logs" / "dag_id=d" / "attempt=1.log").read_text().splitlines()
    assert [json.loads(line)["event"] for line in written] == ["first line", "second line"]
    tell_refused("../outside.log", "text")
    tell_refused(str(tmp_path / "absolute.log"), "text")
    tell_refused(None, "text")
    assert sorted(path.name for path in tmp_path.rglob("*.log")) == ["attempt=1.log"]


def test_an_error_of_the_store_does_not_leave_the_heartbeat(executor: EmrExecutor) -> None:
    with without_tables():
        executor.heartbeat()
        executor.heartbeat()
    store(workload("f", state=WorkloadState.FINISHED, airflow_state="success", finished_at=NOW))
    executor.heartbeat()
    assert list(executor.event_buffer) == [
        TaskInstanceKey(dag_id="d", task_id="f", run_id="r", try_number=1, map_index=-1)
    ]


def test_outcomes_of_another_scheduler_are_left_to_it(executor: EmrExecutor) -> None:
    other = replace(workload("o", state=WorkloadState.FINISHED, airflow_state="success"), scheduler_job_id=8)
    store(other)
    executor.sync()
    assert executor.event_buffer == {}
    with airflow_settings.engine.begin() as connection:
        assert scheduler_store.take_outcomes(connection, 8, 10)[0].workload_id == "o"


def refusal_of_a_start(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor,emr_executor.EmrExecutor")
    executor = EmrExecutor()
    executor.start()
    return executor.refusal or ""


def test_an_airflow_that_this_release_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow.__version__", "3.4.0")
    refusal = refusal_of_a_start(monkeypatch)
    assert "this release knows Airflow 3.3, this is Airflow 3.4.0: upgrade emr-executor" in refusal


def test_a_database_without_our_tables_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with without_tables():
        assert "run `airflow db migrate`" in refusal_of_a_start(monkeypatch)


def test_tables_of_a_newer_release_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    version = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32)))
    with airflow_settings.engine.begin() as connection:
        version.create(connection)
        connection.execute(insert(version).values(version_num="9999"))
    try:
        refusal = refusal_of_a_start(monkeypatch)
    finally:
        version.drop(airflow_settings.engine)
    assert "a newer release has migrated them. Upgrade the package emr-executor" in refusal

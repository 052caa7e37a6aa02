"""Adoption over Airflow's real tables, when our own statement fails in the scheduler's transaction."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.executors import workloads
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState
from sqlalchemy import Engine, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from emr_executor.config_refusal import Refusal
from emr_executor.core.model import Identity, WorkloadId
from emr_executor.core.states import WorkloadState
from emr_executor.executor import EmrExecutor
from emr_executor.store.dialect import engine_for
from emr_executor.store.phase_store import claim
from emr_executor.store.schema import WORKLOAD
from tests.agent.fakes import SETTINGS
from tests.cli.world import World, workload_of

DEAD = 3


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.processes)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "postgres":
        yield request.getfixturevalue("postgres")
        return
    path = tmp_path / "airflow.db"
    shutil.copy(request.getfixturevalue("template"), path)
    made = engine_for(f"sqlite:///{path}")
    yield made
    made.dispose()


class OnEngine(EmrExecutor):
    """The executor with its own transactions on a test's database."""

    def __init__(self, engine: Engine, job_id: int) -> None:
        super().__init__()
        self._engine, self.job_id, self._settings = engine, job_id, SETTINGS

    def _own_session(self) -> AbstractContextManager[Session]:
        return sessionmaker(self._engine).begin()


def rows(engine: Engine) -> dict[str, Any]:
    with engine.connect() as connection:
        return {row.workload_id: row for row in connection.execute(select(WORKLOAD))}


def task_instances(session: Session) -> list[TaskInstance]:
    return list(session.scalars(select(TaskInstance).where(TaskInstance.task_id.in_(["average", "extract"]))))


@pytest.fixture
def orphans(engine: Engine) -> tuple[World, str, str]:
    """Tries of a dead scheduler: one parked, one QUEUED whose row was never stored."""
    world = World(engine, SETTINGS)
    world.run()
    parked = world.set_task("average", state="running", queued_by_job_id=None, last_heartbeat_at=None)
    lost = world.set_task("extract", state="queued", queued_by_job_id=None, queue="emr")
    world.store(replace(workload_of(parked), scheduler_job_id=DEAD))
    return world, parked, lost


def test_orphans_are_adopted_and_heard_of(engine: Engine, orphans: tuple[World, str, str]) -> None:
    world, parked, lost = orphans
    executor = OnEngine(engine, world.scheduler())
    with Session(engine) as session, session.begin():
        assert executor.try_adopt_task_instances(task_instances(session)) == []
        assert all(ti.last_heartbeat_at is not None for ti in task_instances(session))
    assert {row.scheduler_job_id for row in rows(engine).values()} == {executor.job_id}
    assert rows(engine).keys() == {parked, lost}


def test_an_adoption_that_failed_is_made_in_a_later_loop(
    engine: Engine, orphans: tuple[World, str, str]
) -> None:
    """Airflow makes us the owner of all that we do not return (SJR:3362), in the same transaction."""
    world, parked, lost = orphans
    executor = OnEngine(engine, world.scheduler())
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE emr_workload RENAME TO emr_elsewhere"))
    with Session(engine) as session, session.begin():
        tis = task_instances(session)
        assert executor.try_adopt_task_instances(tis) == []
        for ti in tis:
            assert ti.last_heartbeat_at is not None
            assert executor.has_task(ti)
            ti.queued_by_job_id = executor.job_id
    with pytest.raises(Exception, match="emr_workload"):
        executor.sync()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE emr_elsewhere RENAME TO emr_workload"))
    executor.sync()
    found = rows(engine)
    assert found.keys() == {parked, lost}
    assert {row.scheduler_job_id for row in found.values()} == {executor.job_id}
    assert (found[lost].state, found[lost].queue) == ("ACCEPTED", "emr")
    with Session(engine) as session:
        ti = next(ti for ti in task_instances(session) if str(ti.id) == parked)
    # The purge finds it by its key.
    executor.change_state(ti.key, TaskInstanceState.FAILED)
    executor.sync()
    assert rows(engine)[parked].target == "CANCEL"


def test_what_airflow_gave_to_another_scheduler_is_not_adopted_late(
    engine: Engine, orphans: tuple[World, str, str]
) -> None:
    world, parked, lost = orphans
    executor, other = OnEngine(engine, world.scheduler()), world.scheduler()
    for workload_id in (parked, lost):
        executor._tries.park_unadopted(WorkloadId(workload_id))
    with engine.begin() as connection:
        connection.execute(update(TaskInstance).values(queued_by_job_id=other))
    executor.sync()
    assert {(w, row.scheduler_job_id) for w, row in rows(engine).items()} == {(parked, DEAD)}
    assert len(executor._tries) == 0


def refusing(engine: Engine, world: World, clock: list[float]) -> OnEngine:
    executor = OnEngine(engine, world.scheduler())
    executor._settings = None
    executor._refusal = Refusal("max_clusters must be a number", hold_s=600, monotonic=lambda: clock[0])
    return executor


def adopt(engine: Engine, executor: OnEngine) -> None:
    """As a scheduler that has just started does: what is not returned becomes its own."""
    with Session(engine) as session, session.begin():
        tis = [ti for ti in task_instances(session) if ti.state]
        assert executor.try_adopt_task_instances(tis) == []
        for ti in tis:
            ti.queued_by_job_id = executor.job_id


@pytest.fixture
def queued(engine: Engine) -> tuple[World, str]:
    world = World(engine, SETTINGS)
    world.run()
    return world, world.set_task("extract", state="queued", queue="emr")


def test_a_task_that_a_refused_configuration_left_queued_runs_after_a_restart_with_the_right_one(
    engine: Engine, queued: tuple[World, str]
) -> None:
    (world, lost), clock = queued, [0.0]
    first = refusing(engine, world, clock)
    with Session(engine) as session, session.begin():
        ti = next(ti for ti in task_instances(session) if str(ti.id) == lost)
        first.queue_workload(workloads.ExecuteTask.make(ti), session)
    clock[0] = 599.0
    first.heartbeat()
    assert (first.event_buffer, rows(engine)) == ({}, {})

    corrected = OnEngine(engine, world.scheduler())
    adopt(engine, corrected)
    (row,) = rows(engine).values()
    assert (row.workload_id, row.state, row.scheduler_job_id) == (lost, "ACCEPTED", corrected.job_id)
    with engine.begin() as connection:
        me = Identity(hostname="host", unixname="airflow", pid=1)
        (claimed,) = claim(
            connection, WorkloadState.PREPARING, 1, me, now=datetime.now(tz=UTC), new_token=lambda: "t"
        )
    assert claimed.workload["ti"]["task_id"] == "extract"


def test_a_restart_with_a_configuration_that_is_still_wrong_holds_queued_tasks_and_then_fails_them(
    engine: Engine, orphans: tuple[World, str, str]
) -> None:
    (world, parked, lost), clock = orphans, [0.0]
    executor = refusing(engine, world, clock)
    adopt(engine, executor)
    clock[0] = 599.0
    executor.heartbeat()
    assert executor.event_buffer == {}
    clock[0] = 600.0
    executor.heartbeat()
    # The parked one has a row: an agent may be at its work.
    ((key, (state, text_)),) = executor.event_buffer.items()
    assert (key.task_id, state) == ("extract", TaskInstanceState.FAILED)
    assert text_.startswith("max_clusters must be a number\nThe task stayed queued for 600 s")
    assert rows(engine).keys() == {parked}
    assert lost not in rows(engine)


def test_a_queued_task_that_is_stored_is_not_failed_by_a_refusal(
    engine: Engine, queued: tuple[World, str]
) -> None:
    (world, stored), clock = queued, [0.0]
    world.store(replace(workload_of(stored), scheduler_job_id=DEAD))
    executor = refusing(engine, world, clock)
    adopt(engine, executor)
    clock[0] = 600.0
    executor.heartbeat()
    assert executor.event_buffer == {}

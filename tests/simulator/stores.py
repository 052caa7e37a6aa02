"""The store of a simulated world, by its faces: in memory, or the production code on SQLite."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import create_engine, event
from sqlalchemy.pool import StaticPool

from emr_executor.store.agent_store import AgentStore
from emr_executor.store.async_stores import PhaseStore, SchedulerStore
from emr_executor.store.protocols import AgentFace, PhaseFace, SchedulerFace, TaskInstances
from emr_executor.store.runner import InlineRunner
from emr_executor.store.schema import AIRFLOW, METADATA
from tests.simulator.memory_database import MemoryDatabase
from tests.simulator.memory_phases import MemoryPhaseStore
from tests.simulator.memory_store import MemoryAgentStore, MemorySchedulerStore
from tests.simulator.sql_task_instances import SqlTaskInstances

STORY_LINES = 30
"""Lines of history that the in-memory store keeps of each row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faces:
    """One store as everybody sees it."""

    agent: AgentFace
    scheduler: SchedulerFace
    phase: PhaseFace
    task_instances: TaskInstances


def in_memory(deployment_id: str) -> Faces:
    """The twin of the SQL store."""
    database = MemoryDatabase(deployment_id=deployment_id, story_lines=STORY_LINES)
    return Faces(
        agent=MemoryAgentStore(database),
        scheduler=MemorySchedulerStore(database),
        phase=MemoryPhaseStore(database),
        task_instances=database.task_instances,
    )


def on_sqlite() -> Faces:
    """The production statements on a SQLite database in memory, each transaction on the spot."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda conn: conn.exec_driver_sql("BEGIN"))
    METADATA.create_all(engine)
    AIRFLOW.create_all(engine)
    runner = InlineRunner(engine)
    return Faces(
        agent=AgentStore(runner),
        scheduler=SchedulerStore(runner),
        phase=PhaseStore(runner),
        task_instances=SqlTaskInstances(engine),
    )

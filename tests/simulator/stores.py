"""The store of a simulated world as everybody sees it: the production statements on SQLite in memory."""

from __future__ import annotations

from dataclasses import dataclass

from emr_executor.store.agent_store import AgentStore
from emr_executor.store.async_stores import PhaseStore, SchedulerStore
from emr_executor.store.protocols import AgentFace, PhaseFace, SchedulerFace, TaskInstances
from tests.simulator.sql_task_instances import SqlTaskInstances
from tests.simulator.sqlite_memory import MemoryRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class Faces:
    """One store as everybody sees it."""

    agent: AgentFace
    scheduler: SchedulerFace
    phase: PhaseFace
    task_instances: TaskInstances


def in_memory() -> Faces:
    """A new database."""
    runner = MemoryRunner()
    return Faces(
        agent=AgentStore(runner),
        scheduler=SchedulerStore(runner),
        phase=PhaseStore(runner),
        task_instances=SqlTaskInstances(runner.transact),
    )

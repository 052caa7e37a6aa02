"""The store by its faces, on SQL or in memory, with a look at the rows behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Engine, select

from emr_executor.core.model import Cluster, HistoryEntry, Submission, Workload
from emr_executor.store.agent_store import AgentStore
from emr_executor.store.async_stores import PhaseStore, SchedulerStore
from emr_executor.store.protocols import AgentFace, PhaseFace, SchedulerFace, Stored, TaskInstances
from emr_executor.store.rows import cluster_from, history_entry_from, submission_from, workload_from
from emr_executor.store.runner import InlineRunner
from emr_executor.store.schema import CLUSTER, HISTORY, STEERING, SUBMISSION, WORKLOAD
from tests.simulator.memory_database import MemoryDatabase
from tests.simulator.memory_phases import MemoryPhaseStore
from tests.simulator.memory_store import MemoryAgentStore, MemorySchedulerStore
from tests.simulator.sql_task_instances import SqlTaskInstances
from tests.store.builders import store


@dataclass(frozen=True)
class Rows:
    """Everything that a store holds, in the order of its keys."""

    workloads: tuple[tuple[Workload, int], ...]
    """With ``reported``."""
    submissions: tuple[Submission, ...]
    clusters: tuple[Cluster, ...]
    history: tuple[HistoryEntry, ...]


@dataclass(frozen=True)
class Store:
    """One store and all who use it."""

    agent: AgentFace
    scheduler: SchedulerFace
    phase: PhaseFace
    task_instances: TaskInstances
    behind: MemoryDatabase | Engine

    def rows(self) -> Rows:
        """What it holds now."""
        if isinstance(self.behind, Engine):
            return _rows_of_sql(self.behind)
        return _rows_of_memory(self.behind)

    def workload(self, workload_id: str) -> Workload | None:
        """A workload as it stands."""
        found = [w for w, _ in self.rows().workloads if w.workload_id == workload_id]
        return found[0] if found else None

    async def steer(self) -> int:
        """The token of the lease, taken from whoever has it."""
        token = await self.agent.take_lease(STEERING, "test", await self.agent.read_lease(STEERING))
        assert token is not None
        return token

    async def put(self, *values: Stored) -> int:
        """New rows as they are, in whatever state; the lease's token."""
        if isinstance(self.behind, Engine):
            with self.behind.begin() as conn:
                store(conn, *values)
        else:
            for value in values:
                self.behind.table_of(type(value)).insert(value)
        return await self.steer()


def memory_store() -> Store:
    database = MemoryDatabase(story_lines=None)
    return Store(
        agent=MemoryAgentStore(database),
        scheduler=MemorySchedulerStore(database),
        phase=MemoryPhaseStore(database),
        task_instances=database.task_instances,
        behind=database,
    )


def sql_store(engine: Engine) -> Store:
    runner = InlineRunner(engine)
    return Store(
        agent=AgentStore(runner),
        scheduler=SchedulerStore(runner),
        phase=PhaseStore(runner),
        task_instances=SqlTaskInstances(engine),
        behind=engine,
    )


def lean(workload: Workload) -> Workload:
    """As a snapshot shows it."""
    return replace(workload, workload={}, executor_config={})


def _rows_of_sql(engine: Engine) -> Rows:
    def all_of(table: Any, key: str, make: Any) -> tuple[Any, ...]:
        return tuple(map(make, conn.execute(select(table).order_by(table.c[key])).mappings()))

    with engine.connect() as conn:
        return Rows(
            workloads=all_of(WORKLOAD, "workload_id", lambda row: (workload_from(row), row["reported"])),
            submissions=all_of(SUBMISSION, "submission_id", submission_from),
            clusters=all_of(CLUSTER, "cluster_uuid", cluster_from),
            history=_in_order(all_of(HISTORY, "id", history_entry_from)),
        )


def _rows_of_memory(database: MemoryDatabase) -> Rows:
    workloads = database.workloads
    lines = [line for subject in database.story.subjects() for line in database.story.of(*subject)]
    return Rows(
        workloads=tuple((workloads.whole(w), int(workloads.reported(w.workload_id))) for w in workloads),
        submissions=tuple(database.submissions),
        clusters=tuple(database.clusters),
        history=_in_order(lines),
    )


def _in_order(lines: Any) -> tuple[HistoryEntry, ...]:
    return tuple(sorted(lines, key=lambda line: (line.subject, line.subject_id)))

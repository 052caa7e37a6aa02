"""The store as all its callers see it, with a look at the rows behind it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, select

from emr_executor.core.model import Cluster, HistoryEntry, Submission, Workload
from emr_executor.core.transitions import Row
from emr_executor.store.rows import cluster_from, history_entry_from, submission_from, workload_from
from emr_executor.store.runner import transact
from emr_executor.store.schema import CLUSTER, HISTORY, STEERING, SUBMISSION, WORKLOAD
from tests.inline_runner import InlineRunner
from tests.simulator.stores import Stores, in_memory, stores_on
from tests.store.builders import store


@dataclass(frozen=True)
class Rows:
    """Everything that a store holds, in the order of its keys."""

    workloads: tuple[tuple[Workload, int], ...]
    """With ``reported``."""
    submissions: tuple[Submission, ...]
    clusters: tuple[Cluster, ...]
    history: tuple[HistoryEntry, ...]


class Store(Stores):
    """One database, its users, and a look at its rows."""

    def rows(self) -> Rows:
        """What it holds now."""
        found: Rows = self.transact(_rows)
        return found

    def workload(self, workload_id: str) -> Workload | None:
        """A workload as it stands."""
        found = [w for w, _ in self.rows().workloads if w.workload_id == workload_id]
        return found[0] if found else None

    async def steer(self) -> int:
        """The token of the lease, taken from whoever has it."""
        token = await self.agent.take_lease(STEERING, "test", await self.agent.read_lease(STEERING))
        assert token is not None
        return token

    async def put(self, *values: Row) -> int:
        """New rows as they are, in whatever state; the lease's token."""
        self.transact(store, *values)
        return await self.steer()


def store_in_memory() -> Store:
    """On a database of its own, as a simulated world has it."""
    return _store(in_memory())


def store_on(engine: Engine) -> Store:
    """On the database of an engine."""
    return _store(stores_on(InlineRunner(engine), partial(transact, engine)))


def _store(stores: Stores) -> Store:
    return Store(**{field.name: getattr(stores, field.name) for field in fields(stores)})


def lean(workload: Workload) -> Workload:
    """As a snapshot shows it."""
    return replace(workload, workload={}, executor_config={})


def _rows(conn: Connection) -> Rows:
    def all_of(table: Any, key: str, make: Any) -> tuple[Any, ...]:
        return tuple(map(make, conn.execute(select(table).order_by(table.c[key])).mappings()))

    history = all_of(HISTORY, "id", history_entry_from)
    return Rows(
        workloads=all_of(WORKLOAD, "workload_id", lambda row: (workload_from(row), row["reported"])),
        submissions=all_of(SUBMISSION, "submission_id", submission_from),
        clusters=all_of(CLUSTER, "cluster_uuid", cluster_from),
        history=tuple(sorted(history, key=lambda line: (line.subject, line.subject_id))),
    )

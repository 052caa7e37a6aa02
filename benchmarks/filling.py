"""Databases as they look after a while: many tasks parked, and many more that are over.

The rows are what ``Life`` leaves behind, multiplied inside the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    String,
    Table,
    cast,
    func,
    insert,
    literal,
    select,
    true,
)

from benchmarks.life import SLOTS, Life
from emr_executor.core.model import Cluster, ClusterUuid, WorkloadId
from emr_executor.core.states import ClusterState
from emr_executor.store.change_store import Change
from emr_executor.store.dialect import engine_for
from emr_executor.store.schema import (
    AIRFLOW,
    CLUSTER,
    HISTORY,
    METADATA,
    SUBMISSION,
    TASK_INSTANCE,
    WORKLOAD,
)
from emr_executor.store.snapshot_store import task_instance_id
from tests.postgres import PostgresServer

SEEDS = 50
"""Tasks on one cluster whose rows are multiplied: of the parked ones as many as it has slots have a step."""
DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
    "shared_buffers": "128MB",
}
"""PostgreSQL's own defaults instead of what makes tests quick."""
OTHERS = "x" * 400
"""What stands in for the many columns of Airflow's task_instance that are not ours to know."""
_IDS = frozenset({"workload_id", "submission_id", "cluster_uuid", "subject_id", "run_id"})
_DIGITS = 8
"""So many characters of an id are replaced by a number."""


@dataclass(frozen=True)
class Size:
    """How many tasks are parked, and how many are over."""

    parked: int
    over: int


@dataclass(frozen=True)
class Seeds:
    """What is multiplied, and Airflow's state for it."""

    workloads: tuple[WorkloadId, ...]
    clusters: tuple[ClusterUuid, ...]
    task_state: str


@contextmanager
def databases(dialect: str, sizes: Sequence[Size], folder: Path) -> Iterator[list[Life]]:
    """A filled database for each size, all on one server or in one folder."""
    server = PostgresServer(**DURABLE) if dialect == "postgresql" else None
    lives: list[Life] = []
    try:
        for n, size in enumerate(sizes):
            url = server.database(f"bench_{n}") if server else f"sqlite:///{folder / f'bench_{n}.db'}"
            lives.append(_filled(engine_for(url), size))
        yield lives
    finally:
        for life in lives:
            life.close()
        if server:
            server.stop()


def _filled(engine: Engine, size: Size) -> Life:
    METADATA.create_all(engine)
    AIRFLOW.create_all(engine)
    with engine.begin() as conn:
        conn.exec_driver_sql(f"ALTER TABLE task_instance ADD COLUMN others VARCHAR(500) DEFAULT '{OTHERS}'")
    life = Life(engine)
    asyncio.run(_fill(life, size))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("VACUUM ANALYZE" if engine.dialect.name == "postgresql" else "ANALYZE")
    return life


async def _fill(life: Life, size: Size) -> None:
    await life.steer()
    for first, how_many, plant in ((0, size.over, _over), (50_000_000, size.parked, _parked)):
        if how_many < 2 * SEEDS or how_many % SEEDS:
            raise ValueError(f"{how_many} tasks: a multiple of {SEEDS} is needed, {2 * SEEDS} or more")
        seeds = await plant(life)
        with life.engine.begin() as conn:
            _put_task_instances(conn, WORKLOAD.c.workload_id.in_(seeds.workloads), seeds.task_state)
            _multiply(conn, seeds, first=first + 1, copies=how_many // SEEDS - 1)


async def _over(life: Life) -> Seeds:
    clusters = await launch(life, SEEDS // SLOTS + 1)
    workloads = await life.whole(SEEDS, clusters)
    over = [replace(c, state=ClusterState.TERMINATED, ended_at=c.intended_at) for c in clusters]
    await life.apply([Change(old=old, new=new) for old, new in zip(clusters, over, strict=True)])
    return Seeds(workloads, tuple(c.cluster_uuid for c in clusters), "success")


async def _parked(life: Life) -> Seeds:
    clusters = await launch(life, 1)
    workloads = life.accept(SEEDS, priority=1)
    await life.prepare(SEEDS)
    ready = (await life.look()).workloads
    await life.run(await life.place(ready[:SLOTS], clusters))
    return Seeds(workloads, tuple(c.cluster_uuid for c in clusters), "running")


async def launch(life: Life, how_many: int) -> list[Cluster]:
    """Clusters that are up."""
    intended = await life.launch(how_many)
    up = [replace(c, state=ClusterState.RUNNING, ready_at=c.intended_at) for c in intended]
    return list(await life.apply([Change(old=old, new=new) for old, new in zip(intended, up, strict=True)]))


def _put_task_instances(conn: Connection, which: ColumnElement[bool], state: str) -> None:
    names = ("dag_id", "task_id", "run_id", "map_index", "try_number")
    its_id = task_instance_id(conn.dialect.name)
    rows = select(its_id, *(WORKLOAD.c[name] for name in names), literal(state)).where(which)
    conn.execute(insert(TASK_INSTANCE).from_select(["id", *names, "state"], rows))


def _multiply(conn: Connection, seeds: Seeds, *, first: int, copies: int) -> None:
    """The rows of the seeds once more for each number from ``first`` on."""
    last = first + copies - 1
    its_submissions = select(SUBMISSION.c.submission_id).where(SUBMISSION.c.workload_id.in_(seeds.workloads))
    subjects = [*seeds.workloads, *seeds.clusters, *conn.execute(its_submissions).scalars()]
    for table, which in (
        (WORKLOAD, WORKLOAD.c.workload_id.in_(seeds.workloads)),
        (SUBMISSION, SUBMISSION.c.workload_id.in_(seeds.workloads)),
        (CLUSTER, CLUSTER.c.cluster_uuid.in_(seeds.clusters)),
        (HISTORY, HISTORY.c.subject_id.in_(subjects)),
    ):
        _multiply_rows(conn, table, which, first, last)
    copied = WORKLOAD.c.workload_id.between(f"{first:0{_DIGITS}}", f"{last + 1:0{_DIGITS}}")
    _put_task_instances(conn, copied, seeds.task_state)


def _multiply_rows(conn: Connection, table: Table, which: ColumnElement[bool], first: int, last: int) -> None:
    numbers = select(literal(first).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < last))
    names = [column.name for column in table.c if column is not HISTORY.c.id]
    copies = (
        select(*(_copied(table.c[name], numbers.c.n) for name in names))
        .select_from(table.join(numbers, true()))
        .where(which)
        .order_by(numbers.c.n)
    )
    conn.execute(insert(table).from_select(names, copies))


def _copied(column: Column[Any], n: ColumnElement[int]) -> ColumnElement[Any]:
    if column.name not in _IDS:
        return column
    digits = func.substr(cast(n + 10**_DIGITS, String), 2)
    return digits.concat(func.substr(column, _DIGITS + 1))

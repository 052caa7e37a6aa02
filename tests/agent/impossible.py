"""Rows, records and answers that no code of ours would write, and the worlds to plant them in."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table, select, update

from emr_executor.core.model import Cluster
from emr_executor.store.rows import cluster_from
from emr_executor.store.schema import CLUSTER
from tests.agent.fakes import World


def plant(world: World, table: Table, key: str, **columns: Any) -> None:
    """Write what no code of ours would write."""
    (name,) = table.primary_key.columns.keys()
    with world.engine.begin() as conn:
        values = {"version": table.c.version + 1, **columns}
        conn.execute(update(table).where(table.c[name] == key).values(values))


def cluster(world: World, cluster_id: str) -> Cluster:
    with world.engine.connect() as conn:
        one = select(CLUSTER).where(CLUSTER.c.cluster_id == cluster_id)
        return cluster_from(conn.execute(one).mappings().one())


def poison(world: World, name: str) -> None:
    """A record of its wrapper that nothing can be made of."""
    world.end(name, exit_code=1, tail=None)

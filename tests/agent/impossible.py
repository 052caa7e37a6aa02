"""Rows, records and answers that no code of ours would write, and the worlds to plant them in."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table, select, update

from emr_executor.core.model import Cluster, Submission, Workload
from emr_executor.core.states import (
    ClusterState,
    RecordPhase,
    StepState,
    WorkloadState,
)
from emr_executor.store.rows import cluster_from
from emr_executor.store.schema import CLUSTER
from tests.agent.fakes import World
from tests.builders import make_workload


def ready(name: str, **changes: Any) -> Workload:
    return make_workload(name, state=WorkloadState.READY, log_path=f"{name}.log", **changes)


async def running(world: World, *names: str) -> None:
    """Workloads of which each has a step that runs, on cluster j-1 while there is room."""
    await world.begin(*map(ready, names))
    await world.tick(times=2)
    for cluster_id in list(world.emr.clusters):
        world.emr.set_cluster(cluster_id, ClusterState.RUNNING)
    for name in names:
        step_id = world.submissions(name)[0].step_id
        assert step_id is not None
        world.emr.set_step(step_id, StepState.RUNNING)
    await world.tick(times=2)


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


def last(world: World, name: str) -> Submission:
    return world.submissions(name)[-1]


def end(world: World, name: str, exit_code: int = 0) -> None:
    world.records.write(last(world, name), RecordPhase.ENDED, exit_code=exit_code)


def poison(world: World, name: str) -> None:
    """A record of its wrapper that nothing can be made of."""
    world.records.write(last(world, name), RecordPhase.ENDED, exit_code=1, tail=None)

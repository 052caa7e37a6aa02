"""What a release leaves behind when its agent is killed: ``python -m tests.upgrade.written NAME``.

Its own agent brings tasks, clusters and steps into every live state; then database, EMR and S3 are kept in
``tests/upgrade/NAME.zip``. To be run in a checkout of that release, once: see docs/development.md.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from sqlalchemy import select

from emr_executor.core.states import (
    LIVE_SUBMISSION_STATES,
    OVER_CLUSTER_STATES,
    ClusterState,
    StepState,
    SubmissionState,
    WorkloadState,
)
from emr_executor.store import scheduler_store
from emr_executor.store.dialect import engine_for
from emr_executor.store.revision import REVISIONS
from emr_executor.store.schema import AIRFLOW, CLUSTER, SUBMISSION
from tests.simulator import loop
from tests.store.golden import config_for, dump
from tests.upgrade.world import World, first_of, id_of
from tests.wrapper.s3_server import SmallS3

FOLDER = Path(__file__).parent
RUNNING = ("runs", "fails", "ended_unseen", "lost", "is_cancelled", "finishable", "finishing", "over")


async def live(world: World) -> None:
    """The story of the tasks, each named after where it is in the end."""
    with world.engine.begin() as connection:
        deployment_id = scheduler_store.deployment_id(connection)
    host = world.agent(deployment_id)
    world.accept(*RUNNING)
    await world.until(lambda: len(world.emr.args) == len(RUNNING), "every step is added")
    for cluster_id in list(world.emr.clusters):
        world.emr.set_cluster(cluster_id, ClusterState.RUNNING)
    for name in RUNNING:
        world.begin(world.step_of(name))
    await world.until(
        lambda: column(world, SUBMISSION.c.state).count("RUNNING") == len(RUNNING), "every step runs"
    )
    await ended(world, "over")
    await world.until(lambda: world.workloads()["over"].state is WorkloadState.FINISHED, "the first is over")

    # Steps whose call was not answered: EMR has it, shows it late, or never got it; and clusters likewise.
    lost = {"intended_shown": True, "intended_shown_late": True, "intended_never_made": False}
    world.emr.unanswered = {first_of(name): is_made for name, is_made in lost.items()}
    for name in lost:
        await submitted(world, name)
    await submitted(world, "pending")
    world.emr.cancels = False
    with world.engine.begin() as connection:
        scheduler_store.ask_cancel(connection, [id_of("is_cancelled")], "cleared")
    world.emr.set_cluster(world.cluster_of(world.step_of("lost")), ClusterState.TERMINATING)
    await world.until(lambda: "TERMINATING" in column(world, CLUSTER.c.state), "a cluster is ending")
    world.emr.lose_answers = {"run_job_flow"}
    world.accept(*(f"waits_{n}" for n in range(6)))
    await world.until(lambda: "INTENDED" in column(world, CLUSTER.c.state), "a launch is not answered")
    known = {key for key in world.emr.clusters if key in column(world, CLUSTER.c.cluster_id)}
    late = {key: world.emr.clusters.pop(key) for key in world.emr.clusters.keys() - known}
    starting = [key for key, one in world.emr.clusters.items() if one.state is ClusterState.STARTING]
    world.emr.set_cluster(starting[0], ClusterState.BOOTSTRAPPING)
    await world.until(lambda: "BOOTSTRAPPING" in column(world, CLUSTER.c.state), "a cluster is bootstrapping")

    host.hang = {"preparing", "finishing"}
    world.accept("preparing")
    await ended(world, "finishing")
    claimed = {WorkloadState.PREPARING, WorkloadState.FINISHING}
    await world.until(lambda: claimed <= {one.state for one in world.workloads().values()}, "two phases")
    await ended(world, "finishable")
    world.accept("accepted")
    await world.until(
        lambda: world.workloads()["finishable"].state is WorkloadState.FINISHABLE, "one waits for its finish"
    )
    await world.kill_agent()
    world.emr.clusters |= late


def column(world: World, of: Any) -> list[str]:
    with world.engine.connect() as connection:
        return [str(value) for value in connection.execute(select(of)).scalars()]


async def submitted(world: World, name: str) -> None:
    """One more task, until its step is asked for."""
    calls = world.emr.calls.count("add_steps")
    world.accept(name)
    await world.until(lambda: world.emr.calls.count("add_steps") > calls, f"{name} is asked for")
    await asyncio.sleep(0.1)


async def ended(world: World, name: str) -> None:
    """The step of a task ends well, and EMR knows."""
    step_id = world.step_of(name)
    world.wrappers.end(first_of(name))
    world.emr.move(step_id, StepState.COMPLETED, world.clock.now())
    await asyncio.sleep(0)


async def write(path: Path) -> None:
    """Live, and keep what is left."""
    with tempfile.TemporaryDirectory() as folder:
        engine, s3 = engine_for(f"sqlite:///{folder}/airflow.db"), SmallS3()
        with engine.connect() as connection:
            command.upgrade(config_for(connection), REVISIONS[-1])
        AIRFLOW.create_all(engine)
        world = World(engine, s3, Path(folder), began_at=datetime.now(tz=UTC))
        try:
            await live(world)
            keep(world, path)
        finally:
            world.wrappers.kill_all()
            engine.dispose()
            s3.close()


def keep(world: World, path: Path) -> None:
    """The zip: rows, what EMR shows, objects; and below ``later/`` what steps wrote after the agent's end."""
    names = {
        state: [name for name, one in world.workloads().items() if one.state is state]
        for state in WorkloadState
    }
    assert [state for state, of in names.items() if not of] == [WorkloadState.CANCELLED], names
    assert {SubmissionState(state) for state in column(world, SUBMISSION.c.state)} >= LIVE_SUBMISSION_STATES
    found = {ClusterState(state) for state in column(world, CLUSTER.c.state)}
    assert set(ClusterState) - OVER_CLUSTER_STATES - {ClusterState.WAITING} <= found, found
    assert column(world, SUBMISSION.c.state).count("INTENDED") == 3
    unseen = world.step_of("ended_unseen")
    world.wrappers.end(first_of("ended_unseen"))
    world.emr.move(unseen, StepState.COMPLETED, world.clock.now())
    at_the_end = dict(world.s3.objects)
    codes = {name: world.wrappers.end(first_of(name)) for name in ("runs", "fails")}
    assert codes == {"runs": 0, "fails": 3}
    later = {
        key: data
        for key, data in world.s3.objects.items()
        if at_the_end.get(key) != data and any(first_of(name) in key for name in codes)
    }
    with world.engine.connect() as connection:
        rows = dump(connection)
    emr = {
        "clusters": [
            {"id": key, "name": one.name, "state": one.state} for key, one in world.emr.clusters.items()
        ],
        "steps": [
            {
                "cluster": cluster_id,
                "id": step.step_id,
                "name": step.name,
                "state": step.state,
                "started_at": step.started_at and step.started_at.isoformat(),
                "args": world.emr.args[step.step_id],
            }
            for cluster_id, steps in world.emr.steps.items()
            for step in steps
        ],
    }
    left = {"revision": REVISIONS[-1], "at": world.clock.now().isoformat(), "emr": emr, "database": rows}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("left.json", json.dumps(left, indent=1, sort_keys=True))
        for folder, objects in (("bucket", at_the_end), ("later", later)):
            for key, data in sorted(objects.items()):
                file.writestr(f"{folder}{key}", data)


def main() -> None:
    """Write the file of the release whose code this is."""
    loop.run(write(FOLDER / f"{sys.argv[1]}.zip"), seed=0)


if __name__ == "__main__":
    main()

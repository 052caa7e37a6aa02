"""What every release left behind is brought to its right end by this one."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine
from structlog.testing import capture_logs

from emr_executor.aws.layout import claims_first
from emr_executor.core.model import ClusterId, ObservedCluster, ObservedStep, StepId
from emr_executor.core.states import OVER_CLUSTER_STATES, ClusterState, StepState, WorkloadState
from emr_executor.store import scheduler_store
from emr_executor.store.dialect import engine_for
from emr_executor.store.schema import AIRFLOW
from tests.simulator import loop
from tests.store.golden import config_for, insert_rows
from tests.upgrade.world import JOB, SETTINGS, World
from tests.wrapper.s3_server import SmallS3

RELEASES = sorted(Path(__file__).parent.glob("*.zip"), key=lambda path: path.stem)
DOWN_S = 600.0
"""How long no agent was there."""
ENDED_THERE = {"runs", "fails", "ended_unseen", "finishing", "finishable", "over", "is_cancelled"}
"""Tasks whose step began before the upgrade, on a cluster that stayed."""
SHOWN_LATE_S = SETTINGS.lease_s + 25.0
"""EMR's reads are stale for so long: when the new agent has the lease, it looks in vain for a while."""


class Left:
    """What a release left behind: ``left`` and the objects, and those that running steps wrote later."""

    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as file:
            self.left: dict[str, Any] = json.loads(file.read("left.json"))
            parts = [(name.partition("/"), file.read(name)) for name in file.namelist()]
        self.bucket = {f"/{key}": data for (folder, _, key), data in parts if folder == "bucket"}
        self.later = {f"/{key}": data for (folder, _, key), data in parts if folder == "later"}
        self.at = datetime.fromisoformat(self.left["at"])
        self.rows: dict[str, list[dict[str, Any]]] = self.left["database"]
        self.deployment_id: str = self.rows["emr_deployment"][0]["deployment_id"]

    def show(self, world: World) -> None:
        """EMR and Airflow as they were."""
        for one in self.left["emr"]["clusters"]:
            cluster_id = ClusterId(one["id"])
            world.emr.clusters[cluster_id] = ObservedCluster(
                cluster_id=cluster_id, name=one["name"], state=ClusterState(one["state"])
            )
            world.emr.steps[cluster_id] = []
        for one in self.left["emr"]["steps"]:
            step = ObservedStep(
                step_id=StepId(one["id"]),
                name=one["name"],
                state=StepState(one["state"]),
                started_at=one["started_at"] and datetime.fromisoformat(one["started_at"]),
            )
            world.emr.steps[ClusterId(one["cluster"])].append(step)
            world.emr.args[step.step_id] = tuple(one["args"])
        with world.engine.begin() as connection:
            for row in self.rows["emr_workload"]:
                is_over = row["state"] == WorkloadState.FINISHED
                world.add_task(connection, row["task_id"], "success" if is_over else "running")


@pytest.fixture(params=RELEASES, ids=lambda path: path.stem)
def left(request: pytest.FixtureRequest) -> Left:
    return Left(request.param)


@pytest.fixture
def migrated(left: Left, tmp_path: Path) -> Iterator[Engine]:
    """The release's database, after ``airflow db migrate``."""
    engine = engine_for(f"sqlite:///{tmp_path}/airflow.db")
    with engine.connect() as connection:
        command.upgrade(config_for(connection), left.left["revision"])
        insert_rows(connection, left.rows)
        command.upgrade(config_for(connection), "head")
    AIRFLOW.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def s3(left: Left) -> Iterator[SmallS3]:
    server = SmallS3()
    server.objects.update(left.bucket)
    yield server
    server.close()


async def live_on(left: Left, engine: Engine, s3: SmallS3, folder: Path) -> World:
    """The next agent, until nothing of the tries that were left is open."""
    world = World(engine, s3, folder, began_at=left.at + timedelta(seconds=DOWN_S))
    left.show(world)
    world.emr.unshown.add(world.step_of("intended_shown_late"))
    world.agent(left.deployment_id)
    going_on = asyncio.ensure_future(world.emr_goes_on())
    await asyncio.sleep(SHOWN_LATE_S)
    world.emr.unshown.clear()
    s3.objects.update(left.later)
    for name, state in (("runs", StepState.COMPLETED), ("fails", StepState.FAILED)):
        world.emr.move(world.step_of(name), state, world.clock.now())
    over = {WorkloadState.FINISHED, WorkloadState.CANCELLED}
    await world.until(
        lambda: all(one.state in over for one in world.workloads().values()), "all over", within_s=1200.0
    )
    await world.until(
        lambda: all(one.state in OVER_CLUSTER_STATES for one in world.emr.clusters.values()), "none is left"
    )
    await world.kill_agent()
    going_on.cancel()
    return world


@pytest.mark.processes
def test_every_try_that_a_release_left_ends_well(
    left: Left, migrated: Engine, s3: SmallS3, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        world = loop.run(live_on(left, migrated, s3, tmp_path), seed=0)
    workloads = world.workloads()
    states = {name: one.airflow_state for name, one in workloads.items()}
    assert states == dict.fromkeys(workloads, "success") | {"fails": "failed", "is_cancelled": None}
    assert {name for name, one in workloads.items() if one.quarantine} == set()
    outcome = workloads["fails"].outcome
    assert outcome is not None
    assert (outcome.cause, outcome.submissions) == ("two (exit code 3)", 1)

    began = Counter(world.name_of(submission_id) for submission_id in world.wrappers.began)
    assert began == Counter(workloads.keys() - ENDED_THERE), "what ran is not run again, all else runs once"
    sent = Counter(args[-1] for args in world.emr.args.values() if not claims_first(args[0]))
    assert {submission_id for submission_id, steps in sent.items() if steps > 1} == set(), (
        "a step whose wrapper claims nothing would run twice"
    )
    assert world.emr.most_clusters <= SETTINGS.cluster_pools[0].max_clusters

    for name in ("runs", "fails", "ended_unseen"):
        lines = world.log.lines[f"{name}.log"]
        assert [line for line in lines if line in ("two", f"one of {name}")] == ["two"], "its output goes on"
    parked = {WorkloadState.READY, WorkloadState.SUBMITTED}
    rows = [row for row in left.rows["emr_workload"] if row["state"] in parked and row["target"] == "RUN"]
    unheard = {row["workload_id"] for row in rows} - world.api.heard
    first_beat_at = left.at + timedelta(seconds=DOWN_S + SETTINGS.task_heartbeat_interval_s)
    ended = {one.workload_id: one.finished_at for one in workloads.values()}
    assert {ended[one] > first_beat_at for one in unheard} <= {False}, "who lives on is heard of"
    assert [entry for entry in logs if entry["log_level"] in ("error", "critical")] == []
    assert [key for key in s3.objects if "/state/" in key] == [], "records that served are deleted"
    with migrated.begin() as connection:
        told = scheduler_store.take_outcomes(connection, JOB, 100)
    assert {one.key.task_id for one in told} == workloads.keys()

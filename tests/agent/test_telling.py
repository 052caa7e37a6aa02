"""A task's log says why it waits: once for each piece of news, whatever comes and goes in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from emr_executor.agent.desk import Desk
from emr_executor.agent.telling import AGAIN_S, Telling
from emr_executor.core.model import WorkloadId
from emr_executor.core.states import ClusterState, StepState, WorkloadState
from emr_executor.core.waiting import Reason
from tests.agent.fakes import World
from tests.builders import NOW, make_snapshot, make_workload

MINE = WorkloadId("w1")


class Log:
    """One task, whose reasons a test gives."""

    def __init__(self) -> None:
        self.telling, self.monotonic = Telling(), 0.0
        self.desk = Desk(make_snapshot(make_workload("w1", log_path="w1.log")))

    def tick(self, *news: str, seconds: float = 1.0) -> None:
        self.monotonic += seconds
        found = [Reason(workload_id=MINE, why=one, news=one) for one in news]
        self.telling.tell(self.desk, found, NOW, monotonic=self.monotonic)

    @property
    def lines(self) -> list[str]:
        return [line["event"].removeprefix("waiting: ") for line in self.desk._lines.get("w1.log", [])]


def test_what_stands_is_told_once() -> None:
    log = Log()
    for _ in range(1000):
        log.tick("full")
    assert log.lines == ["full"]


def test_two_reasons_that_take_turns_are_told_once_each() -> None:
    """One task wrote 92 lines in 15 minutes."""
    log = Log()
    for _ in range(450):
        log.tick("full")
        log.tick("held")
    assert log.lines == ["full", "held"]


def test_a_reason_that_came_back_is_told_again_when_it_stands() -> None:
    log = Log()
    log.tick("full")
    log.tick("held")
    log.tick("full")
    log.tick("full", seconds=AGAIN_S - 1)
    assert log.lines == ["full", "held"]
    log.tick("full", seconds=1)
    log.tick("full", seconds=AGAIN_S)
    assert log.lines == ["full", "held", "full"]


def test_a_task_that_is_gone_is_forgotten() -> None:
    log = Log()
    log.tick("full")
    log.desk.workloads.clear()
    log.tick()
    assert log.telling._told == {}


@pytest.fixture
def world(engine: Engine, tmp_path: Path) -> World:
    return World(engine, tmp_path / "logs")


def events(world: World, name: str) -> list[str]:
    return [json.loads(line)["event"] for line in world.log(name).splitlines()]


async def test_a_step_whose_end_is_held_says_until_when_in_its_own_log(world: World) -> None:
    await world.begin(make_workload("w1", state=WorkloadState.READY, log_path="w1.log"))
    await world.tick(times=2)
    world.emr.set_cluster("j-1", ClusterState.WAITING)
    await world.tick(times=3)
    (submission,) = world.submissions("w1")
    assert submission.step_id is not None
    world.emr.set_step(submission.step_id, StepState.FAILED)
    await world.tick(seconds=20, times=4)
    (held,) = [line for line in events(world, "w1.log") if "(loss_hold)" in line]
    assert held.startswith("waiting: its step on cluster j-1 is FAILED without its wrapper's last words")
    assert "(loss_hold), and run elsewhere if the cluster ends by then" in held

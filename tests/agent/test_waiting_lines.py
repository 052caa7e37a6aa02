"""A task's log says why it waits: once for each piece of news, whatever comes and goes in between."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace

import pytest

from emr_executor.agent import waiting_lines
from emr_executor.agent.tasklog import FileTaskLog
from emr_executor.agent.waiting_lines import AGAIN_S, ROUND_S, LinesBetweenTicks, WaitingLines
from emr_executor.core.model import WorkloadId
from emr_executor.core.states import ClusterState, StepState, WorkloadState, WorkloadTarget
from emr_executor.core.waiting import Reason, at_clock
from tests.agent.fakes import World, surroundings
from tests.builders import NOW, make_workload

MINE = WorkloadId("w1")


class Log:
    """One task, whose reasons a test gives."""

    def __init__(self) -> None:
        self.waiting_lines, self.monotonic = WaitingLines(), 0.0
        self.lines: list[str] = []

    def tick(self, *news: str, seconds: float = 1.0) -> None:
        self.monotonic += seconds
        found = [Reason(workload_id=MINE, why=one, news=one) for one in news]
        told = self.waiting_lines.news(found, NOW, monotonic=self.monotonic)
        self.lines += [line["event"].removeprefix("waiting: ") for _, line in told]


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
    log.waiting_lines.forget({MINE})
    log.tick("full")
    assert log.lines == ["full"]
    log.waiting_lines.forget(set())
    assert log.waiting_lines._told == {}


def events(world: World, name: str) -> list[str]:
    return [json.loads(line)["event"] for line in world.log(name).splitlines()]


async def test_a_step_whose_end_is_held_says_until_when_in_its_own_log(world: World) -> None:
    await world.placed("w1")
    world.emr.set_cluster("j-1", ClusterState.WAITING)
    await world.tick(times=3)
    world.show("w1", StepState.FAILED)
    await world.tick(seconds=20, times=4)
    (held,) = [line for line in events(world, "w1.log") if "(loss_hold)" in line]
    assert held.startswith("waiting: its step on cluster j-1 is FAILED without its wrapper's final record")
    assert "(loss_hold), and run elsewhere if the cluster ends by then" in held


class Line:
    """Tasks in a real store that no tick looks at, and the rounds that tell them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.no_runner: str | None = None
        around = surroundings(
            store=world.store,
            task_log=FileTaskLog(world.log_folder),
            clock=world.clock,
            host=SimpleNamespace(capacity=2),
        )
        self.waiting_lines = LinesBetweenTicks(around, WaitingLines(), no_runner=lambda: self.no_runner)

    async def minute(self) -> None:
        for _ in range(int(60 / ROUND_S)):
            self.world.clock.passed_s += ROUND_S
            await self.waiting_lines.round()


async def test_a_task_that_no_task_runner_has_taken_says_so_within_a_minute_and_once(world: World) -> None:
    for state in (WorkloadState.ACCEPTED, WorkloadState.FINISHABLE):
        await world.begin(make_workload(state, state=state, log_path=f"{state}.log"))
    line = Line(world)
    await line.minute()
    await line.minute()
    for state, what in (("ACCEPTED", "prepared"), ("FINISHABLE", "finished in Airflow")):
        assert events(world, f"{state}.log") == [
            f"waiting: for a task runner (2 at once, task_runner_parallelism) to be {what}"
        ]


async def test_a_task_is_told_why_there_is_no_task_runner_and_when_it_is_tried_again(world: World) -> None:
    later = world.clock.now() + timedelta(minutes=10)
    await world.begin(
        make_workload("w1", state=WorkloadState.ACCEPTED, log_path="w1.log"),
        make_workload("w2", state=WorkloadState.ACCEPTED, log_path="w2.log", not_before=later),
    )
    line = Line(world)
    await line.minute()
    line.no_runner = "the task host cannot be started: no memory"
    await line.minute()
    assert events(world, "w1.log")[1:] == [
        (
            "waiting: for a task runner (2 at once, task_runner_parallelism) to be prepared; "
            "there is none now: the task host cannot be started: no memory"
        )
    ]
    assert events(world, "w2.log")[0] == f"waiting: to be prepared once more, at {at_clock(later)}"


async def test_a_parked_task_that_no_look_reaches_says_so_and_the_first_do_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_lines, "READY_LIMIT", 1)
    parked = [
        make_workload(f"w{n}", state=WorkloadState.READY, priority_weight=9 - n, log_path=f"w{n}.log")
        for n in range(3)
    ]
    await world.begin(*parked)
    line = Line(world)
    await line.minute()
    assert world.log("w0.log") == ""
    for name in ("w1.log", "w2.log"):
        assert events(world, name) == [
            "waiting: 1 tasks or more have their turn before it, and so many are looked at for a slot"
        ]


async def test_who_is_no_longer_wanted_or_in_quarantine_is_not_told_that_it_waits(world: World) -> None:
    await world.begin(
        make_workload("w1", state=WorkloadState.ACCEPTED, target=WorkloadTarget.CANCEL, log_path="w1.log"),
        make_workload("w2", state=WorkloadState.ACCEPTED, quarantine="a bug", log_path="w2.log"),
    )
    await Line(world).minute()
    assert world.log("w1.log") == world.log("w2.log") == ""

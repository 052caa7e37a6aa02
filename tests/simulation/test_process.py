"""Simulated processes: a killed one runs nothing any more, its children included, and is told of once."""

from __future__ import annotations

import asyncio
import random

from tests.simulation.virtual_time import in_virtual_time
from tests.simulator.fault_profile import FaultProfile
from tests.simulator.process import SimProcess, task_factory


class Life:
    """Two processes whose tasks count seconds, each also in a child task, until they are killed."""

    def __init__(self) -> None:
        asyncio.get_running_loop().set_task_factory(task_factory)
        self.ended: list[tuple[str, str]] = []
        self.seconds: dict[str, int] = {}
        self.said: list[str] = []

    def process(self, name: str) -> SimProcess:
        return SimProcess(
            name,
            FaultProfile(),
            random.Random(1),
            on_end=lambda process, where: self.ended.append((process.name, where)),
        )

    async def count(self, name: str) -> None:
        while True:
            await asyncio.sleep(1)
            self.seconds[name] = self.seconds.get(name, 0) + 1

    async def parent(self, name: str) -> None:
        children = [asyncio.ensure_future(self.count(f"{name}/{n}")) for n in range(2)]
        grandchild = asyncio.ensure_future(self.nested(name))
        await asyncio.gather(*children, grandchild)

    async def nested(self, name: str) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.count(f"{name}/nested"))

    async def patient(self, process: SimProcess) -> None:
        try:
            await process.gate.before("store", "act")
            await asyncio.sleep(3600)
        finally:
            await process.gate.before("store", "act")
            self.said.append("a last word")


@in_virtual_time(Life)
async def test_a_killed_process_runs_nothing_any_more_children_included(life: Life) -> None:
    doomed, other = life.process("doomed"), life.process("other")
    doomed.start(life.parent("doomed"))
    other.start(life.parent("other"))
    await asyncio.sleep(10.5)
    doomed.kill("by hand")
    assert doomed.is_dead
    await asyncio.sleep(10)
    counted = {name: life.seconds[f"{name}/{n}"] for name in ("doomed", "other") for n in (0, 1, "nested")}
    assert counted == {"doomed": 10, "other": 20}
    assert not other.is_dead


@in_virtual_time(Life)
async def test_an_end_is_told_once(life: Life) -> None:
    process = life.process("p")
    process.start(life.count("p"))
    await asyncio.sleep(1.5)
    process.kill("by hand")
    process.kill("again")
    assert life.ended == [], "not in the middle of whatever killed it"
    await asyncio.sleep(1)
    process.kill("and again")
    await asyncio.sleep(1)
    assert life.ended == [("p", "by hand")]


@in_virtual_time(Life)
async def test_no_finally_of_the_dead_reaches_the_world(life: Life) -> None:
    process = life.process("p")
    process.start(life.patient(process))
    await asyncio.sleep(1)
    process.kill()
    await asyncio.sleep(10)
    assert life.said == []
    assert life.ended == [("p", "from outside")]

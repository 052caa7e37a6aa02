"""The gate of a process: a crash before or after a call, refusals, lost answers, and standing still."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from emr_executor.errors import AwsUnavailable, StoreBusy, TryAgain
from tests.simulator.fault_profile import FaultProfile
from tests.simulator.fault_proxy import Gate, through
from tests.simulator.loop import run


@dataclass
class Port:
    """Counts the calls that had their effect."""

    done: list[str] = field(default_factory=list)
    capacity: int = 4

    async def act(self, what: str = "") -> str:
        self.done.append(what)
        return f"did {what}"


class Door:
    """A port behind a gate; ``crashes`` are the places where its process died."""

    def __init__(self, profile: FaultProfile | None = None, port: str = "store") -> None:
        self.profile = profile or FaultProfile()
        self.crashes: list[str] = []
        self.counts: Counter[str] = Counter()
        self.target = Port()
        self.gate = Gate(
            "p", self.profile, random.Random(1), on_crash=lambda _, where: self.crashes.append(where)
        )
        self.port = through(self.gate, port, self.target, self.counts)

    async def never_returns(self, call: Coroutine[Any, Any, Any], within_s: float = 3600.0) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, within_s)


def test_a_call_on_a_good_day_goes_through() -> None:
    async def life() -> None:
        door = Door()
        assert await door.port.act("a") == "did a"
        assert door.port.capacity == 4
        assert (door.target.done, door.counts) == (["a"], {"store.act": 1})

    run(life(), seed=1)


def test_a_crash_before_a_call_leaves_no_effect_and_never_returns() -> None:
    async def life() -> None:
        door = Door(FaultProfile(crash=1.0))
        await door.never_returns(door.port.act())
        assert (door.target.done, door.crashes, door.gate.is_dead) == ([], ["before store.act"], True)
        door.profile.calm()
        await door.never_returns(door.port.act())
        assert (door.target.done, door.crashes) == ([], ["before store.act"]), "the dead do nothing"

    run(life(), seed=1)


def test_a_crash_after_a_call_leaves_its_effect_and_never_returns() -> None:
    async def life() -> None:
        door = Door()

        async def act_and_set_the_trap(what: str) -> None:
            door.target.done.append(what)
            door.profile.crash = 1.0

        door.target.act = act_and_set_the_trap  # type: ignore[method-assign,assignment]
        await door.never_returns(door.port.act("a"))
        assert (door.target.done, door.crashes) == (["a"], ["after store.act"])

    run(life(), seed=1)


def test_a_process_that_dies_during_a_call_does_not_hear_its_answer() -> None:
    async def life() -> None:
        door = Door()

        async def act_and_die(what: str) -> None:
            door.target.done.append(what)
            door.gate.crash("from outside")

        door.target.act = act_and_die  # type: ignore[method-assign,assignment]
        await door.never_returns(door.port.act("a"))
        assert (door.target.done, door.crashes) == (["a"], ["from outside"])

    run(life(), seed=1)


@pytest.mark.parametrize(
    ("port", "error"), [("store", StoreBusy), ("records", AwsUnavailable), ("host", TryAgain)]
)
def test_a_refused_call_has_no_effect(port: str, error: type[Exception]) -> None:
    async def life() -> None:
        door = Door(FaultProfile(refused=1.0), port)
        with pytest.raises(error, match="was refused"):
            await door.port.act()
        assert door.target.done == []

    run(life(), seed=1)


def test_a_port_that_is_away_refuses_every_call() -> None:
    async def life() -> None:
        door = Door(FaultProfile(down={"store"}))
        with pytest.raises(StoreBusy, match="was refused"):
            await door.port.act()
        door.profile.down.clear()
        assert await door.port.act("a") == "did a"

    run(life(), seed=1)


def test_an_answer_of_the_store_is_lost_after_the_effect() -> None:
    async def life() -> None:
        door = Door(FaultProfile(answer_lost=1.0))
        with pytest.raises(StoreBusy, match=r"the answer of store\.act was lost"):
            await door.port.act("a")
        assert door.target.done == ["a"]
        other = Door(FaultProfile(answer_lost=1.0), "records")
        assert await other.port.act("b") == "did b", "only the store's answers get lost here"

    run(life(), seed=1)


@pytest.mark.parametrize("port", ["emr", "api"])
def test_refusals_of_emr_and_airflow_are_their_models_own(port: str) -> None:
    async def life() -> None:
        door = Door(FaultProfile(refused=1.0, answer_lost=1.0), port)
        assert await door.port.act("a") == "did a"

    run(life(), seed=1)


def test_a_frozen_process_goes_on_when_it_thaws() -> None:
    async def life() -> None:
        door = Door()
        door.gate.freeze()
        door.gate.freeze()
        call = asyncio.ensure_future(door.port.act("a"))
        await asyncio.sleep(600)
        assert not call.done()
        assert door.target.done == []
        door.gate.thaw()
        assert await call == "did a"
        door.gate.thaw()

    run(life(), seed=1)


def test_a_frozen_process_that_is_killed_never_goes_on() -> None:
    async def life() -> None:
        door = Door()
        door.gate.freeze()
        call = asyncio.ensure_future(door.port.act("a"))
        await asyncio.sleep(1)
        door.gate.crash("from outside")
        door.gate.thaw()
        await asyncio.sleep(600)
        assert (call.done(), door.target.done) == (False, [])

    run(life(), seed=1)


def test_a_slow_call_takes_its_time() -> None:
    async def life() -> float:
        await asyncio.gather(*(Door(FaultProfile(slow=1.0), "emr").port.act() for _ in range(8)))
        return asyncio.get_running_loop().time()

    assert 0.1 < run(life(), seed=1) <= 16.0

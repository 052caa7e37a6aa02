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
from tests.simulation.virtual_time import in_virtual_time
from tests.simulator.fault_profile import FaultProfile
from tests.simulator.fault_proxy import Gate, through
from tests.simulator.loop import run
from tests.simulator.stores import in_memory


@dataclass
class Port:
    """Counts the calls that had their effect. ``meanwhile``: what happens in the middle of one."""

    done: list[str] = field(default_factory=list)
    capacity: int = 4

    def meanwhile(self) -> None:
        """Nothing."""

    async def act(self, what: str = "") -> str:
        self.done.append(what)
        self.meanwhile()
        return f"did {what}"


class Door:
    """A port behind a gate; ``crashes`` are the places where its process died."""

    def __init__(self, port: str = "store", **faults: Any) -> None:
        self.profile = FaultProfile(**faults)
        self.crashes: list[str] = []
        self.counts: Counter[str] = Counter()
        self.target = Port()
        self.gate = Gate(
            "p", self.profile, random.Random(1), on_crash=lambda _, where: self.crashes.append(where)
        )
        self.port = through(self.gate, port, self.target, self.counts)

    async def never_returns(self, call: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 3600.0)


@in_virtual_time()
async def test_a_call_on_a_good_day_goes_through() -> None:
    door = Door()
    assert await door.port.act("a") == "did a"
    assert door.port.capacity == 4
    assert (door.target.done, door.counts) == (["a"], {"store.act": 1})


@pytest.mark.parametrize(
    ("when", "done", "where"),
    [
        ("before", [], "before store.act"),
        ("after", ["a"], "after store.act"),
        ("within", ["a"], "from outside"),
    ],
)
@in_virtual_time()
async def test_a_call_at_which_its_process_dies_never_returns(when: str, done: list[str], where: str) -> None:
    door = Door(crash=1.0 if when == "before" else 0.0)

    def meanwhile() -> None:
        if when == "after":
            door.profile.crash = 1.0
        else:
            door.gate.crash("from outside")

    door.target.meanwhile = meanwhile  # type: ignore[method-assign]
    await door.never_returns(door.port.act("a"))
    door.profile.calm()
    await door.never_returns(door.port.act("b"))
    assert (door.target.done, door.crashes, door.gate.is_dead) == (done, [where], True)


@pytest.mark.parametrize(
    ("port", "error"), [("store", StoreBusy), ("records", AwsUnavailable), ("host", TryAgain)]
)
@pytest.mark.parametrize("is_away", [True, False])
@in_virtual_time()
async def test_a_refused_call_has_no_effect(port: str, error: type[Exception], is_away: bool) -> None:
    door = Door(port, **({"down": {port}} if is_away else {"refused": 1.0}))
    with pytest.raises(error, match="was refused"):
        await door.port.act()
    assert door.target.done == []
    door.profile.calm()
    assert await door.port.act("a") == "did a"


@in_virtual_time()
async def test_an_answer_of_the_store_is_lost_after_the_effect_and_no_other() -> None:
    door, other = Door(answer_lost=1.0), Door("records", answer_lost=1.0)
    with pytest.raises(StoreBusy, match=r"the answer of store\.act was lost"):
        await door.port.act("a")
    assert door.target.done == ["a"]
    assert await other.port.act("b") == "did b"


@in_virtual_time()
async def test_what_a_phase_calls_of_the_store_passes_its_gate() -> None:
    gate = Door(refused=1.0).gate
    with pytest.raises(StoreBusy, match=r"store\.renew_claim was refused"):
        await through(gate, "store", in_memory().phase).renew_claim("w", "token")


@pytest.mark.parametrize("port", ["emr", "api"])
@in_virtual_time()
async def test_refusals_of_emr_and_airflow_are_their_models_own(port: str) -> None:
    assert await Door(port, refused=1.0, answer_lost=1.0).port.act("a") == "did a"


@pytest.mark.parametrize("is_killed", [False, True])
@in_virtual_time()
async def test_a_frozen_process_goes_on_when_it_thaws_unless_it_is_killed(is_killed: bool) -> None:
    door = Door()
    door.gate.freeze()
    door.gate.freeze()
    call = asyncio.ensure_future(door.port.act("a"))
    await asyncio.sleep(600)
    assert (call.done(), door.target.done) == (False, [])
    if is_killed:
        door.gate.crash("from outside")
    door.gate.thaw()
    door.gate.thaw()
    await asyncio.sleep(600)
    assert (call.done(), door.target.done) == ((False, []) if is_killed else (True, ["a"]))


def test_a_slow_call_takes_its_time() -> None:
    async def life() -> float:
        await asyncio.gather(*(Door("emr", slow=1.0).port.act() for _ in range(8)))
        return asyncio.get_running_loop().time()

    assert 0.1 < run(life(), seed=1) <= 16.0

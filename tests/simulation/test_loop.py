"""The virtual loop: time jumps, one seed is one order, and a hang is an error."""

from __future__ import annotations

import asyncio

import pytest

from emr_executor.errors import Bug
from tests.simulator.clock import VirtualClock
from tests.simulator.loop import Deadlock, Livelock, run


async def _nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def _race(order: list[int]) -> float:
    async def worker(number: int) -> None:
        for _ in range(3):
            await asyncio.sleep(600)
            order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(worker(number))
    return asyncio.get_running_loop().time()


def _order(seed: int) -> list[int]:
    order: list[int] = []
    assert run(_race(order), seed=seed) == pytest.approx(1800.0)
    return order


def test_one_seed_is_one_order_and_another_seed_another() -> None:
    assert _order(1) == _order(1)
    assert len({tuple(_order(seed)) for seed in range(10)}) > 1


def test_a_hang_is_an_error_at_once() -> None:
    async def wait_for_nothing() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="no timer is set"):
        run(wait_for_nothing(), seed=1)


def test_the_shortest_wait_takes_time() -> None:
    async def wait_until(moment: float) -> float:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1085.015)
        while loop.time() < moment:
            await _nap((moment - loop.time()) / 2)
        return loop.time()

    assert run(wait_until(1085.0150000001), seed=1) == pytest.approx(1085.015)


def test_work_without_end_is_an_error() -> None:
    async def busy() -> None:
        while True:
            await _nap(0)

    with pytest.raises(Livelock, match="time stands still"):
        run(busy(), seed=1)


def test_a_timeout_passes_in_virtual_time() -> None:
    async def wait_a_day() -> float:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 86_400)
        return asyncio.get_running_loop().time()

    assert run(wait_a_day(), seed=1) == pytest.approx(86_400)


def test_threads_are_refused() -> None:
    with pytest.raises(Bug, match="may not use threads"):
        run(asyncio.to_thread(print), seed=1)


def test_two_looks_at_a_hosts_clock_never_show_the_same_moment() -> None:
    async def looks() -> list[float]:
        clock = VirtualClock(asyncio.get_running_loop(), look_s=1e-5)
        return [clock.monotonic(), clock.monotonic(), clock.now().timestamp()]

    first, second, _ = seen = run(looks(), seed=1)
    assert first < second
    assert run(looks(), seed=1) == seen

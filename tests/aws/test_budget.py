from __future__ import annotations

import asyncio

import pytest

from emr_executor.agent.cluster_tracker import POLL_WITHIN_S
from emr_executor.aws.budget import EMR_BUCKETS, RECOVER_S, Budget
from emr_executor.errors import BudgetSpent
from tests.simulation.virtual_time import in_virtual_time
from tests.simulator.clock import VirtualClock

with_clock = in_virtual_time(lambda: VirtualClock(asyncio.get_running_loop()))


async def take_many(budget: Budget, *operations: str) -> list[tuple[str, float]]:
    """When each call was let through, in virtual seconds."""
    loop = asyncio.get_running_loop()
    passed: list[tuple[str, float]] = []

    async def one(operation: str) -> None:
        await budget.take(operation)
        passed.append((operation, loop.time()))

    await asyncio.gather(*(one(operation) for operation in operations))
    return passed


@with_clock
async def test_burst_at_once_then_the_refill(clock: VirtualClock) -> None:
    times = [time for _, time in await take_many(Budget(clock), *["ListSteps"] * 13)]
    assert times == pytest.approx([0.0] * 10 + [2.0, 4.0, 6.0], abs=0.05)


@with_clock
async def test_account_bounds_all_operations_together(clock: VirtualClock) -> None:
    buckets = {"A": (100.0, 100.0), "B": (100.0, 100.0)}
    times = [time for _, time in await take_many(Budget(clock, buckets), *["A", "B"] * 20)]
    assert [time < 0.001 for time in times].count(True) == 25
    assert times[-1] == pytest.approx(15 / 5.0, abs=0.05)


@with_clock
async def test_one_empty_bucket_does_not_hold_another_operation(clock: VirtualClock) -> None:
    passed = await take_many(Budget(clock), *["ListSteps"] * 12, "AddJobFlowSteps")
    assert dict(passed)["AddJobFlowSteps"] < 0.001


@with_clock
async def test_first_come_first_served(clock: VirtualClock) -> None:
    budget = Budget(clock, {"A": (1.0, 1.0)})
    order: list[int] = []

    async def one(n: int) -> None:
        await asyncio.sleep(n / 1000)
        await budget.take("A")
        order.append(n)

    await asyncio.gather(*(one(n) for n in range(6)))
    assert order == list(range(6))


@with_clock
async def test_throttled_halves_the_rate_and_time_brings_it_back(clock: VirtualClock) -> None:
    budget = Budget(clock, {"A": (2.0, 1.0)})
    budget.throttled("A")
    assert budget.wait_s("A") == pytest.approx(2.0)
    for _ in range(20):
        budget.throttled("A")
    assert budget.wait_s("A") == pytest.approx(20.0), "the floor: calls never stop for good"
    await asyncio.sleep(RECOVER_S + 10)
    assert budget.wait_s("A") == 0.0
    began = clock.monotonic()
    assert (await take_many(budget, *["A"] * 4))[-1][1] - began == pytest.approx(2.0, abs=0.05)


@with_clock
async def test_retries_inside_botocore_are_paid_for(clock: VirtualClock) -> None:
    budget = Budget(clock, {"A": (3.0, 1.0)})
    await budget.take("A")
    budget.answered("A", retries=2)
    assert budget.wait_s("A") == pytest.approx(1.0)


@with_clock
async def test_unknown_operation_has_a_small_bucket(clock: VirtualClock) -> None:
    passed = await take_many(Budget(clock), *["SomethingNew"] * 6)
    assert passed[-1][1] == pytest.approx(2.0, abs=0.05)


@with_clock
async def test_cancelled_waiter_takes_no_token(clock: VirtualClock) -> None:
    budget = Budget(clock, {"A": (1.0, 1.0)})
    await budget.take("A")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(budget.take("A"), 0.5)
    await asyncio.sleep(0.5)
    assert budget.wait_s("A") == 0.0


def test_every_operation_that_the_client_calls_has_its_bucket() -> None:
    called = "RunJobFlow AddJobFlowSteps ListSteps CancelSteps ListClusters DescribeCluster TerminateJobFlows"
    assert {*called.split()} <= set(EMR_BUCKETS)


@in_virtual_time(lambda: VirtualClock(asyncio.get_running_loop(), look_s=0.001))
async def test_a_look_takes_the_tokens_that_are_there_and_waits_for_none(clock: VirtualClock) -> None:
    budget = Budget(clock)
    for _ in range(10):
        await budget.take("ListSteps", within_s=POLL_WITHIN_S)
    with pytest.raises(BudgetSpent):
        await budget.take("ListSteps", within_s=POLL_WITHIN_S)
    assert clock.monotonic() < 1.0

"""Heartbeats of parked tries: what an API server that is away costs, and what it does not."""

from __future__ import annotations

import pytest

from emr_executor.agent.heartbeats import PARALLEL_HEARTBEATS, RETRY_S, Heartbeats
from emr_executor.core.model import Identity, WorkloadId
from emr_executor.errors import TaskGone, TryAgain
from tests.agent.fakes import SETTINGS, ManualClock, surroundings

IDENTITY = Identity(hostname="host", unixname="airflow", pid=1)
INTERVAL_S = 60.0


class Tries:
    """The parked tries, as the store and the API server have them. ``failing``: answered with a fault."""

    def __init__(self, clock: ManualClock, count: int) -> None:
        self.clock = clock
        self.parked = [WorkloadId(f"w{n:05}") for n in range(count)]
        self.away, self.failing, self.gone = False, set[WorkloadId](), set[WorkloadId]()
        self.asked: list[WorkloadId] = []
        self.heard_at: dict[WorkloadId, float] = {}
        self.cancelled: list[WorkloadId] = []

    async def heartbeat_targets(self) -> tuple[tuple[WorkloadId, Identity], ...]:
        return tuple((workload_id, IDENTITY) for workload_id in self.parked)

    async def unwanted(self) -> tuple[tuple[WorkloadId, str | None], ...]:
        return ()

    async def ask_cancel(self, workload_ids: list[WorkloadId], _reason: str) -> int:
        self.cancelled += workload_ids
        self.parked = [one for one in self.parked if one not in workload_ids]
        return len(workload_ids)

    async def heartbeat(self, workload_id: WorkloadId, _identity: Identity) -> None:
        self.asked.append(workload_id)
        if self.away or workload_id in self.failing:
            raise TryAgain("no answer")
        if workload_id in self.gone:
            raise TaskGone("Airflow ended the try")
        self.heard_at[workload_id] = self.clock.passed_s


class Room:
    def __init__(self, count: int) -> None:
        self.clock = ManualClock()
        self.tries = Tries(self.clock, count)
        settings = SETTINGS.model_copy(update={"task_heartbeat_interval_s": INTERVAL_S})
        around = surroundings(store=self.tries, api=self.tries, clock=self.clock, settings=settings)
        self.beats = Heartbeats(around, wake=lambda: None)

    async def passes(self, seconds: float) -> None:
        """The agent's loop for some time: beat, wait for as long as that says."""
        until = self.clock.passed_s + seconds
        while self.clock.passed_s < until:
            self.clock.passed_s += await self.beats.beat()


async def test_every_try_is_heard_of_once_an_interval() -> None:
    room = Room(40)
    await room.passes(10 * INTERVAL_S)
    assert len(room.tries.asked) == 400


async def test_a_server_that_is_away_is_asked_little_and_soon_again() -> None:
    room = Room(1000)
    await room.passes(INTERVAL_S)
    room.tries.away, room.tries.asked = True, []
    await room.passes(240)
    attempts = 240 / RETRY_S
    assert len(room.tries.asked) <= attempts * (2 * PARALLEL_HEARTBEATS)
    room.tries.away, room.tries.asked = False, []
    back_at = room.clock.passed_s
    await room.passes(RETRY_S)
    assert max(room.tries.heard_at.values()) - back_at <= RETRY_S
    assert len(room.tries.heard_at) == 1000


async def test_the_one_unheard_for_longest_is_first_after_an_outage() -> None:
    room = Room(3)
    await room.passes(INTERVAL_S)
    late, later, latest = room.tries.parked
    room.tries.failing = {later}
    await room.passes(INTERVAL_S)
    room.tries.failing = {later, latest}
    await room.passes(INTERVAL_S)
    room.tries.away = True
    await room.passes(INTERVAL_S)
    room.tries.away, room.tries.failing, room.tries.asked = False, set(), []
    await room.beats.beat()
    assert room.tries.asked == [later, latest, late]


async def test_tries_that_always_fail_do_not_starve_the_others() -> None:
    room = Room(200)
    room.tries.failing = set(room.tries.parked[: 3 * PARALLEL_HEARTBEATS])
    await room.passes(INTERVAL_S)
    heard = set(room.tries.heard_at)
    assert heard == set(room.tries.parked) - room.tries.failing
    first = dict(room.tries.heard_at)
    await room.passes(INTERVAL_S)
    assert all(room.tries.heard_at[one] - first[one] <= INTERVAL_S + RETRY_S for one in heard)


async def test_what_was_sent_in_a_round_is_not_sent_again_for_the_sake_of_others() -> None:
    room = Room(5)
    room.tries.failing = {room.tries.parked[0]}
    await room.passes(INTERVAL_S - RETRY_S)
    assert {one: room.tries.asked.count(one) for one in room.tries.parked[1:]} == dict.fromkeys(
        room.tries.parked[1:], 1
    )


@pytest.mark.parametrize("others", [0, 20])
async def test_a_try_that_airflow_dropped_is_cancelled_and_no_failure(others: int) -> None:
    room = Room(1 + others)
    room.tries.gone = {room.tries.parked[0]}
    assert await room.beats.beat() == INTERVAL_S
    assert room.tries.cancelled == ["w00000"]

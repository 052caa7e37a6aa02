"""One agent steers: taking, keeping and losing the lease, on one's own clock only."""

from __future__ import annotations

import pytest

from emr_executor.agent.lease import LeaseKeeper
from emr_executor.agent.stale import StaleWatch
from emr_executor.errors import StoreBusy
from emr_executor.store.agent_store import AgentStore
from tests.agent.fakes import ManualClock

LEASE_S = 20.0


def keeper(store: AgentStore, clock: ManualClock, holder: str) -> LeaseKeeper:
    return LeaseKeeper(store, clock, holder=holder, lease_s=LEASE_S)


async def watched_for(watcher: LeaseKeeper, clock: ManualClock, seconds: float) -> None:
    """Time passes in which only the watcher steps, at its pace."""
    until = clock.passed_s + seconds
    await watcher.step()
    while clock.passed_s < until:
        clock.passed_s = min(until, clock.passed_s + watcher.beat_interval_s)
        await watcher.step()


async def test_a_free_lease_is_taken_at_once(store: AgentStore, clock: ManualClock) -> None:
    first = keeper(store, clock, "a")
    await first.step()
    assert first.token is not None


async def test_a_living_holder_keeps_its_lease_for_ever(store: AgentStore, clock: ManualClock) -> None:
    first, second = keeper(store, clock, "a"), keeper(store, clock, "b")
    for _ in range(50):
        await first.step()
        await second.step()
        clock.passed_s += first.beat_interval_s
        assert (first.token is not None, second.token) == (True, None)


async def test_a_silent_holder_is_followed_after_the_lease_and_never_before(
    store: AgentStore, clock: ManualClock
) -> None:
    first, second = keeper(store, clock, "a"), keeper(store, clock, "b")
    await first.step()
    old = first.token
    await watched_for(second, clock, LEASE_S - 0.1)
    assert second.token is None
    clock.passed_s += 0.2
    await second.step()
    assert second.token is not None
    assert old is not None
    assert second.token > old


async def test_two_clocks_an_hour_apart_change_nothing(store: AgentStore) -> None:
    here, there = ManualClock(), ManualClock()
    there.passed_s = 3600.0
    first, second = keeper(store, here, "a"), keeper(store, there, "b")
    await first.step()
    await second.step()
    there.passed_s += LEASE_S / 2
    await first.step()
    await second.step()
    assert (first.token is not None, second.token) == (True, None)


async def test_a_holder_that_cannot_beat_stops_steering_before_anyone_may_follow(
    store: AgentStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = keeper(store, clock, "a")
    await first.step()

    async def busy(*_args: object) -> bool:
        raise StoreBusy("the database is away")

    monkeypatch.setattr(store, "beat_lease", busy)
    clock.passed_s += LEASE_S * 0.8
    await first.step()
    assert first.token is None
    monkeypatch.undo()
    await first.step()
    assert first.token is not None


async def test_a_holder_that_was_followed_notices_and_takes_no_part(
    store: AgentStore, clock: ManualClock
) -> None:
    first, second = keeper(store, clock, "a"), keeper(store, clock, "b")
    await first.step()
    await watched_for(second, clock, LEASE_S + 1)
    await first.step()
    assert first.token is None
    assert second.token is not None


async def test_a_watcher_that_could_not_look_begins_to_count_anew(
    store: AgentStore, clock: ManualClock
) -> None:
    first, second = keeper(store, clock, "a"), keeper(store, clock, "b")
    await first.step()
    await second.step()
    clock.passed_s += 10 * LEASE_S  # the database was away for both
    await second.step()
    assert second.token is None
    await first.step()
    assert first.token is not None


async def test_a_released_lease_needs_no_waiting(store: AgentStore, clock: ManualClock) -> None:
    first, second = keeper(store, clock, "a"), keeper(store, clock, "b")
    await first.step()
    await second.step()
    await first.release()
    await second.step()
    assert (first.token, second.token is not None) == (None, True)


def test_a_value_that_changes_is_alive_and_one_that_goes_is_forgotten() -> None:
    watch: StaleWatch[str] = StaleWatch()
    assert watch.look({"a": 1, "b": 1}, monotonic=0) == {"a": 0, "b": 0}
    assert watch.look({"a": 1, "b": 2}, monotonic=10) == {"a": 10, "b": 0}
    assert watch.look({"b": 2}, monotonic=15) == {"b": 5}
    assert watch.look({"a": 1}, monotonic=20) == {"a": 0}


def test_what_was_not_watched_does_not_count_as_silence() -> None:
    watch: StaleWatch[str] = StaleWatch(max_gap_s=10)
    assert watch.look({"a": 1}, monotonic=0) == {"a": 0}
    assert watch.look({"a": 1}, monotonic=10) == {"a": 10}
    assert watch.look({"a": 1}, monotonic=200) == {"a": 0}
    assert watch.look({"a": 1}, monotonic=205) == {"a": 5}

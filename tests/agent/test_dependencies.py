"""What is away: known from the calls themselves, told when it changes, forgotten when nobody uses it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from emr_executor.agent.agent_row import GONE_S, AgentRow
from emr_executor.agent.dependencies import FORGET_S, HOLD_S, Dependencies, watched
from emr_executor.agent.health_probe import HealthProbe
from emr_executor.core.health import REPORT_S, AgentHealth, Dependency
from emr_executor.core.waiting import Hold, Holds
from emr_executor.errors import (
    AwsUnavailable,
    BudgetSpent,
    ClusterGone,
    CredentialsMissing,
    OutcomeUnknown,
    StoreBusy,
    TaskGone,
    Throttled,
    TryAgain,
)
from emr_executor.store.health_store import HealthStore
from tests.agent.fakes import ManualClock
from tests.builders import NOW
from tests.inline_runner import InlineRunner


@pytest.fixture
def known(clock: ManualClock) -> Dependencies:
    return Dependencies(clock)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


class Port:
    """A port of which the next call ends as a test says."""

    error: Exception | None = None

    async def ask(self, value: int) -> int:
        if self.error:
            raise self.error
        return value


async def call(port: Any, error: Exception | None) -> None:
    port._port.error = error
    if error is None:
        assert await port.ask(3) == 3
        return
    with pytest.raises(type(error)):
        await port.ask(3)


AWAY = [AwsUnavailable("no answer"), TryAgain("500"), StoreBusy("gone")]
ANSWERS = [None, Throttled("slower"), ClusterGone("over", cluster_id="j-1"), TaskGone("ended")]
SAYS_NOTHING = [OutcomeUnknown("cut"), ValueError("a bug"), BudgetSpent("not made")]


@pytest.mark.parametrize("error", AWAY)
@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_call_that_finds_nobody_is_away_until_one_is_answered(
    known: Dependencies, clock: ManualClock, logs: list[Any], error: Exception, answer: Exception | None
) -> None:
    port = watched(Port(), Dependency.S3, known)
    for _ in range(10):
        await call(port, error)
        clock.passed_s += 2
    (away,) = known.away()
    assert (away.dependency, away.since, away.error) == (
        Dependency.S3,
        clock.now().replace(second=0),
        str(error),
    )
    await call(port, answer)
    assert known.away() == ()
    assert [(line["event"], line.get("away_s")) for line in logs] == [
        ("dependency_away", None),
        ("dependency_back", 20.0),
    ]


@pytest.mark.parametrize("error", SAYS_NOTHING)
async def test_what_says_nothing_of_the_other_side_changes_nothing(
    known: Dependencies, error: Exception
) -> None:
    port = watched(Port(), Dependency.EMR, known)
    await call(port, error)
    assert known.away() == ()
    await call(port, AwsUnavailable("no answer"))
    await call(port, error)
    assert len(known.away()) == 1


async def test_a_missing_permission_is_kept_though_other_calls_succeed(known: Dependencies) -> None:
    known.note(Dependency.EMR, "cancel_steps", CredentialsMissing("Grant elasticmapreduce:CancelSteps"))
    known.note(Dependency.EMR, "list_clusters", None)
    (away,) = known.away()
    assert away.dependency is Dependency.CREDENTIALS
    known.note(Dependency.EMR, "cancel_steps", None)
    assert known.away() == ()


async def test_what_nobody_uses_any_more_is_not_called_away_for_ever(
    known: Dependencies, clock: ManualClock
) -> None:
    known.note(Dependency.S3, "changed", AwsUnavailable("no answer"))
    clock.passed_s += FORGET_S
    assert len(known.away()) == 1
    clock.passed_s += 1
    assert known.away() == ()


async def test_nothing_new_is_begun_in_emr_for_a_while_after_a_failure(
    known: Dependencies, clock: ManualClock
) -> None:
    assert known.held() is None
    known.note(Dependency.S3, "changed", AwsUnavailable("no answer"))
    assert known.held() is None
    known.note(Dependency.EMR, "list_clusters", AwsUnavailable("no answer"))
    assert known.held() == "Amazon EMR is away"
    clock.passed_s += HOLD_S
    assert known.held() is None
    known.note(Dependency.EMR, "run_job_flow", CredentialsMissing("none"))
    known.note(Dependency.EMR, "list_clusters", None)
    assert known.held() == "AWS credentials fail"


class Room:
    """An agent that tells of itself, and the table."""

    def __init__(self, engine: Engine, clock: ManualClock) -> None:
        self.clock, self.known = clock, Dependencies(clock)
        self.store, self.steers, self.holds = HealthStore(InlineRunner(engine)), True, Holds()
        self.reporting = AgentRow(
            store=self.store,
            dependencies=self.known,
            clock=clock,
            holder="host/1/aa",
            host="host",
            pid=1,
            version="0.1.0",
            is_steering=lambda: self.steers,
            holds=lambda: self.holds,
        )

    async def passes(self, seconds: float) -> None:
        for _ in range(int(seconds / 5)):
            self.clock.passed_s += 5
            await self.reporting.step()

    async def row(self) -> AgentHealth:
        return next(one for one in await self.store.agents() if one.holder == "host/1/aa")


@pytest.fixture
def room(engine: Engine, clock: ManualClock) -> Room:
    return Room(engine, clock)


async def test_an_agent_tells_of_itself_now_and_then_and_at_once_when_something_changes(room: Room) -> None:
    await room.reporting.step()
    await room.passes(20 * REPORT_S)
    assert (await room.row()).beat == 21
    room.known.note(Dependency.S3, "changed", AwsUnavailable("no token=abc here"))
    await room.passes(5)
    row = await room.row()
    assert [(one.dependency, one.error) for one in row.away] == [(Dependency.S3, "no token=*** here")]
    assert row.beat == 22
    hold = Hold(why="EMR refused the cluster template", until=NOW, longest_s=600.0)
    room.holds = Holds(launch={"default": hold})
    await room.passes(5)
    assert ((await room.row()).holds, (await room.row()).beat) == (room.holds, 23)
    room.steers = False
    await room.passes(5)
    row = await room.row()
    assert (row.steering, row.beat, row.holds) == (False, 24, Holds()), (
        "only the one that steers holds anything"
    )


async def test_the_one_that_steers_forgets_those_that_are_gone(room: Room) -> None:
    await room.reporting.step()
    gone = replace(await room.row(), holder="host/2/bb")
    await room.store.tell(gone)
    await room.passes(GONE_S)
    assert len(await room.store.agents()) == 2
    await room.passes(2 * REPORT_S)
    assert [one.holder for one in await room.store.agents()] == ["host/1/aa"]
    await room.reporting.close()
    assert await room.store.agents() == ()


async def test_after_a_pause_of_its_own_nobody_is_taken_for_gone(room: Room) -> None:
    await room.reporting.step()
    await room.store.tell(replace(await room.row(), holder="host/2/bb"))
    await room.passes(REPORT_S)
    room.clock.passed_s += 10 * GONE_S
    await room.passes(REPORT_S)
    assert len(await room.store.agents()) == 2


async def test_what_nobody_uses_is_asked_now_and_then_by_the_one_that_steers(
    known: Dependencies, clock: ManualClock
) -> None:
    asked, steers = list[float](), True

    async def ask() -> None:
        asked.append(clock.passed_s)
        raise AwsUnavailable("no answer")

    probing = HealthProbe(known, {Dependency.S3: (ask, 60.0)}, lambda: steers)
    for _ in range(10):
        clock.passed_s += 20
        await probing.step()
    assert asked == [20, 80, 140, 200]
    assert [one.dependency for one in known.away()] == [Dependency.S3]
    clock.passed_s += 50
    known.note(Dependency.S3, "changed", None)
    clock.passed_s += 50
    await probing.step()
    steers = False
    clock.passed_s += 500
    await probing.step()
    assert len(asked) == 4
    assert known.away() == ()

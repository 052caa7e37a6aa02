"""The executor's health: one line when it changes, and gauges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from emr_executor.core.health import AgentHealth, Away, Dependency
from emr_executor.executor_watch import ExecutorWatch
from emr_executor.store.dialect import engine_for
from emr_executor.store.health_store import tell_health
from emr_executor.store.lease_store import beat_lease, read_lease, take_lease
from emr_executor.store.schema import METADATA, STEERING
from tests.agent.fakes import SETTINGS
from tests.builders import NOW
from tests.executor.log import Log

AGENT = AgentHealth(
    holder="host/1/aa",
    host="host",
    pid=1,
    version="0.1.0",
    steering=True,
    started_at=NOW,
    beat=1,
    told_at=NOW,
)
S3_AWAY = Away(dependency=Dependency.S3, since=NOW, error="no answer")


class Metrics:
    """Airflow's metrics: the last value of each."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def gauge(self, name: str, value: float, tags: dict[str, Any] | None = None) -> None:
        self.values[":".join((name.removeprefix("emr_executor."), *(tags or {}).values()))] = value

    def incr(self, name: str, tags: dict[str, Any] | None = None) -> None:
        self.gauge(name, 1, tags)


class Room:
    """A scheduler that looks every ten seconds."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.now_s, self.log, self.metrics = engine, 500.0, Log(), Metrics()
        self.watch = ExecutorWatch(self.log, SETTINGS, monotonic=lambda: self.now_s, metrics=self.metrics)
        self.agent = AGENT
        self.token: int | None = None

    def steer(self) -> None:
        with self.engine.begin() as conn:
            self.token = take_lease(conn, STEERING, "host/1/aa", read_lease(conn, STEERING))

    def pass_(self, seconds: float, *, alive: bool = True, **changes: Any) -> None:
        self.agent = replace(self.agent, **changes)
        for _ in range(int(seconds / 10)):
            self.now_s += 10
            with self.engine.begin() as conn:
                if alive and self.token:
                    beat_lease(conn, STEERING, "host/1/aa", self.token)
                    self.agent = replace(self.agent, beat=self.agent.beat + 1)
                    tell_health(conn, self.agent)
                self.watch.look(conn, 3)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    engine = engine_for(f"sqlite:///{tmp_path}/store.db")
    METADATA.create_all(engine)
    yield Room(engine)
    engine.dispose()


def test_an_agent_that_steers_is_no_news(room: Room) -> None:
    room.steer()
    room.pass_(600)
    assert room.log.lines == []
    assert room.metrics.values["unsteered_seconds"] == 0
    assert room.metrics.values["agents"] == 1


def test_that_nobody_steers_is_said_once_and_so_is_that_somebody_does_again(room: Room) -> None:
    room.steer()
    room.pass_(60)
    room.pass_(300, alive=False)
    (line,) = room.log.lines
    assert line.startswith("no agent has steered EMR for 50 s: 3 parked tasks get no heartbeat")
    assert "after 300 s without one" in line
    assert room.metrics.values["unsteered_seconds"] == 300
    assert room.metrics.values["agents"] == 0
    room.pass_(20)
    assert room.log.lines[1:] == ["an agent steers EMR again, after 310 s: host/1/aa"]
    assert room.metrics.values["unsteered_seconds"] == 0


def test_a_short_pause_between_two_agents_is_no_news(room: Room) -> None:
    room.steer()
    room.pass_(60)
    room.pass_(40, alive=False)
    room.pass_(60)
    assert room.log.lines == []


def test_what_the_agent_cannot_reach_is_said_when_it_changes(room: Room) -> None:
    room.steer()
    room.pass_(60)
    room.pass_(60, away=(S3_AWAY,))
    assert room.log.lines == ["the EMR agent cannot use Amazon S3: no answer"]
    assert (room.metrics.values["away:s3"], room.metrics.values["away:emr"]) == (1, 0)
    room.pass_(60, away=())
    assert room.log.lines[1:] == ["the EMR agent can use Amazon S3 again"]
    assert room.metrics.values["away:s3"] == 0


def test_a_database_that_is_away_is_one_line_and_its_return_another(room: Room) -> None:
    error = OperationalError("select", {}, Exception("connection to host:password=geheim refused"))
    for _ in range(50):
        room.now_s += 1
        room.watch.failed(error)
    (line,) = room.log.lines
    assert "database does not answer EmrExecutor" in line
    assert "geheim" not in line
    assert room.metrics.values["database_away_seconds"] == 49
    room.watch.synced(lambda *_: None, 0)
    assert room.log.lines[1:] == ["Airflow's metadata database answers EmrExecutor again, after 49 s"]


def test_another_error_is_told_at_most_every_half_minute(room: Room) -> None:
    for _ in range(60):
        room.now_s += 1
        room.watch.failed(ValueError("odd"))
    assert len(room.log.lines) == 2


def test_the_look_is_taken_every_ten_seconds_and_not_in_each_loop(room: Room) -> None:
    looks: list[object] = []
    for _ in range(100):
        room.now_s += 0.5
        room.watch.synced(lambda _look, parked: looks.append(parked), 0)
    assert len(looks) == 5


def test_the_lease_of_a_dead_child_is_free_at_once_and_no_others(room: Room) -> None:
    watch, engine = room.watch, room.engine

    def run(work: Callable[..., None], *args: Any) -> None:
        with engine.begin() as connection:
            work(connection, *args)

    with engine.begin() as conn:
        token = take_lease(conn, STEERING, "host/1/mine", read_lease(conn, STEERING))
    watch.restarted("ended", "other")
    watch.restarted("hung", None)
    watch.synced(run, 0)
    with engine.begin() as conn:
        assert read_lease(conn, STEERING).holder == "host/1/mine"
        assert token is not None
        assert beat_lease(conn, STEERING, "host/1/mine", token)
    watch.restarted("ended", "mine")
    watch.synced(run, 0)
    with engine.begin() as conn:
        free = read_lease(conn, STEERING)
        assert (free.holder, free.token) == (None, token + 1)
        assert not beat_lease(conn, STEERING, "host/1/mine", token)
        assert take_lease(conn, STEERING, "host/2/next", free) == token + 2
    watch.synced(run, 0)
    with engine.begin() as conn:
        assert read_lease(conn, STEERING).holder == "host/2/next"

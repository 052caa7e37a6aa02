"""Housekeeping's pace: only with the lease, not at once, bounded, and told in one line a round."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, insert
from structlog.testing import capture_logs

from emr_executor.agent import retention_db
from emr_executor.agent.lease import LeaseKeeper
from emr_executor.agent.retention_db import FIRST_AFTER_S, ROUND_INTERVAL_S, DatabaseRetention
from emr_executor.agent.retention_s3 import S3Retention, StoredNeeds
from emr_executor.aws import layout
from emr_executor.core.model import HistoryEntry, StepPlan
from emr_executor.core.states import SubmissionState, WorkloadState
from emr_executor.errors import AwsUnavailable, StoreBusy
from emr_executor.store import history_store
from emr_executor.store.agent_store import AgentStore
from emr_executor.store.rows import mapping_of
from emr_executor.store.schema import STEERING
from tests.agent.fakes import SETTINGS, surroundings
from tests.agent.staging_area import DAY_S, START, Area
from tests.builders import make_submission, make_workload
from tests.inline_runner import InlineRunner

SHA = "0123456789abcdef" * 4


class World:
    """One agent's housekeeping over a real store and a staging area in memory."""

    def __init__(self, engine: Engine, *, keep_history_s: float = 30 * DAY_S) -> None:
        self.engine, self.area = engine, Area()
        runner = InlineRunner(engine)
        self.store = AgentStore(runner)
        self.lease = LeaseKeeper(self.store, self.area, holder="me", lease_s=20.0)
        self.expiry = S3Retention(
            staged=self.area,
            needs=StoredNeeds(runner),
            clock=self.area,
            deployment_id="dep",
            keep_s=14 * DAY_S,
        )
        settings = SETTINGS.model_copy(update={"keep_history_s": keep_history_s})
        around = surroundings(store=self.store, expiry=self.expiry, clock=self.area, settings=settings)
        self.keeping = DatabaseRetention(around, self.lease)
        self.lines: list[dict[str, object]] = []

    def put(self, *rows: object) -> None:
        with self.engine.begin() as conn:
            for row in rows:
                mapping = mapping_of(type(row))  # type: ignore[arg-type]
                conn.execute(insert(mapping.table), [mapping.columns(row)])  # type: ignore[arg-type]

    def tell(self, lines: int) -> None:
        entry = HistoryEntry(at=START, subject="agent", subject_id="a", event="old", text="")
        with self.engine.begin() as conn:
            history_store.append(conn, [entry] * lines)

    async def rounds(self, count: int) -> None:
        """So many rounds, a minute apart, the lease kept meanwhile."""
        for _ in range(count):
            self.area.passed_s += ROUND_INTERVAL_S
            await self.lease.step()
            with capture_logs() as logs:
                await self.keeping.round()
            self.lines += logs


@pytest.fixture
def world(engine: Engine) -> World:
    return World(engine)


async def test_what_is_old_is_deleted_in_database_and_s3_and_told_in_one_line(world: World) -> None:
    over = make_workload("over", state=WorkloadState.FINISHED, finished_at=START, step=None)
    spec = layout.spec_key("2026-01-01", b"{}")
    step = StepPlan(command=("x",), spec_uri=f"s3://bucket/af/{spec}")
    waits = make_workload("waits", state=WorkloadState.READY, step=step)
    world.put(
        over,
        waits,
        make_submission("over", state=SubmissionState.COMPLETED),
        make_submission("waits", state=SubmissionState.LOST),
    )
    world.tell(3)
    world.area.put(spec, f"specs/2026-01-01/{SHA}.json")
    world.area.put(*(layout.output_key("dep", "c", s, 1) for s in ("over-1", "waits-1", "purged-1")))  # type: ignore[arg-type]
    world.area.passed_s = 31 * DAY_S
    await world.rounds(8)
    (line,) = world.lines
    counts = {"workloads": 1, "submissions": 1, "history": 3, "objects": 3, "refreshed": 1}
    assert counts.items() <= line.items()
    assert (line["event"], line["listings"]) == ("housekeeping", 6)
    assert set(world.area.written) == {spec, layout.output_key("dep", "c", "waits-1", 1)}  # type: ignore[arg-type]
    assert world.area.written[spec] > 31 * DAY_S


async def test_nothing_is_done_without_the_lease(world: World) -> None:
    world.tell(3)
    taken = await world.store.take_lease(STEERING, "other", await world.store.read_lease(STEERING))
    assert taken is not None
    world.area.passed_s = 31 * DAY_S
    for _ in range(20):
        world.area.passed_s += ROUND_INTERVAL_S
        await world.store.beat_lease(STEERING, "other", taken)
        await world.lease.step()
        await world.keeping.round()
    assert world.area.calls == []
    assert await remaining(world) == 3


async def remaining(world: World) -> int:
    return (await world.store.purge(START.replace(year=2100), 0.0)).history


async def test_the_first_round_waits_and_a_later_walk_comes_a_day_after(world: World) -> None:
    await world.rounds(1)
    await world.rounds(int(FIRST_AFTER_S / ROUND_INTERVAL_S) - 1)
    assert world.area.calls == []
    await world.rounds(1)
    assert world.area.calls == ["page"] * 5
    await world.rounds(60)
    assert len(world.area.calls) == 6
    world.area.passed_s += DAY_S
    await world.rounds(7)
    assert len(world.area.calls) == 12


async def test_a_round_deletes_a_bounded_number_of_rows_and_the_next_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_db, "BATCHES_A_ROUND", 2)
    world.tell(2 * 2 * history_store.PURGE_BATCH + 5)
    world.area.passed_s = 31 * DAY_S
    await world.rounds(10)
    assert [line["history"] for line in world.lines] == [2000, 2000, 5]


async def test_rows_kept_for_ever_stay(engine: Engine) -> None:
    world = World(engine, keep_history_s=0.0)
    world.tell(3)
    world.area.passed_s = 1000 * DAY_S
    await world.rounds(10)
    assert await remaining(world) == 3


async def test_a_store_or_an_s3_that_is_away_stops_only_its_own_part(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object) -> None:
        raise StoreBusy("locked")

    world.tell(3)
    world.area.put(layout.output_key("dep", "c", "gone-1", 1))  # type: ignore[arg-type]
    world.area.passed_s = 31 * DAY_S
    world.area.refuse = {"page": AwsUnavailable("S3 is away")}
    await world.rounds(8)
    assert [line["event"] for line in world.lines] == ["expiry_failed", "housekeeping"]
    world.area.refuse = {}
    monkeypatch.setattr(world.store, "purge", busy)
    world.lines.clear()
    await world.rounds(60)
    assert [(line["event"], line.get("objects")) for line in world.lines][:1] == [("housekeeping", 1)]
    assert {line["event"] for line in world.lines} == {"housekeeping", "purge_failed"}

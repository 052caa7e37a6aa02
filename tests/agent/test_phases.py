"""Claiming and running phases, freeing those whose process is gone, giving up what cannot be done."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from emr_executor.agent.phases import Phases
from emr_executor.agent.tasklog import FileTaskLog
from emr_executor.core.model import Identity, StepOutcome, StepPlan, WorkloadId
from emr_executor.core.states import Verdict, WorkloadState
from emr_executor.errors import TaskGone, TryAgain
from emr_executor.ports import PhaseEnded, PhaseJob
from emr_executor.store import phase_store, scheduler_store
from emr_executor.store.agent_store import AgentStore
from emr_executor.store.rows import workload_from
from emr_executor.store.schema import WORKLOAD
from tests.agent.fakes import SETTINGS, ManualClock, surroundings
from tests.builders import NOW, make_workload

IDENTITY = Identity(hostname="host", unixname="airflow", pid=42)
PLAN = StepPlan(command=("spark-submit",), spec_uri="s3://b/s", wrapper_uri="s3://b/w")


@dataclass
class FakeHost:
    """Runs a phase as the test says; the phase's process writes to the store itself."""

    work: Callable[[PhaseJob], None]
    capacity: int = 2
    jobs: list[PhaseJob] = field(default_factory=list)
    masks: tuple[str, ...] = ()
    is_ready: bool = True
    starts: int = 0

    async def start(self) -> None:
        self.starts += 1

    async def run(self, job: PhaseJob) -> PhaseEnded:
        self.jobs.append(job)
        self.work(job)
        return PhaseEnded(
            workload_id=job.workload_id, claim_token=job.claim_token, exit_code=0, masks=self.masks
        )


@dataclass
class FakeApi:
    gone: bool = False
    failed: list[WorkloadId] = field(default_factory=list)

    async def heartbeat(self, workload_id: WorkloadId, identity: Identity) -> None:
        raise TryAgain("not in this test")

    async def fail_terminally(self, workload_id: WorkloadId, *, ended_at: datetime) -> None:
        if self.gone:
            raise TaskGone("cleared")
        self.failed.append(workload_id)


class Room:
    """Phases with everything around them."""

    def __init__(self, engine: Engine, store: AgentStore, clock: ManualClock, logs: Path) -> None:
        self.engine, self.store, self.clock, self.logs = engine, store, clock, logs
        self.host, self.api, self.ended = FakeHost(work=self.park), FakeApi(), 0
        tokens = itertools.count(1)
        around = surroundings(
            store=store,
            host=self.host,
            api=self.api,
            task_log=FileTaskLog(logs),
            clock=clock,
            settings=SETTINGS.model_copy(update={"finish_attempts": 2, "claim_s": 30.0}),
            identity=IDENTITY,
            new_id=lambda: f"token-{next(tokens)}",
        )
        self.phases = Phases(around, on_ended=self._count)

    def _count(self) -> None:
        self.ended += 1

    def accept(self, *names: str, **changes: Any) -> None:
        values = {
            "state": WorkloadState.ACCEPTED,
            "step": None,
            "ready_at": None,
            "log_path": "t.log",
            **changes,
        }
        with self.engine.begin() as connection:
            scheduler_store.accept(connection, [make_workload(name, **values) for name in names])

    def park(self, job: PhaseJob) -> None:
        with self.engine.begin() as connection:
            phase_store.record_parked(connection, job.workload_id, job.claim_token, PLAN, NOW)

    def end(self, job: PhaseJob) -> None:
        with self.engine.begin() as connection:
            phase_store.record_over(connection, job.workload_id, job.claim_token, "success", NOW)

    def say_nothing(self, _job: PhaseJob) -> None:
        return

    def workload(self, name: str) -> Any:
        with self.engine.connect() as connection:
            row = connection.execute(select(WORKLOAD).where(WORKLOAD.c.workload_id == name))
            return workload_from(row.mappings().one())

    async def fill(self) -> None:
        await self.phases.fill()
        await self.phases.drain()


@pytest.fixture
def room(engine: Engine, store: AgentStore, clock: ManualClock, tmp_path: Path) -> Room:
    return Room(engine, store, clock, tmp_path / "logs")


async def test_an_accepted_workload_is_prepared_with_a_stored_identity(room: Room) -> None:
    room.accept("w1")
    await room.fill()
    (job,) = room.host.jobs
    assert job.workload.identity == IDENTITY
    assert job.claim_token == "token-1"
    assert room.workload("w1").state is WorkloadState.READY
    assert room.ended == 1


async def test_no_more_phases_run_than_the_host_takes(room: Room) -> None:
    room.accept(*[f"w{i}" for i in range(5)])
    await room.fill()
    assert len(room.host.jobs) == room.host.capacity


async def test_an_agent_whose_host_is_not_up_claims_nothing(room: Room) -> None:
    """Another agent, whose host is up, gets the work; its own comes up meanwhile."""
    room.accept("w1")
    room.host.is_ready = False
    await room.fill()
    assert (room.workload("w1").state, room.host.starts) == (WorkloadState.ACCEPTED, 1)
    assert room.phases.no_runner == "the agent's task host is not up yet"
    room.host.is_ready = True
    await room.fill()
    assert [job.workload_id for job in room.host.jobs] == ["w1"]
    assert room.phases.no_runner is None


async def test_finishing_goes_before_preparing(room: Room) -> None:
    room.accept("new1", "new2", "new3")
    outcome = StepOutcome(verdict=Verdict.SUCCEEDED)
    room.accept("done", state=WorkloadState.FINISHABLE, outcome=outcome, step=PLAN)
    room.host.work = room.say_nothing
    await room.fill()
    assert room.host.jobs[0].workload_id == "done"


async def test_a_process_that_ended_without_a_word_gives_its_claim_back_at_once(room: Room) -> None:
    room.accept("w1")
    room.host.work = room.say_nothing
    await room.fill()
    assert (room.workload("w1").state, room.workload("w1").claim_token) == (WorkloadState.ACCEPTED, None)


async def test_a_phase_that_never_began_gives_its_claim_back_at_once(room: Room) -> None:
    def away(_job: PhaseJob) -> None:
        raise TryAgain("the task host ended")

    room.accept("w1")
    room.host.work = away
    await room.fill()
    assert (room.workload("w1").state, room.workload("w1").claim_token) == (WorkloadState.ACCEPTED, None)


def claimed_elsewhere(room: Room) -> None:
    """By an agent that is gone: only signs of life tell whether the phase runs on."""
    room.accept("w1", state=WorkloadState.PREPARING, claim_token="token-1")


async def test_a_claim_without_a_sign_of_life_is_freed(room: Room) -> None:
    claimed_elsewhere(room)
    for _ in range(4):
        assert room.workload("w1").state is WorkloadState.PREPARING
        await room.phases.free_silent()
        room.clock.passed_s += 11
    await room.phases.free_silent()
    assert room.workload("w1").state is WorkloadState.ACCEPTED


async def test_a_claim_is_not_freed_for_a_silence_in_which_the_database_was_away(room: Room) -> None:
    claimed_elsewhere(room)
    await room.phases.free_silent()
    room.clock.passed_s += 300
    await room.phases.free_silent()
    assert room.workload("w1").state is WorkloadState.PREPARING


async def test_a_process_that_keeps_ending_without_a_word_is_run_ever_more_rarely(room: Room) -> None:
    room.accept("w1")
    room.host.work = room.say_nothing
    for attempts, pause_s in ((1, 1), (2, 2), (3, 4)):
        await room.fill()
        assert len(room.host.jobs) == attempts
        room.clock.passed_s += pause_s - 0.5
        await room.fill()
        assert len(room.host.jobs) == attempts
        room.clock.passed_s += 0.5


async def test_a_claim_that_shows_signs_of_life_is_left_alone(room: Room) -> None:
    claimed_elsewhere(room)
    for _ in range(5):
        await room.phases.free_silent()
        room.clock.passed_s += 20
        with room.engine.begin() as connection:
            phase_store.renew_claim(connection, WorkloadId("w1"), "token-1")
    assert room.workload("w1").state is WorkloadState.PREPARING


async def test_masks_are_kept_while_a_try_lives_and_forgotten_wherever_it_ends(room: Room) -> None:
    room.accept("w1")
    room.host.masks = ("hunter2",)
    await room.fill()
    assert room.phases.masks == {"w1": ("hunter2",)}
    outcome = StepOutcome(verdict=Verdict.SUCCEEDED)
    room.accept("w2", state=WorkloadState.FINISHABLE, outcome=outcome, step=PLAN)
    room.host.work = room.end
    await room.fill()
    assert room.phases.masks == {"w1": ("hunter2",), "w2": ("hunter2",)}
    await room.phases.forget()
    assert room.phases.masks == {"w1": ("hunter2",)}
    with room.engine.begin() as connection:
        connection.execute(WORKLOAD.update().values(state=WorkloadState.CANCELLED))
    await room.phases.forget()
    assert room.phases.masks == {}


async def give_up(room: Room) -> None:
    outcome = StepOutcome(verdict=Verdict.SUCCEEDED)
    room.accept("w1", state=WorkloadState.FINISHABLE, outcome=outcome, step=PLAN, identity=IDENTITY)
    room.host.work = room.say_nothing
    for _ in range(3):
        room.clock.passed_s += 60
        await room.fill()


async def test_a_finish_that_cannot_be_done_fails_the_try_without_a_retry(room: Room) -> None:
    await give_up(room)
    assert len(room.host.jobs) == 2
    assert room.api.failed == ["w1"]
    assert (room.workload("w1").state, room.workload("w1").airflow_state) == (
        WorkloadState.FINISHED,
        "failed",
    )
    (line,) = (room.logs / "t.log").read_text().splitlines()
    assert "could not be finished in 2 attempts" in json.loads(line)["event"]


async def test_giving_up_on_a_try_that_airflow_dropped_reports_nothing(room: Room) -> None:
    room.api.gone = True
    await give_up(room)
    assert room.api.failed == []
    assert room.workload("w1").target == "CANCEL"

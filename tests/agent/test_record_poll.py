"""Records and output are read beside the ticks, bounded in bytes, and nothing of them is lost by that."""

from __future__ import annotations

import pytest

from emr_executor.agent import record_poll
from emr_executor.core.states import ClusterState, RecordPhase, StepState, SubmissionState, WorkloadState
from tests.agent.fakes import SETTINGS, World

CHUNK = b"a line of the driver\n"


@pytest.fixture
async def world(world: World) -> World:
    """Two steps run on one cluster."""
    await world.running("w1", "w2")
    return world


def write(world: World, name: str, chunks: int, phase: RecordPhase = RecordPhase.RUNNING) -> None:
    own = world.last(name)
    for number in range(own.output_chunks + 1, chunks + 1):
        world.records.chunks[own.submission_id, number] = CHUNK
    exit_code = 0 if phase is RecordPhase.ENDED else None
    world.records.write(own, phase, chunks=chunks, exit_code=exit_code)


def lines(world: World, name: str) -> int:
    return world.log(f"{name}.log").count("a line of the driver")


async def test_a_step_that_writes_much_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_poll, "MOST_OF_ONE_STEP_BYTES", 2 * len(CHUNK))
    monkeypatch.setattr(record_poll, "STEPS_AT_ONCE", 1)
    write(world, "w1", chunks=40)
    write(world, "w2", chunks=2, phase=RecordPhase.ENDED)
    await world.tick(times=2)
    assert world.last("w1").state is SubmissionState.RUNNING, "its start is told before its output is read"
    assert (lines(world, "w2"), world.workload("w2").state) == (2, WorkloadState.FINISHABLE)
    assert 0 < lines(world, "w1") < 40
    await world.tick(seconds=0.1, times=40)
    assert lines(world, "w1") == 40
    assert world.last("w1").record_mark == world.records.written[world.last("w1").submission_id].mark


async def test_no_more_output_is_read_than_ticks_save(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_poll, "MOST_KEPT_BYTES", 3 * len(CHUNK))
    monkeypatch.setattr(record_poll, "STEPS_AT_ONCE", 1)
    read = 0
    output = world.records.output

    async def counted(*args: object) -> bytes | None:
        nonlocal read
        read += 1
        return await output(*args)  # type: ignore[arg-type]

    world.records.output = counted  # type: ignore[method-assign]
    for name in ("w1", "w2"):
        write(world, name, chunks=10)
    for _ in range(5):
        world.clock.passed_s += 2.0
        await world.record_poll.round()
    assert read == 3
    await world.tick(times=20)
    assert (lines(world, "w1"), lines(world, "w2"), read) == (10, 10, 20)


async def test_an_end_whose_output_is_still_being_read_is_not_lost_with_its_cluster(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_poll, "MOST_OF_ONE_STEP_BYTES", len(CHUNK))
    write(world, "w1", chunks=300, phase=RecordPhase.ENDED)
    world.emr.set_cluster("j-1", ClusterState.TERMINATED_WITH_ERRORS, "INSTANCE_FAILURE")
    world.show("w1", StepState.CANCELLED)
    await world.tick(seconds=1, times=int(SETTINGS.loss_hold_s) + 60)
    assert world.last("w1").is_live
    await world.tick(seconds=1, times=220)
    assert (world.last("w1").state, lines(world, "w1")) == (SubmissionState.COMPLETED, 300)
    assert len(world.submissions("w1")) == 1


async def test_a_tick_waits_for_no_answer_of_s3(world: World) -> None:
    async def never(*_: object) -> None:
        raise AssertionError("a tick asked S3 for records")

    records = world.records
    write(world, "w1", chunks=1)
    world.clock.passed_s += 2.0
    await world.record_poll.round()
    for name in ("changed", "output", "unread", "consume"):
        setattr(records, name, never)
    world.show("w2", StepState.COMPLETED)
    await world.steering.tick(world.token)
    assert lines(world, "w1") == 1
    assert world.last("w1").state is SubmissionState.RUNNING

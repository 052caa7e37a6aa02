"""Where an error is held: at the row in the tick, at the gate of the store, at one look of several."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from emr_executor.agent.tasklog import FileTaskLog
from emr_executor.agent.tick_state import TickState
from emr_executor.core.model import ObservedCluster
from emr_executor.core.states import SubmissionState, WorkloadState
from emr_executor.errors import InvalidTransition, StaleWriter
from emr_executor.store.change_store import Change
from tests.agent.fakes import World
from tests.builders import make_cluster, make_submission, make_workload
from tests.store.builders import store


async def saved(world: World, *rows: Any) -> TickState:
    """A tick with rows that are stored."""
    await world.begin()
    with world.engine.begin() as conn:
        store(conn, *rows)
    return TickState(await world.store.snapshot(world.clock.now(), 10))


async def test_a_change_that_no_table_has_is_held_back_and_all_others_are_written(world: World) -> None:
    bad, good = make_workload("bad"), make_workload("good")
    tick = await saved(world, bad, good)
    tick.put(replace(bad, state=WorkloadState.FINISHED, airflow_state="success"))
    tick.put(replace(good, state=WorkloadState.CANCELLED))
    await tick.save(world.store, world.token, FileTaskLog(world.log_folder))
    assert world.workload("good").state is WorkloadState.CANCELLED
    held = world.workload("bad")
    assert (held.state, held.airflow_state) == (WorkloadState.READY, None)
    assert held.quarantine == "workload bad: no edge from READY on a change to FINISHED"


async def test_a_new_row_that_no_table_has_is_not_written_and_its_workload_does_not_wait_for_it(
    world: World,
) -> None:
    workload, its_cluster = make_workload("w1"), make_cluster()
    tick = await saved(world, workload, its_cluster)
    tick.put(replace(workload, state=WorkloadState.SUBMITTED))
    tick.put(make_submission(state=SubmissionState.RUNNING))
    await tick.save(world.store, world.token, FileTaskLog(world.log_folder))
    assert world.submissions("w1") == ()
    held = world.workload("w1")
    assert held.state is WorkloadState.READY
    assert held.quarantine == "submission w1-1: no edge from nothing on a change to RUNNING"


async def test_the_store_itself_refuses_what_got_past_all_that(world: World) -> None:
    workload = make_workload("w1")
    await saved(world, workload)
    change = Change(old=workload, new=replace(workload, state=WorkloadState.FINISHED))
    with pytest.raises(InvalidTransition, match="workload w1"):
        await world.store.apply(world.token, [change])
    assert world.workload("w1") == workload


async def test_a_value_made_before_the_quarantine_does_not_lift_it(world: World) -> None:
    workload = make_workload("w1")
    tick = await saved(world, workload)
    with tick.confined(workload):
        raise ZeroDivisionError
    tick.put(replace(workload, state=WorkloadState.CANCELLED))
    await tick.save(world.store, world.token, FileTaskLog(world.log_folder))
    assert world.workload("w1").state is WorkloadState.READY
    assert (world.workload("w1").quarantine or "").startswith("ZeroDivisionError")


async def test_what_the_caller_can_do_something_about_is_no_quarantine(world: World) -> None:
    workload = make_workload("w1")
    tick = await saved(world, workload)
    with pytest.raises(StaleWriter), tick.confined(workload):
        raise StaleWriter("gone on")
    assert tick.workloads[workload.workload_id] == workload


async def test_a_look_that_always_fails_does_not_blind_the_others(world: World) -> None:
    await world.running("w1")

    async def broken(**_: Any) -> tuple[ObservedCluster, ...]:
        raise ValueError("a cluster like none before")

    world.emr.list_clusters = broken  # type: ignore[method-assign]
    world.end("w1")
    with capture_logs() as logs:
        await world.tick(times=2)
    assert world.workload("w1").state is WorkloadState.FINISHABLE
    assert "poll_failed_unexpectedly" in [line["event"] for line in logs]


async def test_the_record_of_a_tick_that_was_dropped_is_told_in_the_next_one(world: World) -> None:
    await world.begin()
    await world.running("w1")
    world.end("w1")
    world.clock.passed_s += 2.0
    await world.record_poll.round()
    save = world.store.apply

    async def somebody_was_first(*_: Any) -> Any:
        raise StaleWriter("emr_workload moved on since it was read")

    world.store.apply = somebody_was_first  # type: ignore[method-assign]
    with pytest.raises(StaleWriter):
        await world.steering.tick(world.token)
    await world.record_poll.round()
    world.store.apply = save  # type: ignore[method-assign]
    assert (world.last("w1").is_live, world.records.consumed) == (True, [])
    world.records.changed = None  # type: ignore[method-assign,assignment]  # it is not read again
    await world.steering.tick(world.token)
    assert world.workload("w1").state is WorkloadState.FINISHABLE
    await world.record_poll.round()
    assert world.records.consumed == ["w1-1"]

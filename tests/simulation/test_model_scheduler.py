"""The scheduler with our executor in it: what Airflow and the executor make of each other.

SJR = jobs/scheduler_job_runner.py of Airflow 3.3.2; facts are those of airflow_facts.md.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from emr_executor.core.states import Verdict, WorkloadState, WorkloadTarget
from emr_executor.errors import Bug
from tests.simulation.airflow_world import World
from tests.simulator.airflow_entities import TaskState
from tests.simulator.airflow_session import SchedulerSession, at_once
from tests.simulator.clock import VirtualClock
from tests.simulator.loop import run
from tests.simulator.scheduler import ModelScheduler, SchedulerPace
from tests.store.whole_store import store_in_memory

S = TaskState


@pytest.fixture
def world() -> World:
    return World(store_in_memory())


async def _parked(world: World, scheduler: ModelScheduler, number: int = 1, **script: object) -> str:
    """The id of a try that is parked."""
    ti = world.add(number, **script)
    await world.loops(scheduler)
    await world.phases(WorkloadState.PREPARING)
    assert world.workload(ti.ti_id).state is WorkloadState.READY
    assert ti.state is S.RUNNING
    return ti.ti_id


async def _finish(world: World, ti_id: str, verdict: Verdict) -> None:
    await world.end_step(ti_id, verdict)
    await world.phases(WorkloadState.FINISHING)


async def test_a_task_goes_from_queued_to_success_and_is_forgotten(world: World) -> None:
    scheduler, _ = await world.scheduler()
    ti_id = await _parked(world, scheduler)
    assert set(scheduler.executor.tries) == {ti_id}
    await _finish(world, ti_id, Verdict.SUCCEEDED)
    await world.loops(scheduler)
    assert world.airflow.task("d.t1@r").state is S.SUCCESS
    assert world.workload(ti_id).airflow_state == "success"
    assert set(scheduler.executor.tries) == set()
    told = [entry.event for entry in world.airflow.ledger]
    assert told == ["queued", "started", "run_repeated", "reported"]


async def test_a_failed_step_leads_to_the_next_try_under_another_id(world: World) -> None:
    scheduler, _ = await world.scheduler()
    first = await _parked(world, scheduler, retries=1, retry_delay_s=10.0)
    await _finish(world, first, Verdict.FAILED)
    await world.loops(scheduler, 10)
    ti = world.airflow.task("d.t1@r")
    assert (ti.state, ti.try_number) == (S.QUEUED, 2)
    assert ti.ti_id != first
    assert set(scheduler.executor.tries) == {ti.ti_id}
    assert world.workload(ti.ti_id).key.try_number == 2


async def test_queued_and_our_row_stand_or_fall_together(world: World) -> None:
    """Fact 11: rolled back, neither is there; the answer lost, both are."""
    scheduler, door = await world.scheduler()
    ti = world.add()
    world.session_faults.commit_fails = 1.0
    await world.loops(scheduler)
    assert (ti.state, world.store.workload(ti.ti_id)) == (S.SCHEDULED, None)
    world.session_faults.commit_fails = 0.0
    door.lose.append("queue")
    await world.loops(scheduler)
    assert ti.state is S.QUEUED
    assert world.workload(ti.ti_id).state is WorkloadState.ACCEPTED
    assert set(scheduler.executor.tries) == {ti.ti_id}


async def test_a_statement_that_failed_in_its_savepoint_is_made_in_the_next_loop(world: World) -> None:
    """executor.py queue_workload, ``_late``."""
    scheduler, _ = await world.scheduler()
    ti = world.add()
    world.session_faults.accept_fails = 1.0
    await scheduler._do_scheduling()
    assert (ti.state, world.store.workload(ti.ti_id)) == (S.QUEUED, None)
    await scheduler.executor.heartbeat()
    assert world.workload(ti.ti_id).state is WorkloadState.ACCEPTED


async def test_a_cleared_try_is_freed_by_our_success_and_runs_again(world: World) -> None:
    """Fact 7, SJR:1570: RESTARTING until the executor's SUCCESS, then the next try."""
    scheduler, _ = await world.scheduler()
    first = await _parked(world, scheduler)
    ti = world.airflow.task("d.t1@r")
    world.airflow.clear(ti)
    await world.loops(scheduler, 3)
    assert ti.state is S.RESTARTING
    assert [found for found, _ in await world.store.agent.unwanted()] == [first]
    await world.store.agent.ask_cancel([first], "cleared")
    await world.cancel_step(first)
    await world.loops(scheduler, 2)
    assert (ti.state, ti.try_number) == (S.QUEUED, 2)
    assert set(scheduler.executor.tries) == {ti.ti_id}
    assert "freed" in world.events()


async def test_an_event_that_is_lost_is_told_again_while_airflow_waits_for_it(world: World) -> None:
    """scheduler_store.take_outcomes: OFFERED as long as RESTARTING."""
    scheduler, door = await world.scheduler()
    first = await _parked(world, scheduler)
    ti = world.airflow.task("d.t1@r")
    world.airflow.clear(ti)
    await world.store.agent.ask_cancel([first], "cleared")
    await world.cancel_step(first)
    door.refuse.append("process_events")
    await world.loops(scheduler)
    assert ti.state is S.RESTARTING
    await world.loops(scheduler)
    assert ti.state is None


async def test_a_silent_try_is_purged_cancelled_and_retried(world: World) -> None:
    """SJR:3540-3647, fact 9: purge, ``change_state``, then the FAILED event of the next loop."""
    scheduler, _ = await world.scheduler(purge_s=10.0)
    first = await _parked(world, scheduler, retries=1, retry_delay_s=1.0)
    world.clock.passed_s += 301.0
    await world.loops(scheduler, 2)
    ti = world.airflow.task("d.t1@r")
    assert world.events()[-1] == "purged"
    assert ti.state is S.UP_FOR_RETRY
    assert world.workload(first).target is WorkloadTarget.CANCEL
    assert set(scheduler.executor.tries) == set()


async def test_a_successor_adopts_what_it_knows_and_tells_its_end(world: World) -> None:
    """Fact 10, SJR:3363: queued_by_job_id, last_heartbeat_at, and our row's owner."""
    first, _ = await world.scheduler()
    ti_id = await _parked(world, first)
    world.clock.passed_s += 400.0
    second, _ = await world.scheduler()
    ti = world.airflow.task("d.t1@r")
    assert (ti.queued_by_job_id, ti.last_heartbeat_at) == (second.job_id, world.clock.epoch_s())
    assert world.workload(ti_id).scheduler_job_id == second.job_id
    assert set(second.executor.tries) == {ti_id}
    await world.loops(second, 10)
    assert "purged" not in world.events()
    await _finish(world, ti_id, Verdict.SUCCEEDED)
    await world.loops(second)
    assert set(second.executor.tries) == set()


async def test_a_queued_try_that_our_store_does_not_know_is_made_from_airflows_row(world: World) -> None:
    """executor.py ``_adopt``, fact 11."""
    first, _ = await world.scheduler()
    ti = world.add()
    world.session_faults.accept_fails = 1.0
    await first._do_scheduling()
    world.session_faults.accept_fails = 0.0
    world.clock.passed_s += 31.0
    second, _ = await world.scheduler()
    assert world.workload(ti.ti_id).scheduler_job_id == second.job_id
    assert set(second.executor.tries) == {ti.ti_id}


async def test_a_restarting_try_of_a_dead_scheduler_is_reset(world: World) -> None:
    """SJR:3348: its new id is unknown to us, so it is scheduled anew at once."""
    first, _ = await world.scheduler()
    old_id = await _parked(world, first)
    ti = world.airflow.task("d.t1@r")
    world.airflow.clear(ti)
    world.clock.passed_s += 31.0
    second, _ = await world.scheduler()
    assert ti.state is None
    assert ti.ti_id != old_id
    await world.loops(second)
    assert (ti.state, ti.try_number) == (S.QUEUED, 2)


async def test_a_failing_adoption_takes_all_tries_and_is_made_in_the_next_loop(world: World) -> None:
    """try_adopt_task_instances answers [] to an error: Airflow makes us their owner (SJR:3362)."""
    first, _ = await world.scheduler()
    ti_id = await _parked(world, first)
    world.clock.passed_s += 400.0
    world.session_faults.adopt_fails = 1.0
    second, _ = await world.scheduler()
    ti = world.airflow.task("d.t1@r")
    assert (ti.queued_by_job_id, ti.last_heartbeat_at) == (second.job_id, world.clock.epoch_s())
    assert world.workload(ti_id).scheduler_job_id == first.job_id
    assert set(second.executor.tries) == {ti_id}
    await world.loops(second)
    world.session_faults.adopt_fails = 0.0
    await world.loops(second)
    assert world.workload(ti_id).scheduler_job_id == second.job_id
    await _finish(world, ti_id, Verdict.SUCCEEDED)
    await world.loops(second)
    assert set(second.executor.tries) == set()


async def test_a_late_adoption_leaves_what_another_scheduler_has_by_now(world: World) -> None:
    first, _ = await world.scheduler()
    ti_id = await _parked(world, first)
    world.clock.passed_s += 31.0
    world.session_faults.adopt_fails = 1.0
    second, _ = await world.scheduler()
    world.session_faults.adopt_fails = 0.0
    world.clock.passed_s += 31.0
    third, _ = await world.scheduler()
    await world.loops(second)
    assert world.workload(ti_id).scheduler_job_id == third.job_id
    assert (set(second.executor.tries), set(third.executor.tries)) == (set(), {ti_id})


async def test_two_schedulers_share_the_work_and_each_tells_its_own(world: World) -> None:
    """SJR:1482: an event for a try of another scheduler does nothing."""
    one, _ = await world.scheduler(queued_a_loop=1)
    two, _ = await world.scheduler(queued_a_loop=1)
    tis = [world.add(number) for number in (1, 2)]
    await one.loop()
    await two.loop()
    assert [ti.queued_by_job_id for ti in tis] == [one.job_id, two.job_id]
    await world.phases(WorkloadState.PREPARING)
    for ti in tis:
        await _finish(world, ti.ti_id, Verdict.SUCCEEDED)
    await world.loops(one)
    assert (set(one.executor.tries), set(two.executor.tries)) == (set(), {tis[1].ti_id})


async def test_a_try_stuck_in_queued_goes_on_where_it_stands(world: World) -> None:
    """SJR:3015: revoked and SCHEDULED, then QUEUED again in the next loop, before ``sync``."""
    scheduler, _ = await world.scheduler(stuck_s=10.0)
    ti = world.add()
    await world.loops(scheduler)
    row = world.workload(ti.ti_id)
    world.clock.passed_s += 601.0
    await scheduler.loop()
    assert (ti.state, world.events()[-1]) == (S.SCHEDULED, "requeued")
    assert set(scheduler.executor.tries) == set()
    await scheduler.loop()
    assert ti.state is S.QUEUED
    assert world.workload(ti.ti_id) == row
    await world.phases(WorkloadState.PREPARING)
    await _finish(world, ti.ti_id, Verdict.SUCCEEDED)
    await world.loops(scheduler)
    assert ti.state is S.SUCCESS


async def test_a_stuck_try_that_is_claimed_before_it_is_queued_again_waits(world: World) -> None:
    """``/run`` is refused while it is SCHEDULED (409 invalid_state), and not once it is QUEUED."""
    scheduler, _ = await world.scheduler(stuck_s=10.0)
    ti = world.add()
    await world.loops(scheduler)
    row = world.workload(ti.ti_id)
    world.clock.passed_s += 601.0
    await scheduler.loop()
    await world.phases(WorkloadState.PREPARING)
    assert await world.store.agent.unwanted() == ()
    assert await world.store.agent.ask_cancel([ti.ti_id], "seen as gone a moment ago") == 0
    await scheduler.loop()
    after = world.workload(ti.ti_id)
    assert (after.state, after.target, after.accepted_at) == (row.state, row.target, row.accepted_at)
    world.clock.passed_s += 5.0
    await world.phases(WorkloadState.PREPARING)
    assert world.workload(ti.ti_id).state is WorkloadState.READY
    assert ti.state is S.RUNNING


async def test_a_try_stuck_too_often_fails_and_is_cancelled(world: World) -> None:
    """SJR:3050-3118: after ``num_stuck_in_queued_retries`` FAILED, and ``executor.fail``."""
    scheduler, _ = await world.scheduler(stuck_s=10.0)
    ti = world.add()
    for _ in range(3):
        await world.loops(scheduler, 2)
        world.clock.passed_s += 601.0
        await scheduler.loop()
    assert (ti.state, world.events()[-1]) == (S.FAILED, "queued_too_long")
    await world.loops(scheduler)
    assert world.workload(ti.ti_id).target is WorkloadTarget.CANCEL
    assert await world.claim(WorkloadState.PREPARING) == ()
    assert world.workload(ti.ti_id).state is WorkloadState.CANCELLED


async def test_a_late_cancel_of_one_scheduler_leaves_what_another_took_over(world: World) -> None:
    one, door = await world.scheduler()
    two, _ = await world.scheduler()
    ti_id = await _parked(world, one)
    ti = world.airflow.task("d.t1@r")
    one.executor.failed_by_scheduler(ti.key, "purged")
    door.refuse.append("ask_cancel")
    await one.executor.heartbeat()
    await world.store.scheduler.adopt([ti_id], two.job_id)
    await one.executor.heartbeat()
    assert world.workload(ti_id).target is WorkloadTarget.RUN


async def test_nothing_that_is_late_holds_up_what_is_behind_it(world: World) -> None:
    scheduler, door = await world.scheduler()
    purged, ended = await _parked(world, scheduler), await _parked(world, scheduler, 2)
    await _finish(world, ended, Verdict.SUCCEEDED)
    world.session_faults.accept_fails = 1.0
    late = world.add(3)
    await scheduler._do_scheduling()
    scheduler.executor.failed_by_scheduler(world.airflow.task("d.t1@r").key, "purged")
    door.refuse.append("accept_late")
    await scheduler.executor.heartbeat()
    assert world.store.workload(late.ti_id) is None
    assert world.workload(purged).target is WorkloadTarget.CANCEL
    assert set(scheduler.executor.tries) == {late.ti_id}


async def test_a_cancel_that_did_not_get_through_is_sent_again(world: World) -> None:
    scheduler, door = await world.scheduler()
    ti_id = await _parked(world, scheduler)
    scheduler.executor.failed_by_scheduler(world.airflow.task("d.t1@r").key, "purged")
    door.refuse.append("ask_cancel")
    await scheduler.executor.heartbeat()
    assert world.workload(ti_id).target is WorkloadTarget.RUN
    await scheduler.executor.heartbeat()
    assert world.workload(ti_id).target is WorkloadTarget.CANCEL


def test_a_scheduler_beats_adopts_at_its_pace_and_ends_its_job() -> None:
    """The process as a whole, in virtual time; one killed in its sleep is replaced."""

    async def live() -> list[tuple[int, bool]]:
        clock = VirtualClock(asyncio.get_running_loop())
        world = World(store_in_memory(), clock=clock)  # type: ignore[arg-type]
        session = SchedulerSession(world.airflow, world.store.scheduler, rng=random.Random(1))
        first, second = (ModelScheduler(session, clock, SchedulerPace(adopt_s=60.0)) for _ in range(2))
        killed, ended = asyncio.create_task(first.run()), asyncio.create_task(second.run())
        world.add()
        await clock.sleep(20.0)
        killed.cancel()
        world.add(2)
        await clock.sleep(120.0)
        assert {ti.queued_by_job_id for ti in world.airflow.in_state(S.QUEUED)} == {second.job_id}
        second.stop()
        await ended
        return [(job.job_id, job.is_running) for job in world.airflow.jobs.values()]

    assert run(live(), seed=3) == [(1, False), (2, False)]


def test_a_face_that_waits_is_refused_inside_a_transaction() -> None:
    with pytest.raises(Bug, match="a transaction waited"):
        run(_wait_at_once(), seed=1)


async def _wait_at_once() -> None:
    at_once(asyncio.sleep(1.0))


async def test_the_same_id_with_a_later_number_starts_anew(world: World) -> None:
    """TI:1915: killed externally while QUEUED, the next try has the same ti.id."""
    scheduler, _ = await world.scheduler()
    ti = world.add(retries=1, retry_delay_s=1.0)
    await world.loops(scheduler)
    ti_id = ti.ti_id
    await world.store.scheduler.ask_cancel([ti_id], "by hand", scheduler.job_id)
    assert await world.claim(WorkloadState.PREPARING) == ()
    await world.loops(scheduler, 2)
    assert (ti.state, ti.try_number, ti.ti_id) == (S.QUEUED, 2, ti_id)
    row = world.workload(ti_id)
    assert (row.state, row.key) == (WorkloadState.ACCEPTED, replace(ti.key, try_number=2))

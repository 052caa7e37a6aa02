"""The task host, and all parts of the model of Airflow together: from QUEUED to the end."""

from __future__ import annotations

import asyncio
import random

import pytest

from emr_executor.core.states import Verdict, WorkloadState, WorkloadTarget
from emr_executor.errors import StoreBusy
from emr_executor.ports import PhaseJob
from tests.simulation.airflow_world import World, a_queued, until
from tests.simulator.airflow_entities import TaskState
from tests.simulator.airflow_session import SchedulerSession
from tests.simulator.clock import VirtualClock
from tests.simulator.loop import run
from tests.simulator.scheduler import ModelScheduler

PREPARING, FINISHING = WorkloadState.PREPARING, WorkloadState.FINISHING
W = WorkloadState
S = TaskState


@pytest.fixture
def world() -> World:
    return World()


async def test_no_more_phases_than_its_capacity_run_at_once(world: World) -> None:
    scheduler = await world.scheduler()
    for number in range(1, 8):
        world.add(number)
    await world.loops(scheduler)
    host = world.host()
    jobs = [PhaseJob(workload=w, claim_token=w.claim_token or "") for w in await world.claim(PREPARING)]
    running = [asyncio.ensure_future(host.run(job)) for job in jobs]
    for _ in range(3):
        await asyncio.sleep(0)
        assert len(world.processes) <= host.capacity
    assert len(world.processes) == host.capacity == 4
    assert len(await asyncio.gather(*running)) == 7


async def test_phases_go_on_when_their_agent_is_gone(world: World) -> None:
    ti = await a_queued(world)
    host = world.host()
    waiting = asyncio.ensure_future(world.phases(PREPARING, host))
    await until(lambda: world.processes)
    host.die()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.gather(*world.processes)
    assert world.workload(ti.ti_id).state is W.READY


async def test_queued_and_our_row_stand_or_fall_together(world: World) -> None:
    """Fact 11: rolled back, neither is there."""
    scheduler = await world.scheduler()
    ti = world.add()
    world.session_faults.commit_fails = 1.0
    with pytest.raises(StoreBusy):
        await scheduler._do_scheduling()
    assert (ti.state, world.store.workload(ti.ti_id)) == (S.SCHEDULED, None)
    world.session_faults.commit_fails = 0.0
    await scheduler._do_scheduling()
    assert (ti.state, world.workload(ti.ti_id).state) == (S.QUEUED, W.ACCEPTED)


async def test_a_try_stuck_in_queued_goes_round_and_in_the_end_fails_and_is_cancelled(world: World) -> None:
    """SJR:3015-3118: revoked and SCHEDULED, QUEUED again; after the last time FAILED."""
    scheduler = await world.scheduler()
    ti = world.add()
    for _ in range(3):
        await world.loops(scheduler, 2)
        assert (ti.state, world.workload(ti.ti_id).target) == (S.QUEUED, WorkloadTarget.RUN)
        world.clock.passed_s += 601.0
        await scheduler.loop()
    assert (ti.state, world.events()[-1]) == (S.FAILED, "queued_too_long")
    await world.loops(scheduler)
    assert world.workload(ti.ti_id).target is WorkloadTarget.CANCEL


def test_tasks_go_from_queued_to_their_end_in_virtual_time(world: World) -> None:
    """One that succeeds, one whose step fails once, one cleared while it is parked."""

    async def live() -> list[tuple[str, int, str]]:
        clock = VirtualClock(asyncio.get_running_loop())
        world.clock = clock  # type: ignore[assignment]
        world.airflow.now_s = clock.epoch_s
        session = SchedulerSession(world.airflow, world.store.scheduler, rng=random.Random(1))
        scheduler = ModelScheduler(session, clock)
        loops = asyncio.create_task(scheduler.run())
        good, bad, cleared = (world.add(n, retries=1, retry_delay_s=5.0) for n in (1, 2, 3))
        verdicts = {(good.task, 1): Verdict.SUCCEEDED, (bad.task, 1): Verdict.FAILED}
        is_cleared = False
        while world.airflow.open_tries():
            for kind in (FINISHING, PREPARING):
                await world.phases(kind)
            if not is_cleared and cleared.state is S.RUNNING:
                assert world.workload(cleared.ti_id).state is W.READY
                is_cleared = True
                world.airflow.clear(cleared)
            for workload_id, _ in await world.store.agent.unwanted():
                await world.store.agent.ask_cancel([workload_id], "cleared")
            snapshot = await world.store.agent.snapshot(clock.now(), 10)
            for row in snapshot.workloads:
                if row.state is not W.READY:
                    continue
                if row.target is WorkloadTarget.CANCEL:
                    await world.cancel_step(row.workload_id)
                    continue
                owner = world.airflow.owner_of(row.workload_id)
                assert owner is not None
                verdict = verdicts.get((owner.task, row.key.try_number), Verdict.SUCCEEDED)
                await world.end_step(row.workload_id, verdict)
            await clock.sleep(3.0)
        await clock.sleep(5.0)
        scheduler.stop()
        await loops
        assert len(scheduler.executor.tries) == 0
        return [(ti.task, ti.try_number, str(ti.state)) for ti in world.airflow.in_state(*TaskState)]

    assert sorted(run(live(), seed=2)) == [
        ("d.t1@r", 1, "success"),
        ("d.t2@r", 2, "success"),
        ("d.t3@r", 2, "success"),
    ]
    told = [entry.event for entry in world.airflow.ledger if entry.task == "d.t3@r"]
    assert told.count("cleared") == told.count("freed") == told.count("reported") == 1

"""The supervisor process of a phase, as ``task/supervise.py`` is one.

SUP = sdk/execution_time/supervisor.py, API = api_fastapi/execution_api/routes/task_instances.py of Airflow
3.3.2; names in backquotes are those of task/supervise.py and task/phase_result.py.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from emr_executor.core.states import Verdict, WorkloadState, WorkloadTarget
from emr_executor.task.phase_result import EXIT_BROKEN, EXIT_NO_RESULT
from tests.simulation.airflow_world import Faulty, World, a_queued, an_ended, until
from tests.simulator.airflow_entities import (
    ApiSilent,
    FinishEnd,
    PrepareEnd,
    TaskState,
    TryScript,
)
from tests.simulator.host import EXIT_KILLED
from tests.store.whole_store import store_in_memory

PREPARING, FINISHING = WorkloadState.PREPARING, WorkloadState.FINISHING
W = WorkloadState
S = TaskState


@pytest.fixture
def world() -> World:
    return World(store_in_memory())


# -- prepare ---------------------------------------------------------------------------------------------


async def test_prepare_parks_with_the_step_of_its_script(world: World) -> None:
    ti = await a_queued(world, TryScript(prepare_s=12.0, execution_timeout_s=90.0))
    (ended,) = await world.phases(PREPARING)
    row = world.workload(ti.ti_id)
    assert ended.exit_code == 0
    assert (row.state, row.claim_token) == (W.READY, None)
    assert row.step is not None
    assert row.step.execution_timeout_s == 90.0
    assert ti.state is S.RUNNING
    assert ti.last_heartbeat_at == world.clock.epoch_s() - 0.5 - 2.0


async def test_the_claim_is_renewed_every_five_seconds(world: World) -> None:
    """ticker.py with MIN_HEARTBEAT_INTERVAL; the first renewal comes at once."""
    await a_queued(world, TryScript(prepare_s=12.0, stage_s=0.0))
    door = Faulty(world.store.phase)
    await world.phases(PREPARING, world.host(door))
    assert door.calls == ["renew_claim"] * 3 + ["record_parked"]


@pytest.mark.parametrize(
    ("prepare", "retries", "expected"),
    [
        (PrepareEnd.RAISES, 1, S.UP_FOR_RETRY),
        (PrepareEnd.RAISES, 0, S.FAILED),
        (PrepareEnd.RAISES_FAIL, 1, S.FAILED),
        (PrepareEnd.DIES, 1, S.UP_FOR_RETRY),
        (PrepareEnd.DIES, 0, S.FAILED),
    ],
)
async def test_user_code_that_fails_in_prepare_ends_the_try(
    world: World, prepare: PrepareEnd, retries: int, expected: TaskState
) -> None:
    """supervise.py ``_report_unspoken_end`` for a child that died; should_retry is /run's answer."""
    ti = await a_queued(world, TryScript(prepare=prepare), retries=retries)
    ti_id = ti.ti_id
    await world.phases(PREPARING)
    row = world.workload(ti_id)
    assert ti.state is expected
    assert (row.state, row.airflow_state) == (W.FINISHED, str(expected))
    assert world.airflow.ledger[-1].detail == {"state": str(expected), "by": "prepare"}


async def test_a_start_that_is_refused_cancels(world: World) -> None:
    """``_refused_start``: 404 of a try cleared while QUEUED; no step yet, so CANCELLED at once."""
    ti = await a_queued(world)
    ti_id = ti.ti_id
    world.airflow.clear(ti)
    await world.phases(PREPARING)
    assert world.workload(ti_id).state is W.CANCELLED


async def test_a_start_without_an_answer_is_made_again_later(world: World) -> None:
    """Five attempts of the SDK's client, then ``retry`` with the backoff of results.py (5 s at first)."""
    ti = await a_queued(world)
    world.api_faults.is_down = True
    await world.phases(PREPARING)
    row = world.workload(ti.ti_id)
    assert row.state is W.ACCEPTED
    assert row.not_before is not None
    assert (row.not_before - world.clock.now()).total_seconds() == pytest.approx(5.0)
    assert await world.claim(PREPARING) == ()
    world.api_faults.is_down = False
    world.clock.passed_s += 6.0
    await world.phases(PREPARING)
    assert world.workload(ti.ti_id).state is W.READY


async def test_a_host_whose_clock_is_ahead_gets_no_token_taken_and_tries_again(world: World) -> None:
    """403 is no "not wanted": ``_refused_start`` retries."""
    ti = await a_queued(world)
    world.airflow.now_s = lambda: world.clock.epoch_s() - 11.0
    await world.phases(PREPARING)
    assert world.workload(ti.ti_id).state is W.ACCEPTED
    assert ti.state is S.QUEUED


async def test_s3_that_is_away_is_not_the_tasks_fault(world: World) -> None:
    """``_park``: TryAgain -> retry; the try stays RUNNING and its next /run is a repeat."""
    ti = await a_queued(world)
    world.phase_faults.s3_is_down = True
    await world.phases(PREPARING)
    assert (world.workload(ti.ti_id).state, ti.state) == (W.ACCEPTED, S.RUNNING)
    world.phase_faults.s3_is_down = False
    world.clock.passed_s += 10.0
    await world.phases(PREPARING)
    assert world.workload(ti.ti_id).state is W.READY
    assert world.events()[-2:] == ["started", "run_repeated"]


async def test_a_try_that_is_cleared_while_it_prepares_is_given_up(world: World) -> None:
    """SERVER_TERMINATED: 410 to the next heartbeat -> gone."""
    ti = await a_queued(world, TryScript(prepare_s=30.0))
    ti_id = ti.ti_id
    door = Faulty(world.store.phase)

    async def clear() -> None:
        world.airflow.clear(ti)

    door.before["renew_claim"] = clear
    await world.phases(PREPARING, world.host(door))
    assert world.workload(ti_id).state is W.CANCELLED
    assert ti.state is S.RESTARTING
    assert world.events()[-1] == "heartbeat_refused"


async def test_user_code_is_ended_when_nobody_was_heard_for_too_long_and_runs_again(world: World) -> None:
    """supervise.py ``_handle_heartbeat_failures``, after Settings.outage_s."""
    ti = await a_queued(world, TryScript(prepare_s=3600.0))
    door = Faulty(world.store.phase)

    async def cut() -> None:
        world.api_faults.is_down = True

    door.before["renew_claim"] = cut
    await world.phases(PREPARING, world.host(door))
    assert world.clock.passed_s < 600.0
    assert (world.workload(ti.ti_id).state, ti.state) == (W.ACCEPTED, S.RUNNING)


@pytest.mark.parametrize("retries", [0, 1])
async def test_heartbeats_that_fail_cost_no_try_though_its_end_could_be_told(
    world: World, retries: int
) -> None:
    """supervise.py ``_handle_heartbeat_failures``: the stock supervisor would report a failure."""
    ti = await a_queued(world, TryScript(prepare_s=300.0), retries=retries)
    beat = world.airflow.heartbeat

    def silent(*_: Any) -> None:
        raise ApiSilent("away")

    world.airflow.heartbeat = silent  # type: ignore[method-assign]
    await world.phases(PREPARING)
    row = world.workload(ti.ti_id)
    assert (row.state, row.phase_attempts, ti.state) == (W.ACCEPTED, 0, S.RUNNING)
    assert "reported" not in world.events()
    world.airflow.heartbeat = beat  # type: ignore[method-assign]
    world.clock.passed_s += 5.0
    await world.phases(PREPARING)
    assert world.workload(ti.ti_id).state is W.READY


async def test_user_code_goes_on_while_an_outage_is_short(world: World) -> None:
    """supervise.py: as long as Airflow cannot have taken the try for dead (Settings.outage_s)."""
    ti = await a_queued(world, TryScript(prepare_s=200.0))

    def silent(*_: Any) -> None:
        raise ApiSilent("away")

    world.airflow.heartbeat = silent  # type: ignore[method-assign]
    await world.phases(PREPARING)
    assert world.workload(ti.ti_id).state is W.READY


async def test_a_phase_that_lost_its_claim_leaves_no_trace(world: World) -> None:
    """StaleWriter at a renewal, as at a result: nothing is written and Airflow is told nothing."""
    ti = await a_queued(world, TryScript(prepare=PrepareEnd.RAISES, prepare_s=30.0))
    door = Faulty(world.store.phase)

    async def free() -> None:
        ((workload_id, token, beat),) = await world.store.agent.claims()
        assert await world.store.agent.free_claim(workload_id, token, beat, None)

    door.before["renew_claim"] = free
    (ended,) = await world.phases(PREPARING, world.host(door))
    assert ended.exit_code == EXIT_NO_RESULT
    assert (world.workload(ti.ti_id).state, ti.state) == (W.ACCEPTED, S.RUNNING)
    assert door.calls == ["renew_claim"]


async def test_a_lost_answer_of_parking_is_taken_for_a_lost_claim_and_the_step_stands(world: World) -> None:
    """ticker.write again -> StaleWriter; ``_park`` abandons, the row is READY."""
    ti = await a_queued(world)
    door = Faulty(world.store.phase, lose={"record_parked": 1})
    (ended,) = await world.phases(PREPARING, world.host(door))
    assert ended.exit_code == EXIT_NO_RESULT
    assert world.workload(ti.ti_id).state is W.READY


async def test_a_store_that_is_busy_for_long_keeps_the_step_from_being_stored(world: World) -> None:
    """Writes for ``outage_s``, then ``_park`` retries; where that fails too the claim runs out (code 70)."""
    ti = await a_queued(world)
    door = Faulty(world.store.phase, busy={"record_parked": 27})
    await world.phases(PREPARING, world.host(door))
    assert (door.busy, world.workload(ti.ti_id).phase_attempts) == ({"record_parked": 0}, 0)
    assert world.workload(ti.ti_id).state is W.ACCEPTED
    world.clock.passed_s += 10.0
    broken = Faulty(world.store.phase, busy={"record_parked": 27, "record_retry": 27})
    (ended,) = await world.phases(PREPARING, world.host(broken))
    assert ended.exit_code == EXIT_BROKEN
    assert world.workload(ti.ti_id).state is W.PREPARING


# -- finish ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "retries", "expected"),
    [
        (Verdict.SUCCEEDED, 0, S.SUCCESS),
        (Verdict.FAILED, 1, S.UP_FOR_RETRY),
        (Verdict.FAILED, 0, S.FAILED),
        (Verdict.TIMED_OUT, 1, S.UP_FOR_RETRY),
        (Verdict.LOST, 1, S.UP_FOR_RETRY),
        (Verdict.CANCELLED, 1, S.FAILED),
    ],
)
async def test_finish_tells_airflow_what_the_outcome_means(
    world: World, verdict: Verdict, retries: int, expected: TaskState
) -> None:
    """step_errors.py: a step that somebody cancelled is an AirflowFailException."""
    ti = await an_ended(world, verdict, retries=retries)
    ti_id = ti.ti_id
    await world.phases(FINISHING)
    row = world.workload(ti_id)
    assert (row.state, row.airflow_state, ti.state) == (W.FINISHED, str(expected), expected)
    assert world.airflow.ledger[-1].detail == {"state": str(expected), "by": "finish"}


@pytest.mark.parametrize("finish", [FinishEnd.DIES, FinishEnd.HELD])
async def test_a_finish_that_comes_to_no_end_is_run_again(world: World, finish: FinishEnd) -> None:
    """``unfinished()``: never reported, since a retry would run a finished step again (fact 8)."""
    ti = await an_ended(world, Verdict.SUCCEEDED, TryScript(finish=finish), retries=1)
    await world.phases(FINISHING)
    assert (world.workload(ti.ti_id).state, ti.state) == (W.FINISHABLE, S.RUNNING)
    assert "reported" not in world.events()


async def test_user_code_may_fail_after_a_good_step(world: World) -> None:
    ti = await an_ended(world, Verdict.SUCCEEDED, TryScript(finish=FinishEnd.RAISES))
    await world.phases(FINISHING)
    assert ti.state is S.FAILED


async def test_a_lost_answer_of_success_is_met_by_the_same_call_again(world: World) -> None:
    """The SDK's client repeats it, and /state takes the state that it has (API:396)."""
    ti = await an_ended(world, Verdict.SUCCEEDED)
    await _lose_first(world, "finish")
    assert (world.workload(ti.ti_id).airflow_state, ti.state) == ("success", S.SUCCESS)


async def test_a_lost_answer_of_up_for_retry_ends_as_what_airflow_was_told(world: World) -> None:
    """Its repeat finds no row (404): ``_result`` says gone, and the row says what was intended."""
    ti = await an_ended(world, Verdict.FAILED, retries=1)
    ti_id = ti.ti_id
    await _lose_first(world, "finish")
    row = world.workload(ti_id)
    assert (row.state, row.airflow_state) == (W.FINISHED, "up_for_retry")
    assert ti.state is S.UP_FOR_RETRY


async def _lose_first(world: World, call: str) -> None:
    """Finish, with the first answer of one call lost."""
    original = getattr(world.airflow, call)

    def act(*args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        setattr(world.airflow, call, original)
        world.api_faults.answer_lost = 1.0
        return answer

    async def heal() -> None:
        await until(lambda: world.api_faults.answer_lost)
        world.api_faults.answer_lost = 0.0

    setattr(world.airflow, call, act)
    await asyncio.gather(world.phases(FINISHING), heal())


async def test_a_finish_killed_after_airflow_took_the_state_ends_as_finished(world: World) -> None:
    """The repeat's /run is refused (409 invalid_state), and Airflow has what the row says was intended."""
    ti = await an_ended(world, Verdict.SUCCEEDED)
    ti_id = ti.ti_id
    never = asyncio.Event()
    door = Faulty(world.store.phase, before={"record_over": lambda: _wait(never)})
    host = world.host(door)
    running = asyncio.ensure_future(world.phases(FINISHING, host))
    await until(lambda: "reported" in world.events())
    world.killed[-1]()
    assert [ended.exit_code for ended in await running] == [EXIT_KILLED]
    for process in world.processes:
        process.cancel()
    ((_, token, beat),) = await world.store.agent.claims()
    assert await world.store.agent.free_claim(world.workload(ti_id).workload_id, token, beat, None)
    await world.phases(FINISHING)
    row = world.workload(ti_id)
    assert (row.state, row.airflow_state, ti.state) == (W.FINISHED, "success", S.SUCCESS)
    scheduler, _ = await world.scheduler()
    await world.loops(scheduler, 2)
    assert ti.state is S.SUCCESS
    assert "killed_externally" not in world.events()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def test_a_try_marked_while_it_finishes_is_not_told_otherwise(world: World) -> None:
    """409 ``invalid_state`` to the end itself -> gone."""
    ti = await an_ended(world, Verdict.SUCCEEDED, TryScript(finish_s=1.0))
    door = Faulty(world.store.phase)
    original = world.airflow.finish

    def finish(*args: Any, **kwargs: Any) -> None:
        world.airflow.mark(ti, S.FAILED)
        original(*args, **kwargs)

    world.airflow.finish = finish  # type: ignore[method-assign]
    await world.phases(FINISHING, world.host(door))
    assert ti.state is S.FAILED
    assert world.workload(ti.ti_id).target is WorkloadTarget.CANCEL
    assert "reported" not in world.events()

"""The task runner of a phase in virtual time, below ``task.phase_result.supervise`` and production's ticker.

SUP = sdk/execution_time/supervisor.py, API = api_fastapi/execution_api/routes/task_instances.py of Airflow
3.3.2; names in backquotes are those of task/supervise.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from emr_executor.core.states import Verdict, WorkloadState, WorkloadTarget
from emr_executor.task.phase_result import EXIT_BROKEN, EXIT_NO_RESULT
from tests.simulation.airflow_world import Faulty, World, a_queued, an_ended, until
from tests.simulator.airflow_entities import ApiSilent, FinishEnd, PrepareEnd, TaskState, TryScript

PREPARING, FINISHING = WorkloadState.PREPARING, WorkloadState.FINISHING
W = WorkloadState
S = TaskState


@pytest.fixture
def world() -> World:
    return World()


async def test_prepare_parks_with_the_step_of_its_script_and_signs_of_life(world: World) -> None:
    ti = await a_queued(world, TryScript(prepare_s=12.0, execution_timeout_s=90.0))
    door = Faulty(world.store.phase)
    (ended,) = await world.phases(PREPARING, world.host(door))
    row = world.workload(ti.ti_id)
    assert (ended.exit_code, row.state, row.claim_token, ti.state) == (0, W.READY, None, S.RUNNING)
    assert row.step is not None
    assert row.step.execution_timeout_s == 90.0
    assert ti.last_heartbeat_at == world.clock.epoch_s() - 0.5 - 2.0
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
    """``_report_unspoken_end`` for a child that died; should_retry is /run's answer."""
    ti = await a_queued(world, TryScript(prepare=prepare), retries=retries)
    ti_id = ti.ti_id
    await world.phases(PREPARING)
    row = world.workload(ti_id)
    assert (row.state, row.airflow_state, ti.state) == (W.FINISHED, str(expected), expected)
    assert world.airflow.ledger[-1].detail == {"state": str(expected), "by": "prepare"}


@pytest.mark.parametrize(
    ("verdict", "script", "retries", "expected"),
    [
        (Verdict.SUCCEEDED, TryScript(), 0, S.SUCCESS),
        (Verdict.SUCCEEDED, TryScript(finish=FinishEnd.RAISES), 0, S.FAILED),
        (Verdict.FAILED, TryScript(), 1, S.UP_FOR_RETRY),
        (Verdict.FAILED, TryScript(), 0, S.FAILED),
        (Verdict.TIMED_OUT, TryScript(), 1, S.UP_FOR_RETRY),
        (Verdict.LOST, TryScript(), 1, S.UP_FOR_RETRY),
        (Verdict.CANCELLED, TryScript(), 1, S.FAILED),
    ],
)
async def test_finish_tells_airflow_what_the_outcome_means(
    world: World, verdict: Verdict, script: TryScript, retries: int, expected: TaskState
) -> None:
    """step_errors.py: a step that somebody cancelled is an AirflowFailException."""
    ti = await an_ended(world, verdict, script, retries=retries)
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


# -- what is away, and what is not wanted ------------------------------------------------------------------


def _api_is_down(world: World) -> None:
    world.api_faults.is_down = True


def _clock_is_ahead(world: World) -> None:
    world.airflow.now_s = lambda: world.clock.epoch_s() - 11.0


def _s3_is_down(world: World) -> None:
    world.phase_faults.s3_is_down = True


def _heartbeats_fail(world: World) -> None:
    def silent(*_: Any) -> None:
        raise ApiSilent("away")

    world.airflow.heartbeat = silent  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("away", "prepare_s", "airflow_has"),
    [
        (_api_is_down, 4.0, S.QUEUED),
        (_clock_is_ahead, 4.0, S.QUEUED),
        (_s3_is_down, 4.0, S.RUNNING),
        (_heartbeats_fail, 300.0, S.RUNNING),
    ],
)
async def test_what_is_away_costs_no_try_and_no_attempt(
    world: World, away: Callable[[World], None], prepare_s: float, airflow_has: TaskState
) -> None:
    """``/run`` unanswered or its token refused (403), ``_park``, ``_handle_heartbeat_failures``."""
    ti = await a_queued(world, TryScript(prepare_s=prepare_s))
    heartbeat, now_s = world.airflow.heartbeat, world.airflow.now_s
    away(world)
    await world.phases(PREPARING)
    row = world.workload(ti.ti_id)
    assert (row.state, row.phase_attempts, ti.state) == (W.ACCEPTED, 0, airflow_has)
    assert await world.claim(PREPARING) == (), "not before its backoff"
    assert "reported" not in world.events()
    world.api_faults.is_down = world.phase_faults.s3_is_down = False
    world.airflow.heartbeat, world.airflow.now_s = heartbeat, now_s  # type: ignore[method-assign]
    world.clock.passed_s += 5.0
    await world.phases(PREPARING)
    assert world.workload(ti.ti_id).state is W.READY


async def test_user_code_goes_on_while_an_outage_is_short(world: World) -> None:
    """As long as Airflow cannot have taken the try for dead (Settings.outage_s)."""
    ti = await a_queued(world, TryScript(prepare_s=200.0))
    _heartbeats_fail(world)
    await world.phases(PREPARING)
    assert world.workload(ti.ti_id).state is W.READY


async def test_a_start_that_is_refused_cancels(world: World) -> None:
    """404 of a try cleared while QUEUED; no step yet, so CANCELLED at once."""
    ti = await a_queued(world)
    ti_id = ti.ti_id
    world.airflow.clear(ti)
    await world.phases(PREPARING)
    assert world.workload(ti_id).state is W.CANCELLED


async def test_a_try_that_is_cleared_while_it_prepares_is_given_up(world: World) -> None:
    """SERVER_TERMINATED: 410 to the next heartbeat -> gone."""
    ti = await a_queued(world, TryScript(prepare_s=30.0))
    ti_id = ti.ti_id

    async def clear() -> None:
        world.airflow.clear(ti)

    await world.phases(PREPARING, world.host(Faulty(world.store.phase, before={"renew_claim": clear})))
    assert (world.workload(ti_id).state, ti.state) == (W.CANCELLED, S.RESTARTING)
    assert world.events()[-1] == "heartbeat_refused"


async def test_a_try_marked_while_it_finishes_is_not_told_otherwise(world: World) -> None:
    """409 ``invalid_state`` to the end itself -> gone."""
    ti = await an_ended(world, Verdict.SUCCEEDED, TryScript(finish_s=1.0))
    original = world.airflow.finish

    def finish(*args: Any, **kwargs: Any) -> None:
        world.airflow.mark(ti, S.FAILED)
        original(*args, **kwargs)

    world.airflow.finish = finish  # type: ignore[method-assign]
    await world.phases(FINISHING)
    assert ti.state is S.FAILED
    assert world.workload(ti.ti_id).target is WorkloadTarget.CANCEL
    assert "reported" not in world.events()


# -- claims and answers that get lost ----------------------------------------------------------------------


async def test_a_phase_that_lost_its_claim_leaves_no_trace(world: World) -> None:
    """StaleWriter at a renewal, as at a result: nothing is written and Airflow is told nothing."""
    ti = await a_queued(world, TryScript(prepare=PrepareEnd.RAISES, prepare_s=30.0))

    async def free() -> None:
        ((workload_id, token, beat),) = await world.store.agent.claims()
        assert await world.store.agent.free_claim(workload_id, token, beat, None)

    door = Faulty(world.store.phase, before={"renew_claim": free})
    (ended,) = await world.phases(PREPARING, world.host(door))
    assert ended.exit_code == EXIT_NO_RESULT
    assert (world.workload(ti.ti_id).state, ti.state) == (W.ACCEPTED, S.RUNNING)
    assert door.calls == ["renew_claim"]


async def test_a_lost_answer_of_parking_is_taken_for_a_lost_claim_and_the_step_stands(world: World) -> None:
    ti = await a_queued(world)
    (ended,) = await world.phases(PREPARING, world.host(Faulty(world.store.phase, lose={"record_parked": 1})))
    assert (ended.exit_code, world.workload(ti.ti_id).state) == (EXIT_NO_RESULT, W.READY)


@pytest.mark.parametrize(
    ("busy", "exit_code", "state"),
    [
        (("record_parked",), 0, W.ACCEPTED),
        (("record_parked", "record_retry"), EXIT_BROKEN, W.PREPARING),
    ],
)
async def test_a_store_that_is_busy_for_long(
    world: World, busy: tuple[str, ...], exit_code: int, state: WorkloadState
) -> None:
    """Writes for ``outage_s``, then ``_park`` retries; where that fails too the claim runs out."""
    ti = await a_queued(world)
    door = Faulty(world.store.phase, busy=dict.fromkeys(busy, 27))
    (ended,) = await world.phases(PREPARING, world.host(door))
    assert door.busy == dict.fromkeys(busy, 0)
    assert (ended.exit_code, world.workload(ti.ti_id).state) == (exit_code, state)


@pytest.mark.parametrize(
    ("verdict", "told"), [(Verdict.SUCCEEDED, S.SUCCESS), (Verdict.FAILED, S.UP_FOR_RETRY)]
)
async def test_a_lost_answer_to_the_end_of_a_try_ends_as_airflow_was_told(
    world: World, verdict: Verdict, told: TaskState
) -> None:
    """/state takes the state that it has (API:396); up for retry finds no row (404) -> gone, as intended."""
    ti = await an_ended(world, verdict, retries=1)
    ti_id, original = ti.ti_id, world.airflow.finish

    def finish(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        world.airflow.finish = original  # type: ignore[method-assign]
        world.api_faults.answer_lost = 1.0

    async def heal() -> None:
        await until(lambda: world.api_faults.answer_lost)
        world.api_faults.answer_lost = 0.0

    world.airflow.finish = finish  # type: ignore[method-assign]
    await asyncio.gather(world.phases(FINISHING), heal())
    row = world.workload(ti_id)
    assert (row.state, row.airflow_state, ti.state) == (W.FINISHED, str(told), told)

"""Each rule of the model of Airflow, with its source in Airflow 3.3.2.

API = api_fastapi/execution_api/routes/task_instances.py, SJR = jobs/scheduler_job_runner.py,
TI = models/taskinstance.py, TIH = models/taskinstancehistory.py; facts are those of airflow_facts.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from emr_executor.errors import TaskGone, TryAgain
from tests.simulation.airflow_world import ELSEWHERE, HERE, Rows
from tests.simulator.airflow_api import ApiFaults, ExecutionApi
from tests.simulator.airflow_entities import ApiRefused, ApiSilent, TaskState, mint
from tests.simulator.loop import run
from tests.simulator.task_api import SimTaskApi

S = TaskState


@pytest.fixture
def rows() -> Rows:
    return Rows()


def _refusal(call: Callable[..., object], *args: Any, **kwargs: Any) -> tuple[int, str]:
    with pytest.raises(ApiRefused) as refused:
        call(*args, **kwargs)
    return refused.value.status, refused.value.reason


# -- the Execution API ---------------------------------------------------------------------------------


def test_run_is_taken_once_and_again_from_the_same_identity(rows: Rows) -> None:
    """API:205-211, fact 3."""
    ti = rows.a_ti(S.QUEUED, retries=1)
    assert rows.airflow.run(ti.ti_id, rows.token(ti), HERE)
    assert ti.state is S.RUNNING
    rows.airflow.run(ti.ti_id, rows.token(ti), HERE)
    assert _refusal(rows.airflow.run, ti.ti_id, rows.token(ti), ELSEWHERE) == (409, "invalid_state")
    assert rows.events()[-3:] == ["started", "run_repeated", "run_refused"]


@pytest.mark.parametrize("state", [None, S.SCHEDULED, S.SUCCESS, S.FAILED])
def test_run_is_refused_in_other_states(rows: Rows, state: TaskState | None) -> None:
    """API:218."""
    ti = rows.a_ti(state)
    assert _refusal(rows.airflow.run, ti.ti_id, rows.token(ti), HERE) == (409, "invalid_state")


@pytest.mark.parametrize(
    ("retries", "tries", "expected"), [(0, 1, False), (1, 1, True), (1, 2, False), (2, 2, True)]
)
def test_should_retry_follows_max_tries(rows: Rows, retries: int, tries: int, expected: bool) -> None:
    """API:1292 _is_eligible_to_retry."""
    ti = rows.a_ti(S.QUEUED, retries=retries)
    ti.key = replace(ti.key, try_number=tries)
    assert rows.airflow.run(ti.ti_id, rows.token(ti), HERE) is expected


def test_a_heartbeat_keeps_a_running_try_and_is_refused_with_a_reason(rows: Rows) -> None:
    """API:898-985: another identity, then another state."""
    ti = rows.a_ti(S.RUNNING)
    rows.clock.passed_s = 50.0
    rows.airflow.heartbeat(ti.ti_id, rows.token(ti), HERE)
    assert ti.last_heartbeat_at == rows.clock.epoch_s()
    assert _refusal(rows.airflow.heartbeat, ti.ti_id, rows.token(ti), ELSEWHERE) == (409, "running_elsewhere")
    rows.airflow.mark(ti, S.SUCCESS)
    assert _refusal(rows.airflow.heartbeat, ti.ti_id, rows.token(ti), HERE) == (409, "not_running")


def test_an_id_of_the_past_is_gone_where_the_history_has_it_and_else_not_found(rows: Rows) -> None:
    """API:868: 410, else 404; TIH.record_ti archives each try once; API:166: /run asks no history."""
    ti = rows.a_ti(S.RUNNING)
    first = ti.ti_id
    rows.airflow.clear(ti)
    second = ti.ti_id
    assert _refusal(rows.airflow.heartbeat, first, rows.token(first), HERE) == (410, "not_found")
    assert _refusal(rows.airflow.run, first, rows.token(first), HERE) == (404, "not_found")
    rows.airflow.clear(ti)
    assert len({first, second, ti.ti_id}) == 3
    assert _refusal(rows.airflow.heartbeat, second, rows.token(second), HERE) == (404, "not_found")


@pytest.mark.parametrize("state", [S.SUCCESS, S.FAILED])
def test_an_end_may_be_told_twice(rows: Rows, state: TaskState) -> None:
    """API:396: the state that it has already is taken with 200, and nothing happens."""
    ti = rows.a_ti(S.RUNNING)
    for _ in range(2):
        rows.airflow.finish(ti.ti_id, rows.token(ti), state, by="finish")
    assert ti.state is state
    assert rows.events().count("reported") == 1


def test_up_for_retry_gives_a_new_id_so_that_its_repeat_finds_nothing(rows: Rows) -> None:
    """API:684 prepare_db_for_next_try; TI:1053."""
    ti = rows.a_ti(S.RUNNING, retries=1)
    first = ti.ti_id
    rows.airflow.finish(first, rows.token(first), S.UP_FOR_RETRY, by="finish")
    assert ti.ti_id != first
    repeated = _refusal(rows.airflow.finish, first, rows.token(first), S.UP_FOR_RETRY, by="finish")
    assert repeated == (404, "not_found")
    last = rows.airflow.ledger[-1]
    assert (last.event, last.ti_id, last.state) == ("reported", first, "up_for_retry")
    assert last.detail == {"state": "up_for_retry", "by": "finish"}


@pytest.mark.parametrize("state", [S.QUEUED, S.RESTARTING, S.SUCCESS])
def test_an_end_is_refused_unless_running(rows: Rows, state: TaskState) -> None:
    """API:405: the reason is ``invalid_state``, not the heartbeat's ``not_running``."""
    ti = rows.a_ti(state)
    refused = _refusal(rows.airflow.finish, ti.ti_id, rows.token(ti), S.FAILED, by="finish")
    assert refused == (409, "invalid_state")


def test_tokens_are_of_one_try_end_and_are_renewed_in_the_last_fifth_of_their_life(rows: Rows) -> None:
    """Fact 5; execution_api/security.py:136, [api_auth] jwt_leeway; execution_api/app.py:158."""
    ti, other = rows.a_ti(S.QUEUED), rows.a_ti(S.QUEUED)
    token = rows.token(ti)
    early = mint(ti.ti_id, rows.clock.epoch_s() + 11.0)
    rows.airflow.run(ti.ti_id, mint(ti.ti_id, rows.clock.epoch_s() + 9.0), HERE)
    for bad in (rows.token(other), early):
        assert _refusal(rows.airflow.heartbeat, ti.ti_id, bad, HERE) == (403, "invalid_token")
    rows.clock.passed_s = 479.0
    assert rows.airflow.refreshed(token) is token
    rows.clock.passed_s = 481.0
    assert rows.airflow.refreshed(token).expires_at == rows.clock.epoch_s() + 600.0
    rows.clock.passed_s = 609.0
    rows.airflow.heartbeat(ti.ti_id, token, HERE)
    rows.clock.passed_s = 611.0
    assert _refusal(rows.airflow.heartbeat, ti.ti_id, token, HERE) == (403, "invalid_token")


def test_the_line_can_be_down_and_can_lose_an_answer_after_the_act(rows: Rows) -> None:
    faults = ApiFaults(is_down=True)
    api = ExecutionApi(rows.airflow, clock=rows.clock, rng=rows.airflow._rng, faults=faults)
    ti = rows.a_ti(S.RUNNING)

    async def tell() -> None:
        with pytest.raises(ApiSilent):
            await api.finish(ti.ti_id, api.mint(ti.ti_id), S.SUCCESS, by="finish")

    run(tell(), seed=1)
    assert ti.state is S.RUNNING
    faults.is_down, faults.answer_lost = False, 1.0
    run(tell(), seed=1)
    assert ti.state is S.SUCCESS


def test_the_agents_client_answers_as_the_real_one(rows: Rows) -> None:
    """task/task_api.py: gone for 404, 410 and the 409 of both calls, else try again."""
    faults = ApiFaults()
    api = SimTaskApi(ExecutionApi(rows.airflow, clock=rows.clock, rng=rows.airflow._rng, faults=faults))
    ti, marked, cleared = rows.a_ti(S.RUNNING), rows.a_ti(S.SUCCESS), rows.a_ti(S.RESTARTING)

    async def ask() -> None:
        await api.heartbeat(ti.ti_id, HERE)
        for ti_id, identity, why in (
            (marked.ti_id, HERE, "not_running"),
            (ti.ti_id, ELSEWHERE, "running_elsewhere"),
            (cleared.archived_ids[0], HERE, "410"),
        ):
            with pytest.raises(TaskGone, match=why):
                await api.heartbeat(ti_id, identity)
        with pytest.raises(TaskGone, match="invalid_state"):
            await api.fail_terminally(marked.ti_id, ended_at=rows.clock.now())
        await api.fail_terminally(ti.ti_id, ended_at=rows.clock.now())
        faults.is_down = True
        with pytest.raises(TryAgain, match="did not answer"):
            await api.heartbeat(ti.ti_id, HERE)

    run(ask(), seed=1)
    assert rows.airflow.ledger[-1].detail == {"state": "failed", "by": "fail_terminally"}


# -- people ----------------------------------------------------------------------------------------------


def test_clearing_a_running_try_makes_it_restart_under_another_id(rows: Rows) -> None:
    """TI:388, 1053; fact 7. What the store would read follows each change."""
    ti = rows.a_ti(S.RUNNING)
    before = ti.ti_id
    assert rows.mirror.rows == {before: (ti.key, "running")}
    rows.airflow.clear(ti)
    assert (ti.state, ti.try_number) == (S.RESTARTING, 1)
    assert rows.airflow.ledger[-1].ti_id == before != ti.ti_id
    assert rows.mirror.rows == {ti.ti_id: (ti.key, "restarting")}


@pytest.mark.parametrize("state", [S.SCHEDULED, S.QUEUED, S.RESTARTING, S.UP_FOR_RETRY, S.SUCCESS, S.FAILED])
def test_clearing_any_other_state_schedules_the_next_try_at_once(rows: Rows, state: TaskState) -> None:
    """TI:400-431: else-branch, max_tries = try_number + retries."""
    ti = rows.a_ti(state, retries=2)
    before = ti.ti_id
    rows.airflow.clear(ti)
    assert (ti.state, ti.max_tries) == (None, 3)
    assert ti.ti_id != before
    rows.scheduling.schedule(rows.clock.epoch_s())
    assert (ti.state, ti.try_number) == (S.SCHEDULED, 2)
    assert rows.mirror.rows == {ti.ti_id: (ti.key, "scheduled")}


def test_a_timed_out_run_skips_what_is_unfinished(rows: Rows) -> None:
    """SJR:2853-2873."""
    tis = [rows.a_ti(state) for state in (None, S.QUEUED, S.RUNNING, S.RESTARTING, S.SUCCESS)]
    rows.airflow.time_out_run("d", "r")
    assert [ti.state for ti in tis] == [S.SKIPPED] * 4 + [S.SUCCESS]
    assert rows.events().count("timed_out") == 4
    assert rows.airflow.open_tries() == ()


def test_marking_keeps_the_id(rows: Rows) -> None:
    ti = rows.a_ti(S.RUNNING)
    before = ti.ti_id
    rows.airflow.mark(ti, S.FAILED)
    assert (ti.ti_id, ti.state) == (before, S.FAILED)
    assert rows.airflow.ledger[-1].detail == {"was": "running"}

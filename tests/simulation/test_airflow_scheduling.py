"""What Airflow's schedulers do to tries in the model, each rule with its source in Airflow 3.3.2.

SJR = jobs/scheduler_job_runner.py, TI = models/taskinstance.py; facts are those of airflow_facts.md.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from emr_executor.core.model import TaskKey
from tests.simulation.airflow_world import HERE, Rows
from tests.simulator.airflow_entities import TaskState
from tests.simulator.airflow_scheduling import ExecutorEvent

S = TaskState


@pytest.fixture
def rows() -> Rows:
    return Rows()


def test_the_next_try_comes_after_its_delay_with_the_id_that_it_was_given(rows: Rows) -> None:
    """models/dagrun.py:2129: UP_FOR_RETRY -> SCHEDULED counts the try, the id stays."""
    ti = rows.a_ti(S.UP_FOR_RETRY, retries=1, retry_delay_s=60.0)
    ti_id = ti.ti_id
    rows.clock.passed_s = 59.0
    rows.scheduling.schedule(rows.clock.epoch_s())
    assert ti.state is S.UP_FOR_RETRY
    rows.clock.passed_s = 61.0
    rows.scheduling.schedule(rows.clock.epoch_s())
    assert (ti.state, ti.try_number, ti.ti_id) == (S.SCHEDULED, 2, ti_id)
    assert rows.events()[-1] == "retried"


def test_queueing_goes_by_priority_and_stops_at_the_slots_of_airflows_pool(rows: Rows) -> None:
    """SJR:663 by priority_weight; models/pool.py:289 counts QUEUED and RUNNING."""
    low, high = rows.a_ti(S.SCHEDULED), rows.a_ti(S.SCHEDULED, priority_weight=9)
    assert rows.scheduling.to_queue(10, None) == [high, low]
    rows.a_ti(S.RUNNING)
    assert rows.scheduling.to_queue(10, 2) == [high]
    assert rows.scheduling.to_queue(10, 1) == []


_SUCCESS = ExecutorEvent(S.SUCCESS)


@pytest.mark.parametrize("state", [S.SCHEDULED, S.QUEUED, S.RUNNING])
def test_an_event_for_a_living_try_is_killed_externally(rows: Rows, state: TaskState) -> None:
    """SJR:1465-1511, fact 6; without retries it fails."""
    ti = rows.a_ti(state)
    ti.queued_by_job_id = rows.job_id
    rows.scheduling.process_events(rows.job_id, {ti.key: _SUCCESS}, lambda _: False, rows.clock.epoch_s())
    assert ti.state is S.FAILED
    assert rows.events()[-1] == "killed_externally"


def test_a_try_killed_externally_while_queued_passes_its_id_to_the_next(rows: Rows) -> None:
    """TI:1915: only RUNNING is archived."""
    queued, running = rows.a_ti(S.QUEUED, retries=1), rows.a_ti(S.RUNNING, retries=1)
    ids = queued.ti_id, running.ti_id
    events = {ti.key: _SUCCESS for ti in (queued, running)}
    rows.scheduling.process_events(rows.job_id, events, lambda _: False, rows.clock.epoch_s())
    assert (queued.state, running.state) == (S.UP_FOR_RETRY, S.UP_FOR_RETRY)
    assert queued.ti_id == ids[0]
    assert running.ti_id != ids[1]
    rows.scheduling.schedule(rows.clock.epoch_s() + 60.0)
    assert (queued.ti_id, queued.try_number) == (ids[0], 2)


def test_an_event_does_nothing_to_what_is_over_known_of_another_try_or_another_scheduler(rows: Rows) -> None:
    """SJR:1465-1492, facts 7 and 9."""
    over, known, later, others = (
        rows.a_ti(S.SUCCESS),
        rows.a_ti(S.RUNNING),
        rows.a_ti(S.RUNNING),
        rows.a_ti(S.RUNNING),
    )
    others.queued_by_job_id = 99
    later.key = replace(later.key, try_number=2)
    keys: list[TaskKey] = [over.key, known.key, replace(later.key, try_number=1), others.key]
    rows.scheduling.process_events(
        rows.job_id, dict.fromkeys(keys, _SUCCESS), lambda ti: ti is known, rows.clock.epoch_s()
    )
    assert [ti.state for ti in (over, known, later, others)] == [S.SUCCESS, S.RUNNING, S.RUNNING, S.RUNNING]


def test_only_success_frees_a_restarting_try(rows: Rows) -> None:
    """SJR:1570-1578, fact 7; FAILED makes it UP_FOR_RETRY, always (TI:1977)."""
    freed, failed = rows.a_ti(S.RESTARTING, retries=2), rows.a_ti(S.RESTARTING)
    events = {freed.key: _SUCCESS, failed.key: ExecutorEvent(S.FAILED, "purged")}
    ids = freed.ti_id, failed.ti_id
    rows.scheduling.process_events(rows.job_id, events, lambda _: False, rows.clock.epoch_s())
    assert (freed.state, freed.max_tries) == (None, 3)
    assert failed.state is S.UP_FOR_RETRY
    assert (freed.ti_id, failed.ti_id) == ids
    assert rows.events()[-2:] == ["freed", "purged"]


def test_silence_is_seen_by_the_tries_own_scheduler_after_300_s(rows: Rows) -> None:
    """SJR:3540-3562: RUNNING and RESTARTING, by the last heartbeat."""
    silent, beating, restarting, others = (
        rows.a_ti(S.RUNNING),
        rows.a_ti(S.RUNNING),
        rows.a_ti(S.RESTARTING),
        rows.a_ti(S.RUNNING),
    )
    others.queued_by_job_id = 99
    for passed_s in (100.0, 200.0, 300.0):
        rows.clock.passed_s = passed_s
        rows.airflow.heartbeat(beating.ti_id, rows.token(beating), HERE)
        assert rows.scheduling.silent(rows.job_id, rows.clock.epoch_s()) == []
    assert rows.scheduling.silent(rows.job_id, rows.clock.epoch_s() + 1.0) == [silent, restarting]
    assert rows.scheduling.silent(99, rows.clock.epoch_s() + 1.0) == [others]


def test_a_try_stuck_in_queued_goes_round_twice_with_its_id_and_then_fails(rows: Rows) -> None:
    """SJR:3015-3110, 3131."""
    ti = rows.a_ti(S.QUEUED, retries=3)
    before = ti.ti_id, ti.key
    for _ in range(2):
        now_s = (ti.queued_at or 0.0) + 601.0
        assert rows.scheduling.stuck(rows.job_id, now_s) == [ti]
        assert rows.scheduling.requeue_stuck(ti)
        assert (ti.state, ti.queued_by_job_id) == (S.SCHEDULED, None)
        rows.scheduling.queue(ti, rows.job_id, now_s)
    assert (ti.ti_id, ti.key) == before
    assert not rows.scheduling.requeue_stuck(ti)
    assert ti.state is S.FAILED


def test_orphans_are_those_of_schedulers_that_are_silent_for_30_s(rows: Rows) -> None:
    """SJR:3296-3312; a job that beats again is alive (jobs/job.py, heartbeat)."""
    tis = [rows.a_ti(state) for state in (S.QUEUED, S.RUNNING, S.RESTARTING, S.SCHEDULED, S.SUCCESS)]
    now_s = rows.clock.epoch_s() + 31.0
    assert rows.scheduling.orphans() == []
    rows.scheduling.fail_silent_jobs(now_s)
    assert rows.scheduling.orphans() == tis[:3]
    rows.scheduling.beat_job(rows.job_id, now_s)
    assert rows.scheduling.orphans() == []
    assert rows.events()[-1] == "scheduler_died"


def test_a_reset_try_is_archived_and_burns_its_number(rows: Rows) -> None:
    """SJR:3348-3360, fact 11."""
    ti = rows.a_ti(S.QUEUED)
    before = ti.ti_id
    rows.scheduling.reset(ti)
    assert (ti.state, ti.queued_by_job_id) == (None, None)
    assert ti.ti_id != before
    rows.scheduling.schedule(rows.clock.epoch_s())
    assert ti.try_number == 2

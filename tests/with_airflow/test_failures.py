"""A job that fails by itself: Airflow's retries decide, and its own error is in the task log."""

from __future__ import annotations

import re

from tests.with_airflow.conftest import Bench


def test_a_failed_job_is_retried_and_then_fails(bench: Bench) -> None:
    run = bench.finished("failing")
    assert [(task.state, task.try_number) for task in run.tasks] == [("failed", 2)]
    tries = bench.rows(
        "select try_number, airflow_state, submissions, losses from emr_workload"
        " where dag_id = 'failing' order by try_number"
    )
    assert [(t["try_number"], t["airflow_state"]) for t in tries] == [(1, "up_for_retry"), (2, "failed")]
    assert {(t["submissions"], t["losses"]) for t in tries} == {(1, 0)}


def test_the_callbacks_of_failure_and_retry_run_once(bench: Bench) -> None:
    bench.finished("failing")
    counts = bench.events("failing")
    wanted = {
        "1 pre_execute": 1,
        "1 on_execute": 1,
        "1 on_retry": 1,
        "1 on_failure": 0,
        "2 pre_execute": 1,
        "2 on_execute": 1,
        "2 on_retry": 0,
        "2 on_failure": 1,
        "2 on_success": 0,
    }
    assert {event: counts[f"fails -1 {event}"] for event in wanted} == wanted


def test_the_log_ends_with_the_jobs_own_error(bench: Bench) -> None:
    bench.finished("failing")
    for number in (1, 2):
        log = bench.log("failing", "fails", try_number=number)
        assert "ValueError: column salary does not exist" in log
        told = re.search(
            r"step s-\w+ on j-\w+ failed after \d+ s: ValueError: column salary does not exist", log
        )
        assert told is not None
        assert told.start() > log.index("driver says about-to-fail")

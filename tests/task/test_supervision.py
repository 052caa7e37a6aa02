"""What a phase's supervisor tells Airflow and the store when things do not go straight, or are away."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emr_executor.core.model import StepOutcome
from emr_executor.core.states import Verdict, WorkloadState
from tests.task.conftest import IDENTITY, Bench
from tests.task.fake_api import AWAY
from tests.task.test_happy_path import DONE, STEP

pytestmark = pytest.mark.processes

LOST = StepOutcome(verdict=Verdict.LOST, cause="lost 3 times")


def wait_for(happened: Any, deadline_s: float = 20) -> None:
    end = time.monotonic() + deadline_s
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def running(bench: Bench) -> None:
    bench.api.state = "running"
    bench.api.identity = (IDENTITY.hostname, IDENTITY.unixname, IDENTITY.pid)


def test_a_phase_held_open_beats_with_the_stored_identity_and_renews_its_claim(bench: Bench) -> None:
    ended = bench.prepare("own_execute", "slow")
    beats = bench.api.asked("PUT", "/heartbeat")
    assert len(beats) >= 2
    assert {(beat.body["hostname"], beat.body["pid"]) for beat in beats} == {
        (IDENTITY.hostname, IDENTITY.pid)
    }
    assert sum(event["event"] == "renew" for event in ended.events) >= 2
    assert [event["event"] for event in ended.results] == ["parked"]


def test_a_try_that_airflow_took_back_is_ended_and_recorded_as_gone(bench: Bench) -> None:
    bench.begin(bench.workload("own_execute", "slow", WorkloadState.PREPARING))
    wait_for(lambda: "slow" in bench.marks)
    bench.api.state = "success"  # Marked by a person.
    ended = bench.end()
    assert [event["event"] for event in ended.results] == ["gone"]
    assert bench.api.states() == []


def test_a_lost_claim_ends_the_phase_without_a_trace(bench: Bench) -> None:
    bench.begin(bench.workload("own_execute", "slow", WorkloadState.PREPARING))
    wait_for(lambda: "slow" in bench.marks)
    lost = Path(bench.home / "results" / f"{bench.workload_id}.lost")
    lost.touch()
    ended = bench.end()
    assert (ended.results, ended.reply.exit_code) == ([], 75)
    assert bench.api.states() == []


def test_a_step_that_cannot_be_stored_does_not_fail_the_try(bench: Bench) -> None:
    Path(bench.home / "results" / f"{bench.workload_id}.full").touch()
    ended = bench.prepare("plain", "simple")
    assert [event["event"] for event in ended.results] == ["retry"]
    assert bench.api.states() == []
    assert bench.marks == ["execute"]
    assert "out of memory" not in ended.log


@pytest.mark.parametrize("status", [404, 409, 410])
def test_a_try_that_may_not_start_is_gone(bench: Bench, status: int) -> None:
    bench.api.answers["PATCH", "/run"] = (
        status,
        {"detail": {"reason": "invalid_state", "previous_state": "x"}},
    )
    ended = bench.prepare("plain", "simple")
    assert [event["event"] for event in ended.results] == ["gone"]
    assert "invalid_state" in ended.results[0]["reason"]


@pytest.mark.parametrize("status", [403, 500, AWAY])
def test_an_api_server_that_does_not_serve_postpones_the_phase(bench: Bench, status: int) -> None:
    bench.api.answers["PATCH", "/run"] = (status, {"detail": "no"})
    ended = bench.run(bench.workload("plain", "simple", WorkloadState.PREPARING, phase_attempts=2))
    assert [(event["event"], event.get("delay_s")) for event in ended.results] == [("retry", 10.0)]
    assert bench.marks == []


@pytest.mark.parametrize("task_id", ["dies", "silent"])
@pytest.mark.parametrize(("max_tries", "state"), [(0, "failed"), (1, "up_for_retry")])
def test_a_prepare_child_that_ends_without_a_word_fails_its_try(
    bench: Bench, task_id: str, max_tries: int, state: str
) -> None:
    bench.api.max_tries = max_tries
    ended = bench.prepare("own_execute", task_id)
    assert bench.api.states() == [state]
    assert ended.results == [{"event": "over", "token": "claim", "state": state}]
    assert ended.reply.exit_code == (-9 if task_id == "dies" else 0)


@pytest.mark.parametrize("task_id", ["dies_after", "silent"])
def test_a_finish_child_that_ends_early_is_run_again_and_the_try_goes_on(bench: Bench, task_id: str) -> None:
    running(bench)
    ended = bench.finish("own_execute", task_id, STEP, DONE)
    assert [event["event"] for event in ended.results] == ["retry"]
    assert bench.api.states() == []


@pytest.mark.parametrize(
    ("task_id", "dag_file"), [("simple", "notes.py"), ("simple", "gone.py"), ("absent", "plain.py")]
)
def test_a_dag_missing_at_finish_holds_the_outcome(bench: Bench, task_id: str, dag_file: str) -> None:
    """Airflow's own answer is a reschedule, which would run a finished step again."""
    running(bench)
    ended = bench.finish("plain", task_id, STEP, DONE, dag_file=dag_file)
    (result,) = ended.results
    assert (result["event"], result["spent"]) == ("retry", True)
    assert "held" in result["note"]
    assert bench.api.states() == []


def test_a_dag_missing_at_prepare_is_rescheduled_as_airflow_does(bench: Bench) -> None:
    ended = bench.prepare("plain", "simple", dag_file="notes.py")
    assert bench.api.states() == ["up_for_reschedule"]
    assert ended.results == [{"event": "over", "token": "claim", "state": "up_for_reschedule"}]


def test_an_end_that_airflow_no_longer_wants_is_gone(bench: Bench) -> None:
    running(bench)
    bench.api.answers["PATCH", "/state"] = (409, {"detail": {"reason": "invalid_state"}})
    ended = bench.finish("plain", "simple", STEP, DONE)
    assert [event["event"] for event in ended.results] == ["gone"]


@pytest.mark.parametrize(
    ("outcome", "max_tries", "state"), [(DONE, 0, "success"), (LOST, 0, "failed"), (LOST, 1, "up_for_retry")]
)
def test_what_airflow_is_told_is_written_down_before(
    bench: Bench, outcome: StepOutcome, max_tries: int, state: str
) -> None:
    running(bench)
    bench.api.max_tries = max_tries
    ended = bench.finish("plain", "simple", STEP, outcome)
    assert [(event["event"], event.get("state")) for event in ended.events if event["event"] != "renew"] == [
        ("intend", state),
        ("over", state),
    ]
    assert bench.api.states() == [state]


def test_a_phase_that_lost_its_claim_before_its_report_reports_nothing(bench: Bench) -> None:
    """Its successor has reported by then, or will: between the two nothing may be told twice."""
    running(bench)
    Path(bench.home / "results" / f"{bench.workload_id}.taken").touch()
    ended = bench.finish("plain", "simple", STEP, DONE)
    assert (ended.results, ended.reply.exit_code) == ([], 75)
    assert bench.api.states() == []


def test_an_api_server_that_is_away_during_prepare_costs_no_try(bench: Bench) -> None:
    """Airflow's supervisor ends user code after three heartbeats that failed, and would report a failure."""
    bench.api.answers["PUT", "/heartbeat"] = (AWAY, None)
    bench.api.max_tries = 1
    ended = bench.prepare("own_execute", "endless")
    (result,) = ended.results
    assert (result["event"], result["delay_s"]) == ("retry", 5.0)
    assert "no heartbeat got through" in result["note"]
    assert bench.api.states() == []
    assert bench.marks[-1] == "endless"
    assert "ended and run again soon" in ended.log
    assert "out of memory" not in ended.log


def patient(bench: Bench) -> Bench:
    """The same bench with Airflow's own patience."""
    settings = bench.settings.model_copy(update={"task_heartbeat_timeout_s": 60.0})
    return replace(bench, settings=settings)


def test_user_code_goes_on_while_heartbeats_fail(bench: Bench) -> None:
    bench = patient(bench)
    bench.api.answers["PUT", "/heartbeat"] = (AWAY, None)
    ended = bench.prepare("own_execute", "slow")
    assert len(bench.api.asked("PUT", "/heartbeat")) >= 2
    assert [event["event"] for event in ended.results] == ["parked"]
    assert bench.marks[-1] == "slow"


@pytest.mark.parametrize("status", [AWAY, 500, 503])
def test_an_end_waits_for_the_server_and_is_told_once(bench: Bench, status: int) -> None:
    bench = patient(bench)
    running(bench)
    bench.api.answers["PATCH", "/state"] = (status, None)
    bench.begin(bench.workload("plain", "simple", WorkloadState.FINISHING, step=STEP, outcome=DONE))
    wait_for(lambda: len(bench.api.asked("PATCH", "/state")) >= 4)
    bench.api.requests.clear()
    del bench.api.answers["PATCH", "/state"]
    ended = bench.end()
    assert [(event["event"], event.get("state")) for event in ended.results] == [("over", "success")]
    assert bench.api.states() == ["success"]


@pytest.mark.parametrize("status", [AWAY, 500, 401, 403])
@pytest.mark.parametrize("call", [("PATCH", "/run"), ("PATCH", "/state")])
def test_a_server_that_stays_away_or_takes_no_token_spends_no_attempt(
    bench: Bench, status: int, call: tuple[str, str]
) -> None:
    running(bench)
    bench.api.answers[call] = (status, None)
    (result,) = bench.finish("plain", "simple", STEP, DONE).results
    assert (result["event"], result["spent"]) == ("retry", False)


def test_a_task_log_on_a_full_disk_holds_nothing_up(bench: Bench) -> None:
    log = bench.home / "logs" / f"{bench.workload_id}.log"
    log.parent.mkdir(exist_ok=True)
    log.symlink_to("/dev/full")
    try:
        bench.begin(bench.workload("plain", "simple", WorkloadState.PREPARING))
        results = bench.home / "results" / bench.workload_id
        wait_for(lambda: results.exists() and '"parked"' in results.read_text())
    finally:
        log.unlink()  # before anybody reads it: it has no end
    parked = bench.end()
    assert [event["event"] for event in parked.results] == ["parked"]
    running(bench)
    ended = bench.finish("plain", "simple", parked.step, DONE)
    assert [event["event"] for event in ended.results] == ["over"]
    assert ended.log

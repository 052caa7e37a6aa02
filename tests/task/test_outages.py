"""A phase while something is away: user code goes on, nothing is told wrongly, no attempt is spent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from emr_executor.core.states import WorkloadState
from tests.task.conftest import Bench
from tests.task.fake_api import AWAY
from tests.task.test_happy_path import DONE, STEP
from tests.task.test_supervision import running, wait_for

pytestmark = pytest.mark.processes


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


def test_a_dag_that_is_gone_spends_an_attempt(bench: Bench) -> None:
    running(bench)
    (result,) = bench.finish("plain", "simple", STEP, DONE, dag_file="gone.py").results
    assert (result["event"], result["spent"]) == ("retry", True)


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

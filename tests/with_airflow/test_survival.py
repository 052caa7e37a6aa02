"""Parked tasks survive what dies around them: the step goes on, and is never submitted again."""

from __future__ import annotations

import shutil
from typing import Any

from tests.with_airflow.conftest import Bench


def test_killed_scheduler_and_agent_leave_the_step_alone(bench: Bench) -> None:
    for dag_id in ("phases", "failing", "secrets_near"):
        bench.finished(dag_id)
    bench.run_until_running("gated_crash")
    agent = bench.agent()
    assert agent is not None
    agent.kill()
    bench.kill_scheduler()
    bench.stack.restart("scheduler")
    bench.wait(lambda: bench.agent() is not None, "a new agent")
    bench.open_gate("crash")
    run = bench.finished("gated_crash")
    assert [(task.state, task.try_number) for task in run.tasks] == [("success", 1)]
    assert len(bench.steps_run("gated_crash")) == 1
    assert bench.events("gated_crash") == {
        f"waits -1 1 {event}": 1 for event in ("pre_execute", "on_execute", "on_success")
    }
    assert "driver is done" in bench.log("gated_crash", "waits")
    bench.check_ledger()


def test_killed_agent_alone_is_started_again(bench: Bench) -> None:
    bench.open_gate("crash")
    bench.finished("gated_crash")
    first = bench.agent()
    assert first is not None
    bench.wait(lambda: f"/{first.pid}/" in (lease(bench)["holder"] or ""), "the agent to steer")
    token = lease(bench)["token"]
    first.kill()
    bench.wait(lambda: (now := bench.agent()) is not None and now.pid != first.pid, "a new agent")
    bench.wait(lambda: (held := lease(bench)["holder"]) and f"/{first.pid}/" not in held, "its successor")
    assert lease(bench)["token"] == token + 2, "its parent gave it back: nobody waited for its silence"


def lease(bench: Bench) -> dict[str, Any]:
    (row,) = bench.rows("select holder, token from emr_lease where name = 'steering'")
    return row


def test_a_dag_file_that_vanishes_while_parked_does_not_run_the_step_twice(bench: Bench) -> None:
    bench.run_until_running("gated_vanish")
    away = bench.folder / "gated.py.away"
    shutil.move(bench.dags / "gated.py", away)
    bench.open_gate("vanish")
    bench.wait(
        lambda: bench.rows(
            "select 1 from emr_workload where dag_id = 'gated_vanish' and phase_attempts > 0"
            " and state in ('FINISHABLE', 'FINISHING')"
        ),
        "a finish that cannot be done",
    )
    assert len(bench.steps_run("gated_vanish")) == 1
    shutil.move(away, bench.dags / "gated.py")
    run = bench.finished("gated_vanish")
    assert [(task.state, task.try_number) for task in run.tasks] == [("success", 1)]
    assert len(bench.steps_run("gated_vanish")) == 1
    assert bench.events("gated_vanish")["waits -1 1 on_success"] == 1

"""What a step lives through: PostgreSQL, the API server, EMR with S3 away for a while, an agent that hangs, a
full disk. Each heals by itself, and `airflow emr status` says what is the matter while it lasts.

Airflow's own processes that end without a database are started again, as systemd or Kubernetes would.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial

import psutil
import pytest

from emr_executor.cli.read_only import read
from emr_executor.cli.status import read_status
from emr_executor.core.health import Dependency
from tests.airflow_stack.components import StackError, marked_processes
from tests.postgres import PostgresServer
from tests.with_airflow.conftest import Bench, running_bench

HEARTBEAT_TIMEOUT_S = 120
"""Well above the start of an API server on a busy machine."""
LONG_S = 180.0
"""Longer than Airflow waits for a heartbeat; and the claims and leases of everybody have run out."""
FULL = (0, resource.RLIM_INFINITY)
ROOM = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[Bench]:
    with running_bench(
        tmp_path_factory.mktemp("outages"),
        max_clusters=2,
        database_url=postgres.database("outages"),
        scheduler={"task_instance_heartbeat_timeout": str(HEARTBEAT_TIMEOUT_S)},
        emr_executor={"agent_hang_timeout": "5"},
    ) as made:
        # Beside the scheduler's child one that is a service: it lives through what ends a scheduler.
        made.stack.start_another("agent", "emr", "agent")
        made.wait(lambda: len(made.agents()) == 2, "two agents")
        yield made


def child_of_the_scheduler(room: Bench) -> psutil.Process | None:
    scheduler = room.stack.pid("scheduler")
    return next((agent for agent in room.agents() if agent.ppid() == scheduler), None)


def wrong(room: Bench) -> Sequence[str]:
    """What `airflow emr status` calls wrong now."""
    work = partial(read_status, settings=None, config_problems=(), now=datetime.now(tz=UTC))
    return read(work, engine=room.engine).wrong


def says(room: Bench, dependency: Dependency) -> bool:
    return any(sentence.startswith(str(dependency)) for sentence in wrong(room))


def ends_green(room: Bench, dag_id: str) -> None:
    """On its first try, with one step, by what EMR itself noted."""
    run = room.finished(dag_id)
    assert [(task.state, task.try_number) for task in run.tasks] == [("success", 1)]
    assert len(room.steps_run(dag_id)) == 1
    assert room.events(dag_id)["waits -1 1 on_success"] == (dag_id != "outage_disk_new")
    room.check_ledger()


@pytest.mark.parametrize(
    ("what", "away_s"),
    [("database", 0.0), pytest.param("database_long", LONG_S, marks=pytest.mark.matrix)],
)
def test_postgresql_goes_away_while_a_step_runs(
    room: Bench, postgres: PostgresServer, what: str, away_s: float
) -> None:
    room.run_until_running(f"outage_{what}")
    service = room.stack.pid("agent")
    gone_at = time.monotonic()
    postgres.halt()
    with pytest.raises(StackError, match=r"metadata database did not do its work.*nothing can be said of"):
        room.stack.airflow("emr", "status")
    room.wait(lambda: {"scheduler", "dag-processor"} <= set(room.stack.ended()), "Airflow's own end")
    room.open_gate(what)
    room.wait(lambda: time.monotonic() - gone_at > away_s, "the outage to last", timeout_s=away_s + 10)
    postgres.resume()
    assert "agent" not in room.stack.ended()
    room.stack.restart_ended()
    room.stack.wait_healthy()
    ends_green(room, f"outage_{what}")
    assert room.stack.pid("agent") == service
    room.wait(lambda: wrong(room) == (), "a status without complaint", timeout_s=30)


def test_the_api_server_is_away_while_a_step_runs_and_ends(room: Bench) -> None:
    room.run_until_running("outage_api")
    room.stack.kill("api-server")
    room.wait(lambda: says(room, Dependency.API), "status to name the API server", timeout_s=25)
    assert any("parked tasks are safe for another" in sentence for sentence in wrong(room))
    room.open_gate("api")
    room.wait(
        lambda: room.rows("select 1 from emr_workload where dag_id = 'outage_api' and state = 'FINISHING'"),
        "a finish that Airflow cannot hear of",
    )
    room.stack.restart("api-server")
    ends_green(room, "outage_api")
    room.wait(lambda: wrong(room) == (), "a status without complaint", timeout_s=30)


def test_emr_and_s3_are_away_while_a_step_ends_and_another_begins(room: Bench) -> None:
    room.run_until_running("outage_aws")
    room.control.go_away()
    room.start("outage_aws_new")
    room.wait(
        lambda: says(room, Dependency.EMR) and says(room, Dependency.S3), "status to name both", timeout_s=40
    )
    room.open_gate("aws")
    room.open_gate("aws_new")
    log = room.stack.log_path("scheduler")
    room.wait(lambda: "the EMR agent cannot use Amazon S3" in log.read_text(), "the scheduler's word of it")
    room.control.come_back()
    ends_green(room, "outage_aws")
    ends_green(room, "outage_aws_new")
    room.wait(lambda: wrong(room) == (), "a status without complaint", timeout_s=30)


def test_an_agent_that_stands_still_is_replaced(room: Bench) -> None:
    room.run_until_running("outage_hang")
    room.wait(lambda: child_of_the_scheduler(room), "the scheduler's own agent")
    first = child_of_the_scheduler(room)
    assert first is not None
    first.suspend()
    room.wait(
        lambda: (now := child_of_the_scheduler(room)) is not None and now.pid != first.pid,
        "another agent",
        timeout_s=40,
    )
    room.open_gate("hang")
    ends_green(room, "outage_hang")
    assert "gave no sign of life" in room.stack.log_path("scheduler").read_text()


@contextmanager
def full_disk(room: Bench) -> Iterator[None]:
    """No process of the executor can write to a file any more: each write fails as on a full disk."""
    ours = [p for p in marked_processes(room.stack.mark) if "airflow emr" in " ".join(p.cmdline())]
    assert len(ours) >= 2
    for process in ours:
        process.rlimit(psutil.RLIMIT_FSIZE, FULL)
    try:
        yield
    finally:
        for process in marked_processes(room.stack.mark):
            with suppress(psutil.NoSuchProcess):
                process.rlimit(psutil.RLIMIT_FSIZE, ROOM)


def test_a_full_disk_ends_nothing_and_loses_no_line_of_the_agents(room: Bench) -> None:
    room.run_until_running("outage_disk")
    before = {agent.pid for agent in room.agents()}
    with full_disk(room):
        room.run_until_running("outage_disk_new")
        room.wait(lambda: says(room, Dependency.TASK_LOGS), "status to name the folder", timeout_s=25)
        assert {agent.pid for agent in room.agents()} == before
    room.open_gate("disk")
    room.open_gate("disk_new")
    for dag_id in ("outage_disk", "outage_disk_new"):
        ends_green(room, dag_id)
    assert "running as step" in room.log("outage_disk_new", "waits")
    room.wait(lambda: wrong(room) == (), "a status without complaint", timeout_s=30)

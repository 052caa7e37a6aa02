"""Two schedulers with an agent each on one PostgreSQL: one steers, and the other takes over."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from tests.with_airflow.conftest import Bench, running_bench

TAKEOVER_S = 60.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running_bench(tmp_path_factory.mktemp("pair"), max_clusters=2) as made:
        made.stack.start_another("scheduler-2", "scheduler")
        made.wait(lambda: len(made.agents()) == 2, "two agents")
        yield made


def holder(pair: Bench) -> str:
    (lease,) = pair.rows("select holder from emr_lease where name = 'steering'")
    return str(lease["holder"])


def test_one_agent_holds_the_lease(pair: Bench) -> None:
    pair.wait(lambda: pair.rows("select 1 from emr_lease where holder is not null"), "a holder")
    assert int(holder(pair).split("/")[1]) in {agent.pid for agent in pair.agents()}


def test_the_other_takes_over_and_the_step_goes_on(pair: Bench) -> None:
    pair.run_until_running("handover")
    old = holder(pair)
    agent = psutil.Process(int(old.split("/")[1]))
    scheduler = agent.parent()
    assert scheduler is not None
    killed_at = time.monotonic()
    agent.kill()
    name = next(n for n in ("scheduler", "scheduler-2") if pair.stack.pid(n) == scheduler.pid)
    pair.kill_scheduler(name)
    pair.wait(lambda: holder(pair) != old, "another agent to steer", timeout_s=TAKEOVER_S)
    assert time.monotonic() - killed_at < TAKEOVER_S
    pair.open_gate("handover")
    run = pair.finished("handover")
    assert [(task.state, task.try_number) for task in run.tasks] == [("success", 1)]
    assert len(pair.steps_run("handover")) == 1
    assert pair.events("handover")["waits -1 1 on_success"] == 1
    pair.check_ledger()

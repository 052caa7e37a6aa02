"""Two schedulers with an agent each, and an agent as a service: one of each dies in the middle, repeatedly.

Whoever is left goes on: no retry, no second step, no stray cluster, never more clusters than allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from tests.with_airflow import lives
from tests.with_airflow.arena import Arena, running_arena

TASKS = 4


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with running_arena(
        tmp_path_factory.mktemp("both"),
        emr_executor={"agent": "child"},
        also={"scheduler-2": ("scheduler", "--skip-serve-logs"), "agent": ("emr", "agent")},
        max_clusters=2,
    ) as made:
        made.wait(lambda: len(made.bench.agents()) == 3, "three agents")
        yield made


def steering(both: Arena) -> int | None:
    """The process id of the agent that steers."""
    held = both.bench.rows("select holder from emr_lease where name = 'steering' and holder is not null")
    return int(held[0]["holder"].split("/")[1]) if held else None


def kill_one_of_each(both: Arena, scheduler: str) -> None:
    agent = steering(both)
    assert agent is not None
    # It may have been the child of a scheduler that a round before this one killed.
    with suppress(psutil.NoSuchProcess):
        psutil.Process(agent).kill()
    both.bench.kill_scheduler(scheduler)


@pytest.mark.parametrize(
    ("state", "scheduler"),
    [("PREPARING", "scheduler"), ("SUBMITTED", "scheduler-2"), ("FINISHING", "scheduler")],
)
def test_whoever_is_left_goes_on(both: Arena, state: str, scheduler: str) -> None:
    both.wait(lambda: steering(both) is not None, "an agent that steers")
    hold, gate, hold_end = lives.new_gate(), lives.new_gate(), lives.new_gate()
    runs = [
        both.trigger(hold=hold, gate=str(both.bench.gates / gate), hold_end=hold_end) for _ in range(TASKS)
    ]
    for reached, opened in (("PREPARING", hold), ("SUBMITTED", gate), ("FINISHING", hold_end)):
        both.wait(
            lambda reached=reached: any(both.workload(run_id).get("state") == reached for run_id in runs),
            f"a task to be {reached}",
        )
        if reached == state:
            kill_one_of_each(both, scheduler)
        both.bench.open_gate(opened)
    for run_id in runs:
        lives.over(both, run_id)

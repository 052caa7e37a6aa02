"""A step that EMR refuses for good is found, told and failed; the others of its call run."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emr_executor.agent.placement_backoff import MOST_REFUSALS, Pair, Refusals
from emr_executor.core.model import StepPlan
from emr_executor.core.states import Verdict, WorkloadState
from emr_executor.errors import LaunchRefused
from tests.agent.fakes import World, ready
from tests.builders import make_submission, make_workload

WHY = "ValidationException: The step is not what it should be"


async def test_a_step_that_emr_refuses_fails_with_emrs_words_and_its_batch_runs(world: World) -> None:
    await world.begin(ready("good"), ready("bad"))
    world.emr.refuse_steps = {"bad": WHY}
    await world.tick(times=2)
    assert world.emr.submissions() == ["good-1"], "found in the act that met it"
    await world.tick(times=10)
    bad = world.workload("bad")
    assert bad.state is WorkloadState.FINISHABLE
    assert bad.outcome is not None
    assert (bad.outcome.verdict, bad.outcome.cause) == (
        Verdict.FAILED,
        f"EMR refused the step 3 times: {WHY}",
    )
    assert bad.losses == 0
    assert len(world.submissions("bad")) == MOST_REFUSALS
    assert world.emr.calls.count("add_steps") == 2 + MOST_REFUSALS
    log = world.log("bad.log")
    assert f"EMR refused the step (1 of 3 times, then the task fails): {WHY}; it is asked again at " in log
    assert f"EMR refused the step 3 times: {WHY}" in log
    assert "refused" not in world.log("good.log")
    assert "step_failed" in world.events()


async def test_a_step_that_was_alone_is_refused_as_often(world: World) -> None:
    await refused(world)
    await world.tick(times=18)
    assert world.workload("bad").state is WorkloadState.FINISHABLE
    assert world.emr.calls.count("add_steps") == MOST_REFUSALS


async def test_a_step_that_emr_takes_in_the_end_was_not_refused_for_good(world: World) -> None:
    await refused(world)
    world.emr.refuse_steps = {}
    await world.tick(times=3)
    assert world.emr.submissions() == ["bad-2"]


async def test_a_refused_step_that_nobody_wants_any_more_is_cancelled(world: World) -> None:
    await refused(world)
    await world.store.ask_cancel([ready("bad").workload_id], "cleared")
    await world.tick(times=5)
    assert world.workload("bad").state is WorkloadState.CANCELLED


async def test_a_task_of_which_no_step_can_be_made_fails_at_once_and_its_batch_runs(world: World) -> None:
    await world.begin(ready("good"), replace(ready("bad"), step=StepPlan(command=("true",))))
    await world.tick(times=3)
    bad = world.workload("bad")
    assert bad.state is WorkloadState.FINISHABLE
    assert bad.outcome is not None
    assert bad.outcome.cause == "no step can be made of the task: workload bad has no staged step to submit"
    assert world.emr.submissions() == ["good-1"]


async def test_why_a_launch_is_refused_is_told_once_to_all_who_wait_for_it(world: World) -> None:
    await world.begin(ready("w1"), ready("w2"), ready("w3"))
    world.emr.refuse["run_job_flow"] = LaunchRefused("EMR refused the cluster template: no such subnet.")
    await world.tick(times=60)
    told = (
        "waiting: no cluster of its pool is up yet, and the last launch failed: EMR refused the cluster "
        "template: no such subnet; the next try is at 12:00:22 UTC, then ever more rarely, at least every "
        "10 min"
    )
    assert world.emr.calls.count("run_job_flow") > 2
    for name in ("w1", "w2", "w3"):
        assert world.log(f"{name}.log").count(told) == world.log(f"{name}.log").count("failed") == 1
    del world.emr.refuse["run_job_flow"]
    await world.tick(seconds=300, times=4)
    assert len(world.emr.submissions()) == 3


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("emr_executor.config.Settings.pool_named", "cluster pool 'default' is no longer configured"),
        (
            "emr_executor.agent.emr_actions.launch_request",
            "no launch can be made of the cluster template: KeyError",
        ),
    ],
)
async def test_a_launch_that_cannot_be_made_is_refused_with_its_reason(
    world: World, monkeypatch: pytest.MonkeyPatch, broken: str, why: str
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        if broken.endswith("launch_request"):
            raise KeyError("Instances")

    monkeypatch.setattr(broken, fail)
    await world.begin(ready("w1"))
    await world.tick(times=3)
    assert "run_job_flow" not in world.emr.calls
    assert f"the last launch failed: {why}" in world.log("w1.log")


async def refused(world: World) -> None:
    await world.begin(ready("bad"))
    world.emr.refuse_steps = {"bad": WHY}
    await world.tick(times=2)


def pairs(count: int) -> list[Pair]:
    return [(make_workload(f"w{n}"), make_submission(f"w{n}")) for n in range(count)]


@given(
    st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=4))),
    st.integers(1, 12),
)
def test_whatever_is_refused_the_others_are_taken(of: tuple[int, set[int]], calls_an_act: int) -> None:
    """However few calls the budget lets an act make."""
    count, offenders = of
    bad = {f"w{n}" for n in offenders}
    refusals, calls, actions = Refusals(), 0, 0
    waiting = pairs(count)
    failed = set[str]()
    while waiting:
        actions += 1
        assert actions < 1000
        left, parts = calls_an_act, deque(refusals.parts(waiting))
        while parts and left:
            left, calls = left - 1, calls + 1
            part = parts.popleft()
            ids = [workload.workload_id for workload, _ in part]
            if not bad.intersection(ids):
                refusals.over(ids)
            elif len(part) > 1:
                parts.extendleft(reversed(refusals.together(part)))
                continue
            elif refusals.alone(ids[0]) == MOST_REFUSALS:
                failed.add(ids[0])
            else:
                continue
            waiting = [pair for pair in waiting if pair[0].workload_id not in ids]
    assert failed == bad
    assert calls <= 1 + len(bad) * (2 * math.ceil(math.log2(count) + 1) + MOST_REFUSALS) + actions

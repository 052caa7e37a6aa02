"""Calls that EMR throttled, or whose answer nobody heard, are made again soon, under the same name."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import permutations

import pytest
from sqlalchemy import update

from emr_executor.agent.step_poll import one_of
from emr_executor.core.model import ClusterId, ObservedStep, StepId, StepPlan, Workload
from emr_executor.core.states import ClusterState, ClusterTarget, StepState, SubmissionState, WorkloadState
from emr_executor.errors import OutcomeUnknown, StepsRefused, ThrottledUnknown, TryElsewhere
from emr_executor.store.schema import CLUSTER
from tests.agent.fakes import World, ready
from tests.builders import OLD_WRAPPER

THROTTLED = ThrottledUnknown("AddJobFlowSteps: ThrottlingException: Rate exceeded")


async def throttled(world: World) -> None:
    """EMR throttled the call that adds the step."""
    await world.begin(ready())
    await world.tick()
    world.emr.refuse["add_steps"] = THROTTLED
    await world.tick()


async def sent_twice(world: World) -> None:
    await throttled(world)
    world.emr.refuse = {}
    while world.last("w1").step_id is None:
        await world.tick()


async def taken_unheard(world: World, workload: Workload, *, hidden_for: int) -> list[ObservedStep]:
    """EMR took the step, said that it was throttled, and shows the step only after so many ticks."""
    await world.begin(workload)
    await world.tick()
    world.emr.lose_answers, world.emr.lost_as = {"add_steps"}, ThrottledUnknown
    await world.tick()
    world.emr.lose_answers = set()
    world.emr.steps[ClusterId("j-1")], hidden = [], world.emr.steps[ClusterId("j-1")]
    await world.tick(times=hidden_for)
    world.emr.steps[ClusterId("j-1")] += hidden
    return hidden


async def test_a_throttled_step_is_sent_again_within_seconds_and_says_so_once(world: World) -> None:
    await world.begin(ready())
    await world.tick()
    world.emr.refuse["add_steps"] = THROTTLED
    await world.tick(times=4)
    asked_s = world.clock.passed_s
    del world.emr.refuse["add_steps"]
    while world.submissions("w1")[0].state is SubmissionState.INTENDED:
        await world.tick()
    assert world.clock.passed_s - asked_s <= 10
    assert world.emr.submissions() == ["w1-1"]
    told = "EMR throttled AddJobFlowSteps: the step for cluster j-1 is sent again, in 2 s or later"
    assert world.log("w1.log").count(told) == 1


async def test_a_throttled_step_that_emr_took_after_all_is_there_twice_under_one_name(world: World) -> None:
    await taken_unheard(world, ready(), hidden_for=4)
    await world.tick(times=4)
    assert world.emr.submissions() == ["w1-1", "w1-1"]
    (submission,) = world.submissions("w1")
    assert submission.is_live
    world.end("w1")
    await world.tick(times=2)
    assert world.workload("w1").state is WorkloadState.FINISHABLE


@pytest.mark.parametrize("was_done", [False, True])
async def test_a_step_without_an_answer_is_looked_for_and_then_sent_again(
    world: World, *, was_done: bool
) -> None:
    await world.begin(ready())
    await world.tick()
    lost = OutcomeUnknown("AddJobFlowSteps: no answer came in time")
    if was_done:
        world.emr.lose_answers = {"add_steps"}
    else:
        world.emr.refuse["add_steps"] = lost
    await world.tick()
    world.emr.refuse, world.emr.lose_answers = {}, set()
    await world.tick(times=5)
    assert world.emr.submissions() == ["w1-1"]
    assert world.submissions("w1")[0].state is SubmissionState.PENDING
    assert world.emr.calls.count("add_steps") == (1 if was_done else 2)
    told = "EMR gave no answer on the step for cluster j-1: it is sent again when EMR does not show it"
    assert world.log("w1.log").count(told) == 1


async def test_a_step_of_an_old_release_is_never_there_twice(world: World) -> None:
    step = StepPlan(command=("spark-submit",), spec_uri="s3://b/s", wrapper_uri=OLD_WRAPPER)
    (hidden,) = await taken_unheard(world, ready(step=step), hidden_for=15)
    await world.tick()
    assert world.emr.submissions() == ["w1-1"]
    assert world.last("w1").step_id == hidden.step_id


@pytest.mark.parametrize("answer", [TryElsewhere("full", cluster_id="j-1"), StepsRefused("no")])
async def test_what_emr_says_the_second_time_does_not_undo_the_first(world: World, answer: Exception) -> None:
    """The first call may have had its effect."""
    await throttled(world)
    world.emr.refuse["add_steps"] = answer
    await world.tick(times=5)
    assert world.submissions("w1")[0].state is SubmissionState.INTENDED
    await world.tick(times=40)
    assert world.emr.submissions() == []
    assert world.emr.calls.count("add_steps") < 20


async def test_a_step_for_a_cluster_that_is_drained_meanwhile_is_not_sent_again(world: World) -> None:
    await throttled(world)
    with world.engine.begin() as connection:
        connection.execute(update(CLUSTER).values(target=ClusterTarget.DRAIN, version=CLUSTER.c.version + 1))
    await world.tick(times=10)
    assert world.emr.calls.count("add_steps") == 1
    assert world.submissions("w1")[0].state is SubmissionState.INTENDED
    del world.emr.refuse["add_steps"]
    await world.tick(times=40)
    assert world.emr.submissions() == ["w1-2"]


async def test_a_throttled_launch_is_made_again_when_emr_would_show_it(world: World) -> None:
    world.emr.refuse["run_job_flow"] = ThrottledUnknown("RunJobFlow: ThrottlingException: Rate exceeded")
    await world.begin(ready())
    await world.tick()
    world.emr.refuse = {}
    while not world.emr.clusters:
        await world.tick()
    assert 30 <= world.clock.passed_s <= 40
    await world.tick(times=2)
    assert [request["Name"].rpartition("/")[2] for request in world.emr.requests] == ["uuid-1"]
    assert world.emr.submissions() == ["w1-1"]
    assert "never_launched" not in world.events()
    told = (
        "waiting: no cluster of its pool is up yet; EMR throttled RunJobFlow: if EMR does not show the "
        "cluster by 12:00:32 UTC, it is asked for again"
    )
    assert world.log("w1.log").count(told) == 1


async def test_a_throttled_launch_that_emr_made_after_all_is_found(world: World) -> None:
    world.emr.lose_answers, world.emr.lost_as = {"run_job_flow"}, ThrottledUnknown
    await world.begin(ready())
    await world.tick(times=40)
    assert len(world.emr.requests) == 1


async def test_news_of_a_step_is_taken_while_its_answer_hangs(world: World) -> None:
    world.emr.hang["add_steps"] = asyncio.Event()
    await world.begin(ready("w1"), ready("w2"))
    await world.tick()
    await world.hanging_tick()
    world.emr.set_cluster("j-1", ClusterState.RUNNING)
    world.end("w1")
    await world.hanging_tick()
    assert world.workload("w1").state is WorkloadState.FINISHABLE
    world.emr.hang["add_steps"].set()
    await world.actions.settle()
    assert world.submissions("w2")[0].state is SubmissionState.PENDING, "its answer counts"


async def test_a_cluster_is_seen_while_the_answer_of_its_launch_hangs(world: World) -> None:
    world.emr.hang["run_job_flow"] = asyncio.Event()
    await world.begin(ready("w1"))
    for _ in range(4):
        await world.hanging_tick()
    assert world.emr.submissions() == ["w1-1"]
    world.emr.hang["run_job_flow"].set()
    await world.tick(times=2)
    assert len(world.emr.requests) == 1


async def test_a_step_that_did_nothing_hides_none_that_runs_on_a_later_page(world: World) -> None:
    """EMR took both calls; the newer step ended at once, and the older one is beyond fifty others."""
    await sent_twice(world)
    world.emr.set_cluster("j-1", ClusterState.RUNNING)
    (newer,) = world.emr.steps[ClusterId("j-1")]
    others = [step(f"s-x{n}", StepState.COMPLETED) for n in range(60)]
    older = replace(newer, step_id=StepId("s-older"), state=StepState.RUNNING)
    world.emr.steps[ClusterId("j-1")] = [newer, *others, older]
    world.emr.set_step(newer.step_id, StepState.FAILED)
    await world.tick(times=40)
    (submission,) = world.submissions("w1")
    assert (submission.step_id, submission.state) == ("s-older", SubmissionState.RUNNING)


async def test_a_cancelled_step_that_was_sent_again_is_over_when_emr_would_show_another(world: World) -> None:
    await sent_twice(world)
    await world.store.ask_cancel([ready().workload_id], "cleared")
    await world.tick(times=5)
    assert world.submissions("w1")[0].step_state is StepState.CANCELLED
    assert world.submissions("w1")[0].is_live
    await world.tick(times=20)
    assert world.workload("w1").state is WorkloadState.CANCELLED


def step(name: str, state: StepState | None) -> ObservedStep:
    return ObservedStep(step_id=StepId(name), name="", state=state)


@pytest.mark.parametrize(
    ("states", "counts"),
    [
        ((StepState.FAILED, StepState.COMPLETED), StepState.COMPLETED),
        ((StepState.FAILED, StepState.RUNNING), StepState.RUNNING),
        ((StepState.CANCELLED, StepState.PENDING), StepState.PENDING),
        ((StepState.PENDING, StepState.COMPLETED), StepState.COMPLETED),
        ((StepState.FAILED, None), None),
    ],
)
def test_of_several_steps_the_living_count_and_one_that_completed(
    states: tuple[StepState | None, ...], counts: StepState | None
) -> None:
    for order in permutations(states):
        steps = [step(f"s-{n}", state) for n, state in enumerate(order)]
        for known in (None, StepId("s-0"), StepId("s-1")):
            assert one_of(steps, known).state == counts


def test_of_steps_that_are_alike_the_known_one_counts_else_the_oldest() -> None:
    steps = [step("s-2", StepState.PENDING), step("s-1", StepState.PENDING)]
    assert one_of(steps, None).step_id == "s-1"
    assert one_of(steps, StepId("s-2")).step_id == "s-2"

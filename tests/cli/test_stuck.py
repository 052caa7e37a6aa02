"""``status`` is wrong, with the reason, where nothing comes right by itself."""

from __future__ import annotations

from typing import Any

import pytest

from emr_executor.cli.read_only import read
from emr_executor.cli.status import read_status, status_view
from emr_executor.config import Settings
from emr_executor.core.health import AgentHealth
from emr_executor.core.model import ClusterId
from emr_executor.core.states import ClusterState, ClusterTarget, WorkloadState
from emr_executor.core.waiting import Holds
from emr_executor.store.health_store import tell_health
from tests.cli.world import World, rendered
from tests.store.builders import a_cluster, a_parked, at

REASON = "EMR refused the cluster template: ValidationException: The supplied ec2SubnetId is not valid."


def wrong(world: World, settings: Settings, seconds: float = 100) -> tuple[str, ...]:
    def work(conn: Any) -> tuple[str, ...]:
        facts = read_status(conn, settings, (), at(seconds))
        shown = " ".join(rendered(status_view(facts)).split())
        assert all(sentence in shown for sentence in facts.wrong)
        return facts.wrong

    return read(work, engine=world.engine)


@pytest.fixture(autouse=True)
def an_agent(world: World) -> None:
    world.take_lease()
    world.tell("agent", "a", "seen", "its trace", 99)


def refused(*seconds: float) -> list[Any]:
    never = ClusterState.NEVER_LAUNCHED
    return [a_cluster(state=never, intended_at=at(s - 1), ended_at=at(s), reason=REASON) for s in seconds]


def test_a_pool_that_cannot_launch(world: World, settings: Settings) -> None:
    world.store(a_parked(), *refused(95))
    head = "cluster pool 'default' cannot launch: the last"
    last = f"last: {REASON.rstrip('.')}"
    assert wrong(world, settings) == (f"{head} launch failed, the next try is at 07:09:54; {last}",)
    world.store(*refused(98))
    later = wrong(world, settings, 200)
    assert f"{head} 2 launches failed, the next is tried when a step waits; {last}" in later


def test_a_launch_that_failed_long_ago_is_wrong_while_steps_wait_and_until_one_succeeds(
    world: World, settings: Settings
) -> None:
    world.store(*refused(0))
    assert len(wrong(world, settings, 899)) == 1
    assert wrong(world, settings, 901) == ()
    world.store(a_parked())
    assert any("cannot launch" in one for one in wrong(world, settings, 901))
    world.store(a_cluster(cluster_id=ClusterId("j-1"), ready_at=at(50)))
    assert not any("cannot launch" in one for one in wrong(world, settings, 901))


def test_a_cluster_that_does_not_end(world: World, settings: Settings) -> None:
    stays = a_cluster(
        cluster_id=ClusterId("j-1"),
        state=ClusterState.WAITING,
        target=ClusterTarget.END,
        ready_at=at(-900),
        end_asked_at=at(90),
    )
    world.store(stays)
    world.tell("cluster", stays.cluster_uuid, "ending", "ending j-1: idle for 300 s", -199)
    assert wrong(world, settings) == ()
    (said,) = wrong(world, settings, 102)
    head = "cluster j-1 is WAITING, which costs money, though it was asked to end 5 min 1 s ago: "
    asked = "TerminateJobFlows is asked again every two minutes; look at the cluster in Amazon EMR"
    assert said == head + asked
    refusal = (
        "ValidationException: Could not shut down one or more job flows since they are termination protected."
    )
    agent = AgentHealth(
        holder="a",
        host="host-a",
        pid=17,
        version="0.1.0",
        steering=True,
        started_at=at(0),
        beat=3,
        told_at=at(100),
        holds=Holds(not_ended={ClusterId("j-1"): refusal}),
    )
    with world.engine.begin() as conn:
        tell_health(conn, agent)
    (said,) = wrong(world, settings, 102)
    assert said == f"{head}TerminateJobFlows answers: {refusal.rstrip('.')}"


def test_a_phase_that_fails_the_same_way_again_and_again(world: World, settings: Settings) -> None:
    one, other, well = (
        a_parked(state=state) for state in (WorkloadState.ACCEPTED,) * 2 + (WorkloadState.READY,)
    )
    world.store(one, other, well)
    for workload, texts in ((one, "xyyy"), (other, "yyy"), (well, "yyy")):
        for second, text in enumerate(texts):
            world.tell("workload", workload.workload_id, "phase_retried", f"cannot read {text}.", 50 + second)
    first, _ = sorted(workload.key.text for workload in (one, other))
    assert wrong(world, settings) == (
        f"the phase of {first} and 1 other failed 3 times or more for the same reason: cannot read y",
    )


@pytest.mark.parametrize("texts", [("a", "a"), ("a", "b", "a"), ("a", "a", "b")])
def test_a_phase_that_fails_now_and_then_is_not_wrong(
    world: World, settings: Settings, texts: tuple[str, ...]
) -> None:
    mine = a_parked(state=WorkloadState.FINISHABLE)
    world.store(mine)
    for text in texts:
        world.tell("workload", mine.workload_id, "phase_retried", text, 60)
    assert wrong(world, settings) == ()

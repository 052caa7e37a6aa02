"""``status``: the whole as text and JSON, and what counts as wrong."""

from __future__ import annotations

from typing import Any

import pytest

from emr_executor.cli.status import status_view
from emr_executor.core.health import Away, Dependency
from emr_executor.core.model import ClusterId
from emr_executor.core.states import (
    ClusterState,
    ClusterTarget,
    StepState,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)
from tests.cli.world import World, plain, rendered, workload_of
from tests.store.builders import a_cluster, a_parked, a_submission, at


def busy(world: World) -> None:
    """A world in which everything is to be seen."""
    world.run()
    ti_id = world.set_task("average", state="running", last_heartbeat_at=at(70))
    world.take_lease()
    up = a_cluster(cluster_id=ClusterId("j-1"))
    ending = a_cluster(cluster_id=ClusterId("j-2"), state=ClusterState.TERMINATING)
    mine = workload_of(ti_id, state=WorkloadState.SUBMITTED)
    cancelled = a_parked(target=WorkloadTarget.CANCEL, accepted_at=at(1))
    world.store(mine, cancelled, a_parked(accepted_at=at(40)), a_parked(accepted_at=at(60)), up, ending)
    world.store(a_parked(state=WorkloadState.FINISHED))
    world.store(a_submission(mine, up, state=SubmissionState.RUNNING))
    world.store(
        a_submission(cancelled, up, state=SubmissionState.RUNNING, step_state=StepState.CANCEL_PENDING)
    )
    world.tell("submission", f"{mine.workload_id}-1", "never_added", "the cluster is ending", 50)
    world.tell("cluster", up.cluster_uuid, "running", "cluster j-1 is RUNNING", 55)
    world.tell("cluster", "c-9", "never_launched", "no such [profile]", 60)


def test_everything_at_one_glance(world: World) -> None:
    busy(world)
    assert rendered(status_view(world.status())) == (
        "Agent      host-a/17/aa holds the lease (beat 0); last traces: history 40 s ago, heartbeat of a\n"
        "           parked try 30 s ago\n"
        "Workloads  pool     state                   count  oldest\n"
        "           default  READY, to be cancelled      1  1 min 39 s\n"
        "           default  READY                       2  1 min\n"
        "           default  SUBMITTED                   1  1 min 30 s\n"
        "Clusters   default: 1 of 2 (1 RUNNING, 1 TERMINATING)\n"
        "Steps      1 CANCEL_PENDING, 1 RUNNING\n"
        "Waiting    2 steps for a slot, the first for 1 min\n"
        "Unread     1 end not yet read by a scheduler\n"
        "Problems   07:08:59 salaries.average try 1: the cluster is ending\n"
        "           07:09:09 cluster c-9: no such [profile]"
    )


def test_the_same_as_json(world: World) -> None:
    busy(world)
    pool = {"cluster_pool": "default"}
    workloads = (("READY", "CANCEL", 1, 1), ("READY", "RUN", 2, 40), ("SUBMITTED", "RUN", 1, 10))
    problems = (
        (50, "salaries.average try 1", "never_added", "the cluster is ending"),
        (60, "cluster c-9", "never_launched", "no such [profile]"),
    )

    def iso(seconds: float) -> str:
        return at(seconds).isoformat()

    assert plain(world.status()) == {
        "now": "2031-05-06T07:09:49.123456+00:00",
        "agent": {"holder": "host-a/17/aa", "token": 1, "beat": 0},
        "health": {"agents": [], "away": [], "safe_until": iso(370)},
        "last_history_at": iso(60),
        "last_heartbeat_at": iso(70),
        "workloads": [
            {**pool, "state": state, "target": target, "count": n, "oldest": iso(seconds), "quarantined": 0}
            for state, target, n, seconds in workloads
        ],
        "clusters": [
            {**pool, "counted": 1, "max_clusters": 2, "states": {"RUNNING": 1, "TERMINATING": 1}},
        ],
        "steps": {"CANCEL_PENDING": 1, "RUNNING": 1},
        "ready": 2,
        "oldest_ready_at": iso(40),
        "unread": 1,
        "quarantine": [],
        "problems": [
            {"at": iso(seconds), "about": about, "event": event, "text": text}
            for seconds, about, event, text in problems
        ],
        "config_problems": [],
        "wrong": [],
    }


def test_an_idle_deployment_without_an_agent_is_not_wrong(world: World) -> None:
    facts = world.status()
    assert facts.wrong == ()
    assert rendered(status_view(facts)) == (
        "Agent      none holds the lease\n"
        "Workloads  none live\n"
        "Clusters   default: 0 of 2\n"
        "Steps      none live\n"
        "Waiting    nothing waits for a slot\n"
        "Problems   none in the last history"
    )


def test_live_workloads_without_an_agent_are_wrong(world: World) -> None:
    world.store(a_parked())
    facts = world.status()
    assert [text.split(";")[0] for text in facts.wrong] == ["no agent holds the lease while 1 workload waits"]
    assert "WRONG      no agent holds the lease while 1 workload waits" in rendered(status_view(facts))


def test_an_agent_without_a_trace_is_wrong_only_while_tries_are_parked(world: World) -> None:
    busy(world)
    assert world.status(seconds=240).wrong == ()
    silent = "the agent host-a/17/aa left no trace for 3 min 10 s while tries are parked"
    assert world.status(seconds=260).wrong == (f"{silent}: look whether its process is alive",)


def test_a_configuration_that_would_be_refused_is_wrong(world: World) -> None:
    world.settings = None
    facts = world.status("staging_uri is not set")
    assert facts.config_problems == ("staging_uri is not set",)
    assert facts.wrong == ("the executor would refuse all tasks: staging_uri is not set",)


def away(dependency: Dependency, seconds: float = 40) -> Away:
    return Away(dependency=dependency, since=at(seconds), error="no answer")


def test_agents_are_shown_with_what_they_cannot_reach_and_what_that_means(world: World) -> None:
    busy(world)
    world.an_agent(away=(away(Dependency.S3), away(Dependency.API, 80)))
    world.an_agent("host-b/3/bb", 90, steering=False)
    facts = world.status()
    assert rendered(status_view(facts)).splitlines()[2:6] == [
        "Agents     host-a/17/aa steers, version 0.1.0, up for 1 min 40 s, well",
        "           host-b/3/bb stands by, version 0.1.0, up for 1 min 40 s, well",
        "Away       Amazon S3 since 07:08:49 (1 min): no answer",
        "           the Airflow API server since 07:09:29 (20 s): no answer",
    ]
    s3 = "output comes late, ends are seen by ListSteps, new tasks wait; no task fails for it"
    assert facts.wrong == (
        f"Amazon S3 cannot be used for 1 min: {s3}",
        "the Airflow API server cannot be used for 20 s: parked tasks are safe for another 4 min 30 s",
    )


@pytest.mark.parametrize("dependency", [d for d in Dependency if d is not Dependency.DATABASE])
def test_whatever_is_away_is_wrong_and_has_a_meaning(world: World, dependency: Dependency) -> None:
    world.an_agent(away=(away(dependency),))
    (wrong,) = world.status().wrong
    assert wrong.startswith(f"{dependency} cannot be used for 1 min: ")


def test_a_silent_agent_that_steers_is_wrong_and_its_old_words_do_not_count(world: World) -> None:
    busy(world)
    world.an_agent(told=50, away=(away(Dependency.S3),))
    world.an_agent("host-b/3/bb", 20, steering=False)
    facts = world.status()
    assert facts.health.away == ()
    silent = "the agent host-a/17/aa that steers has told nothing of itself for 50 s"
    safe = "another one takes over when there is one; parked tasks are safe for another 4 min 30 s"
    assert facts.wrong == (f"{silent}: {safe}",)
    assert "host-b/3/bb stands by, version 0.1.0, up for 1 min 40 s, SILENT for 1 min 20 s" in rendered(
        status_view(facts)
    )


def test_parked_tasks_beyond_airflows_timeout_are_not_called_safe(world: World) -> None:
    busy(world)
    world.an_agent(told=395, away=(away(Dependency.API),))
    (said,) = [one for one in world.status(seconds=400).wrong if "API server cannot be used" in one]
    assert "Airflow may fail them" in said


REASON = "EMR refused the cluster template: ValidationException: The supplied ec2SubnetId is not valid."


@pytest.fixture
def traced(world: World) -> None:
    """An agent steers and leaves traces."""
    world.take_lease()
    world.tell("agent", "a", "seen", "its trace", 99)


def wrong(world: World, seconds: float = 100) -> tuple[str, ...]:
    return world.status(seconds=seconds).wrong


def refused(*seconds: float) -> list[Any]:
    never = ClusterState.NEVER_LAUNCHED
    return [a_cluster(state=never, intended_at=at(s - 1), ended_at=at(s), reason=REASON) for s in seconds]


@pytest.mark.usefixtures("traced")
def test_a_pool_that_cannot_launch(world: World) -> None:
    world.store(a_parked(), *refused(95))
    head = "cluster pool 'default' cannot launch: the last"
    last = f"last: {REASON.rstrip('.')}"
    assert wrong(world) == (f"{head} launch failed, the next try is at 07:09:54; {last}",)
    world.store(*refused(98))
    later = wrong(world, 200)
    assert f"{head} 2 launches failed, the next is tried when a step waits; {last}" in later


@pytest.mark.usefixtures("traced")
def test_a_launch_that_failed_long_ago_is_wrong_while_steps_wait_and_until_one_succeeds(world: World) -> None:
    world.store(*refused(0))
    assert len(wrong(world, 899)) == 1
    assert wrong(world, 901) == ()
    world.store(a_parked())
    assert any("cannot launch" in one for one in wrong(world, 901))
    world.store(a_cluster(cluster_id=ClusterId("j-1"), ready_at=at(50)))
    assert not any("cannot launch" in one for one in wrong(world, 901))


@pytest.mark.usefixtures("traced")
def test_a_cluster_that_does_not_end(world: World) -> None:
    stays = a_cluster(
        cluster_id=ClusterId("j-1"),
        state=ClusterState.WAITING,
        target=ClusterTarget.END,
        ready_at=at(-900),
        end_asked_at=at(90),
    )
    world.store(stays)
    world.tell("cluster", stays.cluster_uuid, "ending", "ending j-1: idle for 300 s", -199)
    assert wrong(world) == ()
    (said,) = wrong(world, 102)
    head = "cluster j-1 is WAITING, which costs money, though it was asked to end 5 min 1 s ago: "
    asked = "TerminateJobFlows is asked again every two minutes; look at the cluster in Amazon EMR"
    assert said == head + asked
    refusal = (
        "ValidationException: Could not shut down one or more job flows since they are termination protected."
    )
    world.holding(not_ended={ClusterId("j-1"): refusal})
    (said,) = wrong(world, 102)
    assert said == f"{head}TerminateJobFlows answers: {refusal.rstrip('.')}"


@pytest.mark.usefixtures("traced")
def test_a_phase_that_fails_the_same_way_again_and_again(world: World) -> None:
    one, other, well = (
        a_parked(state=state) for state in (WorkloadState.ACCEPTED,) * 2 + (WorkloadState.READY,)
    )
    world.store(one, other, well)
    for workload, texts in ((one, "xyyy"), (other, "yyy"), (well, "yyy")):
        for second, text in enumerate(texts):
            world.tell("workload", workload.workload_id, "phase_retried", f"cannot read {text}.", 50 + second)
    first, _ = sorted(workload.key.text for workload in (one, other))
    assert wrong(world) == (
        f"the phase of {first} and 1 other failed 3 times or more for the same reason: cannot read y",
    )


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("texts", [("a", "a"), ("a", "b", "a"), ("a", "a", "b")])
def test_a_phase_that_fails_now_and_then_is_not_wrong(world: World, texts: tuple[str, ...]) -> None:
    mine = a_parked(state=WorkloadState.FINISHABLE)
    world.store(mine)
    for text in texts:
        world.tell("workload", mine.workload_id, "phase_retried", text, 60)
    assert wrong(world) == ()

"""Our half of ``explain``: the state, the reason of the plan itself, losses, and the story."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emr_executor.cli.explain import explanation_view
from emr_executor.cli.formatting import plain
from emr_executor.config import Settings
from emr_executor.core.health import AgentHealth
from emr_executor.core.model import Cluster, ClusterId, Identity, StepId, StepOutcome
from emr_executor.core.states import (
    ClusterState,
    StepState,
    SubmissionState,
    Verdict,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.waiting import Hold, Holds
from emr_executor.store.health_store import tell_health
from tests.cli.world import World, rendered, workload_of
from tests.store.builders import a_cluster, a_parked, a_submission, at

PARKED = "Its step is parked for 1 min 20 s and waits for a slot"
LOST = "It was lost once of 3 (max_submissions) without costing an Airflow retry."
RETRIED = "It is to be finished in Airflow and was tried (attempt 3 of 60, last: the DAG file does not parse)"
RUNNING = "Airflow has had it running for 1 min 30 s (try 1 of 3)."


@pytest.fixture
def ti_id(world: World) -> str:
    """The task instance as Airflow has it while its step is parked; an agent steers."""
    world.scheduler()
    world.take_lease()
    world.run()
    return world.set_task(
        "average", state="running", start_date=at(10), try_number=1, max_tries=2, queue="emr"
    )


def cluster(settings: Settings, name: str, **changes: Any) -> Cluster:
    template_hash = settings.cluster_pools[0].template_hash
    return a_cluster(cluster_id=ClusterId(name), template_hash=template_hash, **changes)


def ours(world: World, settings: Settings | None, **asked: Any) -> tuple[str, ...]:
    """The sentences behind Airflow's."""
    said = world.explain(settings, **asked).sentences
    assert said[0] == RUNNING
    return said[1:]


def test_waiting_for_a_cluster_that_starts_at_the_cap(world: World, settings: Settings, ti_id: str) -> None:
    starting = cluster(settings, "j-NEW", state=ClusterState.STARTING, intended_at=at(0), slots=1)
    full = cluster(settings, "j-OLD", state=ClusterState.RUNNING, ready_at=at(-50), slots=1)
    rest = [a_parked(accepted_at=at(1), priority_weight=1, state=WorkloadState.SUBMITTED) for _ in range(4)]
    world.store(workload_of(ti_id), a_parked(accepted_at=at(2)), starting, full, *rest)
    world.store(
        *(a_submission(w, full, state=SubmissionState.RUNNING, step_id=StepId("s-1")) for w in rest[:3]),
        a_submission(rest[3], starting, state=SubmissionState.PENDING),
    )
    full_up = "every slot of its pool is taken (2 on 2 clusters); max_clusters is reached (2 of 2)"
    assert ours(world, settings) == (
        f"{PARKED}, behind 1 other: {full_up}.",
        "Cluster j-NEW is STARTING for 1 min 40 s.",
        "Up: j-OLD 3/1 slots, KEEP.",
    )


def test_a_launch_is_due(world: World, settings: Settings, ti_id: str) -> None:
    world.store(workload_of(ti_id))
    assert ours(world, settings) == (
        f"{PARKED}, first in its line: no cluster of its pool is up yet; a cluster is being launched.",
        "The agent is about to launch a cluster: 1 waiting, 0 free slots on 0 clusters.",
    )


def test_launches_are_held_after_failures(world: World, settings: Settings, ti_id: str) -> None:
    failed = [
        a_cluster(
            state=ClusterState.NEVER_LAUNCHED,
            intended_at=at(seconds - 10),
            ended_at=at(seconds),
            reason="Instance profile is missing",
        )
        for seconds in (60, 95)
    ]
    world.store(workload_of(ti_id), *failed)
    said = ours(world, settings)
    assert said[0] == (
        f"{PARKED}, first in its line: no cluster of its pool is up yet, and the last launch failed: "
        "Instance profile is missing; the next try is at 07:10:04 UTC, then ever more rarely, at least every "
        "10 min."
    )
    assert said[1] == "The last 2 launches of its pool failed."
    assert len(said) == 2


def an_agent(world: World, **holds: Any) -> None:
    """The agent that steers, and what it has just told that it does not ask of EMR."""
    agent = AgentHealth(
        holder="host-a/17/aa",
        host="host-a",
        pid=17,
        version="0.1.0",
        steering=True,
        started_at=at(0),
        beat=1,
        told_at=at(95),
        holds=Holds(**holds),
    )
    with world.engine.begin() as conn:
        tell_health(conn, agent)


def test_a_free_slot_is_not_promised_while_the_agent_adds_no_steps(
    world: World, settings: Settings, ti_id: str
) -> None:
    up = cluster(settings, "j-UP", ready_at=at(1))
    world.store(workload_of(ti_id), up)
    head = f"{PARKED}, first in its line"
    hold = Hold(why="EMR throttled AddJobFlowSteps.", until=at(110), longest_s=60.0)
    an_agent(world, place={up.cluster_uuid: hold})
    assert ours(world, settings)[0] == (
        f"{head}: EMR takes no steps for j-UP: EMR throttled AddJobFlowSteps; the next try is at 07:09:59 "
        "UTC, then ever more rarely, at least every 1 min."
    )
    an_agent(world, budget_until=at(104))
    assert ours(world, settings)[0] == (
        f"{head}: a slot is free, and as many steps were added as EMR takes (AddJobFlowSteps, by our own "
        "count); the next call is at 07:09:53 UTC."
    )
    an_agent(world, away="Amazon EMR is away")
    away = "Amazon EMR is away: nothing is launched or placed until that is over"
    assert ours(world, settings)[0] == f"{head}: {away}."
    an_agent(world, place={up.cluster_uuid: replace(hold, until=at(99))}, budget_until=at(99))
    assert ours(world, settings)[1].startswith("A slot is free on j-UP")


def test_a_free_slot_is_named(world: World, settings: Settings, ti_id: str) -> None:
    world.store(workload_of(ti_id), cluster(settings, "j-UP", ready_at=at(1)))
    assert ours(world, settings)[1:] == ("A slot is free on j-UP: the next look of the agent puts it there.",)


def test_an_older_try_that_still_lives_holds_it(world: World, settings: Settings, ti_id: str) -> None:
    up = cluster(settings, "j-UP", ready_at=at(1))
    mine = workload_of(ti_id)
    old = workload_of(
        "00000000-0000-0000-0000-0000000000aa", target=WorkloadTarget.CANCEL, state=WorkloadState.SUBMITTED
    )
    world.store(mine, up, old)
    world.store(a_submission(old, up, state=SubmissionState.RUNNING, step_id=StepId("s-1")))
    assert "another try of this task still has a live step" in ours(world, settings)[0]


@pytest.mark.parametrize(
    ("submission", "sentence"),
    [
        (
            {"state": SubmissionState.RUNNING, "started_at": at(30)},
            "It runs on cluster j-UP as step s-7 for 1 min 10 s.",
        ),
        (
            {"state": SubmissionState.PENDING, "submitted_at": at(90.5)},
            "It is queued on cluster j-UP as step s-7 for 9 s.",
        ),
        (
            {"state": SubmissionState.INTENDED, "intended_at": at(99)},
            "It is being added to cluster j-UP (submission 2) for 1 s.",
        ),
    ],
)
def test_a_step_on_a_cluster_and_what_was_lost_before(
    world: World, settings: Settings, ti_id: str, submission: dict[str, Any], sentence: str
) -> None:
    mine = workload_of(ti_id, state=WorkloadState.SUBMITTED, losses=1, submissions=2)
    gone = cluster(settings, "j-GONE", state=ClusterState.TERMINATED_WITH_ERRORS, ended_at=at(25))
    up = cluster(settings, "j-UP", ready_at=at(1))
    lost = a_submission(mine, gone, 1, state=SubmissionState.LOST, cause="cluster j-GONE ended (spot)")
    world.store(mine, gone, up, lost, a_submission(mine, up, 2, step_id=StepId("s-7"), **submission))
    assert ours(world, settings) == (
        sentence,
        f"{LOST} submission 1: cluster j-GONE ended (spot).",
    )


def test_a_prepare_phase_waits_and_is_tried_again(world: World, settings: Settings, ti_id: str) -> None:
    waits = workload_of(ti_id, state=WorkloadState.ACCEPTED)
    world.store(waits, a_parked(state=WorkloadState.ACCEPTED, accepted_at=at(1)))
    assert ours(world, settings) == (
        (
            "It has waited 1 min 30 s for a task runner (4 at once, task_runner_parallelism) to be prepared, "
            "behind 1 other."
        ),
    )


def test_a_phase_that_an_outage_spoilt_says_so_and_counts_nothing(
    world: World, settings: Settings, ti_id: str
) -> None:
    world.store(workload_of(ti_id, state=WorkloadState.ACCEPTED, phase_attempts=0, not_before=at(110)))
    world.tell("workload", ti_id, "phase_retried", "no answer from the Execution API", 80)
    assert ours(world, settings) == (
        (
            "It is to be prepared and was tried (none that counts, last: no answer from the Execution API); "
            "it is tried again not before 07:09:59."
        ),
    )


def test_a_finish_that_is_retried_says_why(world: World, settings: Settings, ti_id: str) -> None:
    outcome = StepOutcome(
        verdict=Verdict.SUCCEEDED, cluster_id=ClusterId("j-1"), step_id=StepId("s-1"), ended_at=at(50)
    )
    finishing = workload_of(
        ti_id, state=WorkloadState.FINISHABLE, outcome=outcome, phase_attempts=3, not_before=at(110)
    )
    world.store(finishing)
    world.tell("workload", ti_id, "phase_retried", "the DAG file does not parse", 80)
    assert ours(world, settings) == (
        "Its step is over: s-1 on j-1 SUCCEEDED.",
        f"{RETRIED}; it is tried again not before 07:09:59.",
    )


def test_phases_that_run_name_their_host(world: World, settings: Settings, ti_id: str) -> None:
    me = Identity(hostname="host-b", unixname="airflow", pid=1)
    world.store(workload_of(ti_id, state=WorkloadState.PREPARING, identity=me, phase_attempts=2))
    assert ours(world, settings) == ("Its user code is being prepared on host-b (attempt 2).",)


def test_what_is_cancelled_says_so(world: World, settings: Settings, ti_id: str) -> None:
    up = cluster(settings, "j-UP", ready_at=at(1))
    mine = workload_of(
        ti_id, state=WorkloadState.SUBMITTED, target=WorkloadTarget.CANCEL, cancel_reason="marked failed"
    )
    world.store(mine, up, a_submission(mine, up, state=SubmissionState.RUNNING, step_id=StepId("s-7")))
    assert ours(world, settings)[0] == "It is being cancelled: marked failed."


def test_an_earlier_try_is_told_when_this_one_is_not_ours_yet(world: World, settings: Settings) -> None:
    world.scheduler()
    world.run()
    world.set_task("extract", state="success")
    world.set_task("average", state="scheduled", scheduled_dttm=at(99), try_number=2, max_tries=2)
    outcome = StepOutcome(verdict=Verdict.FAILED, cause="ValueError: no rows", step_id=StepId("s-1"))
    old = workload_of(
        "00000000-0000-0000-0000-0000000000aa",
        state=WorkloadState.FINISHED,
        outcome=outcome,
        airflow_state="up_for_retry",
        finished_at=at(60),
    )
    world.store(old)
    assert world.explain(settings).sentences[-1] == (
        "Try 1 was ours: Over 40 s ago: s-1 FAILED (ValueError: no rows), Airflow has it as up_for_retry."
    )


def test_a_step_behind_others_says_so_in_the_words_of_its_log(
    world: World, settings: Settings, ti_id: str
) -> None:
    up = cluster(settings, "j-UP", ready_at=at(1), slots=1)
    busy, mine = a_parked(state=WorkloadState.SUBMITTED), workload_of(ti_id, state=WorkloadState.SUBMITTED)
    world.store(up, busy, mine)
    world.store(
        a_submission(busy, up, state=SubmissionState.RUNNING, step_id=StepId("s-1"), started_at=at(40)),
        a_submission(mine, up, state=SubmissionState.PENDING, step_id=StepId("s-2"), submitted_at=at(50)),
    )
    assert ours(world, settings) == (
        "It is queued on cluster j-UP as step s-2 for 50 s.",
        "It waits: behind 1 step on cluster j-UP; the longest runs for 1 min.",
    )


def test_a_step_that_emr_is_cancelling_is_not_called_running_alone(
    world: World, settings: Settings, ti_id: str
) -> None:
    up = cluster(settings, "j-UP", ready_at=at(1))
    mine = workload_of(ti_id, state=WorkloadState.SUBMITTED, target=WorkloadTarget.CANCEL, cancel_reason="x")
    leaving = {"step_id": StepId("s-7"), "step_state": StepState.CANCEL_PENDING, "started_at": at(40)}
    world.store(mine, up, a_submission(mine, up, state=SubmissionState.RUNNING, **leaving))
    assert ours(world, settings)[1] == (
        "It runs on cluster j-UP as step s-7, which EMR is asked to cancel (CANCEL_PENDING) for 1 min."
    )


def test_a_cleared_task_whose_step_still_runs_is_not_over(world: World, settings: Settings) -> None:
    world.scheduler()
    world.run()
    world.set_task("extract", state="success")
    world.set_task("average", state="scheduled", scheduled_dttm=at(99), try_number=2, max_tries=2)
    cleared = {"target": WorkloadTarget.CANCEL, "cancel_reason": "cleared in Airflow"}
    old = workload_of("00000000-0000-0000-0000-0000000000aa", state=WorkloadState.SUBMITTED, **cleared)
    up = cluster(settings, "j-UP", ready_at=at(1))
    runs = {"state": SubmissionState.RUNNING, "step_id": StepId("s-7"), "started_at": at(40)}
    world.store(old, up, a_submission(old, up, **runs))
    assert world.explain(settings).sentences[-1] == (
        "Try 1 is being cancelled (cleared in Airflow) and not over yet. It runs on cluster j-UP as step s-7 "
        "for 1 min. The next try gets no step before it is over."
    )


@pytest.mark.parametrize(
    ("cause", "sentence"),
    [
        (None, "Over 10 s ago, Airflow has it as failed; it never had a step."),
        ("no slot came.", "Over 10 s ago: FAILED without a step (no slot came), Airflow has it as failed."),
    ],
)
def test_a_try_without_a_step_says_so_and_dots_come_once(
    world: World, settings: Settings, ti_id: str, cause: str | None, sentence: str
) -> None:
    outcome = StepOutcome(verdict=Verdict.FAILED, cause=cause) if cause else None
    over = {"airflow_state": "failed", "finished_at": at(90), "outcome": outcome}
    world.store(workload_of(ti_id, state=WorkloadState.FINISHED, **over))
    assert ours(world, settings) == (sentence,)


def test_nothing_moves_without_an_agent(world: World, settings: Settings) -> None:
    world.scheduler()
    world.run()
    ti_id = world.set_task("average", state="running", start_date=at(10), try_number=1, max_tries=2)
    world.store(workload_of(ti_id))
    assert ours(world, settings)[0].startswith(
        "Nothing moves: no agent holds the lease; the scheduler starts"
    )


def test_a_configuration_that_cannot_be_read(world: World, ti_id: str) -> None:
    world.store(workload_of(ti_id))
    said = ours(world, None, problems=("staging_uri is not set",))
    assert said[-1] == "Why cannot be told without the configuration: staging_uri is not set"


def test_a_try_that_no_store_has(world: World, settings: Settings, ti_id: str) -> None:
    assert ti_id
    assert ours(world, settings)[0].startswith("EmrExecutor has no record of this try: another executor")


def test_the_story_is_told_with_its_times_and_as_json(world: World, settings: Settings, ti_id: str) -> None:
    mine = workload_of(ti_id, state=WorkloadState.SUBMITTED, submissions=1)
    up = cluster(settings, "j-UP", ready_at=at(1))
    running = a_submission(mine, up, state=SubmissionState.RUNNING, step_id=StepId("s-7"), started_at=at(30))
    world.store(mine, up, running)
    world.tell("cluster", up.cluster_uuid, "launching", "launching a cluster: 1 waiting", -86400)
    world.tell("workload", ti_id, "placed", "submission 1 on j-UP", 20)
    world.tell("submission", running.submission_id, "running", "running as s-7 on j-UP [spark]", 30)
    facts = world.explain(settings)
    assert rendered(explanation_view(facts)) == (
        "salaries.average of run r1\n"
        "  Airflow has had it running for 1 min 30 s (try 1 of 3).\n"
        "  It runs on cluster j-UP as step s-7 for 1 min 10 s.\n"
        "\n"
        "What happened (UTC)\n"
        "07:08:29  submission 1 on j-UP\n"
        "07:08:39  running as s-7 on j-UP [spark]"
    )
    told = plain(facts)
    assert told["ours"]["workload"]["stays"] == [
        {
            "n": 1,
            "cluster_id": "j-UP",
            "cluster_state": "RUNNING",
            "step_id": "s-7",
            "state": "RUNNING",
            "intended_at": "2031-05-06T07:08:09.123456+00:00",
            "submitted_at": None,
            "started_at": "2031-05-06T07:08:39.123456+00:00",
            "ended_at": None,
            "exit_code": None,
            "cause": "",
            "is_leaving": False,
            "quarantine": None,
            "cluster_quarantine": None,
        }
    ]
    assert told["sentences"] == list(facts.sentences)
    assert told["ours"]["story"][0] == {
        "at": "2031-05-06T07:08:29.123456+00:00",
        "subject": "workload",
        "subject_id": ti_id,
        "event": "placed",
        "text": "submission 1 on j-UP",
    }
    assert "spark-submit" not in str(told)

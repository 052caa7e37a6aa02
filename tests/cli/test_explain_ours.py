"""Our half of ``explain``: the state, the reason of the plan itself, losses, and the story."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emr_executor.cli.explain import explanation_view
from emr_executor.core.model import Cluster, ClusterId, Identity, StepId, StepOutcome
from emr_executor.core.states import (
    ClusterState,
    StepState,
    SubmissionState,
    Verdict,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.waiting import Hold
from tests.cli.world import World, flat, plain, rendered, workload_of
from tests.store.builders import a_cluster, a_parked, a_submission, at

PARKED = "Its step is parked for 1 min 20 s and waits for a slot"
FIRST = f"{PARKED}, first in its line"
OLD = "00000000-0000-0000-0000-0000000000aa"
"""An earlier try of the task."""
RUNS = {"state": SubmissionState.RUNNING, "step_id": StepId("s-7"), "started_at": at(40)}


@pytest.fixture
def up(world: World) -> Cluster:
    return world.cluster("j-UP", ready_at=at(1))


def ours(world: World, **asked: Any) -> str:
    """The sentences behind Airflow's."""
    first, *rest = world.explain(**asked).sentences
    assert first == "Airflow has had it running for 1 min 30 s (try 1 of 3)."
    return flat(" ".join(rest))


def test_waiting_for_a_cluster_that_starts_at_the_cap(world: World, ti_id: str) -> None:
    starting = world.cluster("j-NEW", state=ClusterState.STARTING, intended_at=at(0), slots=1)
    full = world.cluster("j-OLD", state=ClusterState.RUNNING, ready_at=at(-50), slots=1)
    rest = [a_parked(accepted_at=at(1), priority_weight=1, state=WorkloadState.SUBMITTED) for _ in range(4)]
    world.store(workload_of(ti_id), a_parked(accepted_at=at(2)), starting, full, *rest)
    world.store(
        *(a_submission(w, full, **RUNS) for w in rest[:3]),
        a_submission(rest[3], starting, state=SubmissionState.PENDING),
    )
    assert ours(world) == (
        f"{PARKED}, behind 1 other: every slot of its pool is taken (2 on 2 clusters); max_clusters is "
        "reached (2 of 2). Cluster j-NEW is STARTING for 1 min 40 s. Up: j-OLD 3/1 slots, KEEP."
    )


def test_a_launch_is_due(world: World, ti_id: str) -> None:
    world.store(workload_of(ti_id))
    assert ours(world) == (
        f"{FIRST}: no cluster of its pool is up yet; a cluster is being launched. The agent is about to "
        "launch a cluster: 1 waiting, 0 free slots on 0 clusters."
    )


def test_launches_are_held_after_failures(world: World, ti_id: str) -> None:
    never = {"state": ClusterState.NEVER_LAUNCHED, "reason": "Instance profile is missing"}
    world.store(workload_of(ti_id), *(a_cluster(ended_at=at(seconds), **never) for seconds in (60, 95)))
    assert ours(world) == (
        f"{FIRST}: no cluster of its pool is up yet, and the last launch failed: Instance profile is missing;"
        " the next try is at 07:10:04 UTC, then ever more rarely, at least every 10 min. The last 2 launches "
        "of its pool failed."
    )


def test_a_free_slot_is_not_promised_while_the_agent_adds_no_steps(
    world: World, ti_id: str, up: Cluster
) -> None:
    world.store(workload_of(ti_id), up)
    promised = f"{FIRST}. A slot is free on j-UP: the next look of the agent puts it there."
    assert ours(world) == promised
    hold = Hold(why="EMR throttled AddJobFlowSteps.", until=at(110), longest_s=60.0)
    world.holding(place={up.cluster_uuid: hold})
    assert (
        "EMR takes no steps for j-UP: EMR throttled AddJobFlowSteps; the next try is at 07:09:59 UTC, then "
        "ever more rarely, at least every 1 min."
    ) in ours(world)
    world.holding(budget_until=at(104))
    assert (
        "a slot is free, and as many steps were added as EMR takes (AddJobFlowSteps, by our own count); the "
        "next call is at 07:09:53 UTC."
    ) in ours(world)
    world.holding(away="Amazon EMR is away")
    away = "Amazon EMR is away: nothing is launched or placed until that is over"
    assert ours(world).startswith(f"{FIRST}: {away}.")
    world.holding(place={up.cluster_uuid: replace(hold, until=at(99))}, budget_until=at(99))
    assert ours(world) == promised


def test_an_older_try_that_still_lives_holds_it(world: World, ti_id: str, up: Cluster) -> None:
    old = workload_of(OLD, target=WorkloadTarget.CANCEL, state=WorkloadState.SUBMITTED)
    world.store(workload_of(ti_id), up, old, a_submission(old, up, **RUNS))
    assert "another try of this task still has a live step" in ours(world)


@pytest.mark.parametrize(
    ("submission", "sentence"),
    [
        (RUNS, "It runs on cluster j-UP as step s-7 for 1 min."),
        (
            {"state": SubmissionState.PENDING, "step_id": StepId("s-7"), "submitted_at": at(90.5)},
            "It is queued on cluster j-UP as step s-7 for 9 s.",
        ),
        (
            {"state": SubmissionState.INTENDED, "intended_at": at(99)},
            "It is being added to cluster j-UP (submission 2) for 1 s.",
        ),
        (
            {**RUNS, "step_state": StepState.CANCEL_PENDING},
            """It is being cancelled: marked failed. It runs on cluster j-UP as step s-7, which EMR is asked
            to cancel (CANCEL_PENDING) for 1 min.""",
        ),
    ],
)
def test_a_step_on_a_cluster_and_what_was_lost_before(
    world: World, ti_id: str, up: Cluster, submission: dict[str, Any], sentence: str
) -> None:
    cancelled = {"target": WorkloadTarget.CANCEL, "cancel_reason": "marked failed"}
    changes = cancelled if "step_state" in submission else {}
    mine = workload_of(ti_id, state=WorkloadState.SUBMITTED, losses=1, submissions=2, **changes)
    gone = world.cluster("j-GONE", state=ClusterState.TERMINATED_WITH_ERRORS, ended_at=at(25))
    lost = a_submission(mine, gone, 1, state=SubmissionState.LOST, cause="cluster j-GONE ended (spot)")
    world.store(mine, gone, up, lost, a_submission(mine, up, 2, **submission))
    assert ours(world) == flat(sentence) + (
        " It was lost once of 3 (max_submissions) without costing an Airflow retry. submission 1: cluster "
        "j-GONE ended (spot)."
    )


SUCCEEDED = StepOutcome(
    verdict=Verdict.SUCCEEDED, cluster_id=ClusterId("j-1"), step_id=StepId("s-1"), ended_at=at(50)
)
HOST_B = Identity(hostname="host-b", unixname="airflow", pid=1)
OVER = {"airflow_state": "failed", "finished_at": at(90)}
NO_SLOT = StepOutcome(verdict=Verdict.FAILED, cause="no slot came.")
AGAIN = {"phase_attempts": 3, "not_before": at(110)}


@pytest.mark.parametrize(
    ("state", "changes", "sentences"),
    [
        (
            "ACCEPTED",
            {},
            """It has waited 1 min 30 s for a task runner (4 at once, task_runner_parallelism) to be prepared,
            behind 1 other.""",
        ),
        (
            "ACCEPTED",
            {"not_before": at(110)},
            """It is to be prepared and was tried (none that counts, last: no answer); it is tried again not
            before 07:09:59.""",
        ),
        (
            "PREPARING",
            {"identity": HOST_B, "phase_attempts": 2},
            "Its user code is being prepared on host-b (attempt 2).",
        ),
        (
            "FINISHABLE",
            {"outcome": SUCCEEDED, **AGAIN},
            """Its step is over: s-1 on j-1 SUCCEEDED. It is to be finished in Airflow and was tried
            (attempt 3 of 60, last: no answer); it is tried again not before 07:09:59.""",
        ),
        ("FINISHED", OVER, "Over 10 s ago, Airflow has it as failed; it never had a step."),
        (
            "FINISHED",
            {**OVER, "outcome": NO_SLOT},
            "Over 10 s ago: FAILED without a step (no slot came), Airflow has it as failed.",
        ),
    ],
)
def test_a_phase_and_an_end_are_told(
    world: World, ti_id: str, state: str, changes: dict[str, Any], sentences: str
) -> None:
    world.store(workload_of(ti_id, state=WorkloadState(state), **changes))
    world.store(a_parked(state=WorkloadState.ACCEPTED, accepted_at=at(1)))
    world.tell("workload", ti_id, "phase_retried", "no answer", 80)
    assert ours(world) == flat(sentences)


def test_a_step_behind_others_says_so_in_the_words_of_its_log(world: World, ti_id: str) -> None:
    up = world.cluster("j-UP", ready_at=at(1), slots=1)
    busy, mine = a_parked(state=WorkloadState.SUBMITTED), workload_of(ti_id, state=WorkloadState.SUBMITTED)
    pending = {"state": SubmissionState.PENDING, "step_id": StepId("s-2"), "submitted_at": at(50)}
    world.store(up, busy, mine, a_submission(busy, up, **RUNS), a_submission(mine, up, **pending))
    assert ours(world) == (
        "It is queued on cluster j-UP as step s-2 for 50 s. It waits: behind 1 step on cluster j-UP; the "
        "longest runs for 1 min."
    )


FAILED = StepOutcome(verdict=Verdict.FAILED, cause="ValueError: no rows", step_id=StepId("s-1"))


@pytest.mark.parametrize(
    ("state", "changes", "sentence"),
    [
        (
            "FINISHED",
            {"outcome": FAILED, "airflow_state": "up_for_retry", "finished_at": at(60)},
            """Try 1 was ours: Over 40 s ago: s-1 FAILED (ValueError: no rows), Airflow has it as
            up_for_retry.""",
        ),
        (
            "SUBMITTED",
            {"target": WorkloadTarget.CANCEL, "cancel_reason": "cleared in Airflow"},
            """Try 1 is being cancelled (cleared in Airflow) and not over yet. It runs on cluster j-UP as step
            s-7 for 1 min. The next try gets no step before it is over.""",
        ),
    ],
)
def test_an_earlier_try_is_told_when_this_one_is_not_ours_yet(
    world: World, up: Cluster, state: str, changes: dict[str, Any], sentence: str
) -> None:
    world.scheduler()
    world.run()
    world.scheduled(try_number=2, max_tries=2)
    old = workload_of(OLD, state=WorkloadState(state), **changes)
    world.store(old, up)
    if state == "SUBMITTED":
        world.store(a_submission(old, up, **RUNS))
    assert world.explain().sentences[-1] == flat(sentence)


def test_nothing_moves_without_an_agent(world: World) -> None:
    world.store(workload_of(world.parked()))
    nothing = "Nothing moves: no agent holds the lease; the scheduler starts"
    assert ours(world).startswith(nothing)


def test_a_configuration_that_cannot_be_read(world: World, ti_id: str) -> None:
    world.store(workload_of(ti_id))
    world.settings = None
    said = ours(world, problems=("staging_uri is not set",))
    assert said.endswith("Why cannot be told without the configuration: staging_uri is not set")


@pytest.mark.usefixtures("ti_id")
def test_a_try_that_no_store_has(world: World) -> None:
    assert ours(world).startswith("EmrExecutor has no record of this try: another executor")


def test_the_story_is_told_with_its_times_and_as_json(world: World, ti_id: str, up: Cluster) -> None:
    mine = workload_of(ti_id, state=WorkloadState.SUBMITTED, submissions=1)
    running = a_submission(mine, up, **RUNS)
    world.store(mine, up, running)
    world.tell("cluster", up.cluster_uuid, "launching", "launching a cluster: 1 waiting", -86400)
    world.tell("workload", ti_id, "placed", "submission 1 on j-UP", 20)
    world.tell("submission", running.submission_id, "running", "running as s-7 on j-UP [spark]", 40)
    facts = world.explain()
    assert rendered(explanation_view(facts)) == (
        "salaries.average of run r1\n"
        "  Airflow has had it running for 1 min 30 s (try 1 of 3).\n"
        "  It runs on cluster j-UP as step s-7 for 1 min.\n"
        "\n"
        "What happened (UTC)\n"
        "07:08:29  submission 1 on j-UP\n"
        "07:08:49  running as s-7 on j-UP [spark]"
    )
    told = plain(facts)
    (stay,) = told["ours"]["workload"]["stays"]
    assert " ".join(stay) == (
        "n cluster_id cluster_state step_id state intended_at submitted_at started_at ended_at exit_code "
        "cause is_leaving quarantine cluster_quarantine"
    )
    assert (stay["cluster_state"], stay["started_at"]) == ("RUNNING", "2031-05-06T07:08:49.123456+00:00")
    assert told["sentences"] == list(facts.sentences)
    assert told["ours"]["story"][0] == {
        "at": "2031-05-06T07:08:29.123456+00:00",
        "subject": "workload",
        "subject_id": ti_id,
        "event": "placed",
        "text": "submission 1 on j-UP",
    }
    assert "spark-submit" not in str(told)

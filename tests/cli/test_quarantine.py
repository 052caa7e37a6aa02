"""``status`` and ``explain`` say which rows are in quarantine, why, and what a person can do."""

from __future__ import annotations

from emr_executor.cli.explain import explanation_view
from emr_executor.cli.status import status_view
from emr_executor.core.model import ClusterId, StepId
from emr_executor.core.states import ClusterState, SubmissionState, WorkloadState, WorkloadTarget
from tests.cli.world import World, plain, rendered, shows, workload_of
from tests.store.builders import a_cluster, a_parked, a_submission, at

WHY = "no edge from READY on step_completed"
KEPT = f"{WHY}\n2031-05-06 07:08:09 placed: submission 1 on j-1"


def test_status_lists_what_is_held_and_what_can_be_done_and_is_wrong(world: World, ti_id: str) -> None:
    held = workload_of(ti_id, quarantine=KEPT)
    up = a_cluster(cluster_id=ClusterId("j-1"), quarantine="shown NEVER_LAUNCHED")
    rider = a_parked(state=WorkloadState.SUBMITTED)
    world.store(held, rider, up, a_submission(rider, up, state=SubmissionState.RUNNING, quarantine="poison"))
    world.store(a_parked(state=WorkloadState.CANCELLED, quarantine=KEPT))
    world.store(a_cluster(state=ClusterState.TERMINATED, quarantine=KEPT))
    facts = world.status()
    assert facts.wrong == (
        "3 rows are in quarantine, which is a bug of the executor: please report what is said of it above",
    )
    assert facts.ready == 0
    told_of = (
        f"workload salaries.average try 1 (READY): {WHY}. Airflow keeps the try running",
        f"submission {rider.key.text} (RUNNING): poison. Its step may be alive",
        "cluster j-1 (RUNNING): shown NEVER_LAUNCHED. It counts against max_clusters",
        "terminate j-1 in Amazon EMR",
    )
    shows(status_view(facts), told_of)
    told = plain(facts)["quarantine"]
    assert [(one["entity"], one["cluster_id"]) for one in told] == [
        ("workload", None),
        ("submission", "j-1"),
        ("cluster", "j-1"),
    ]
    assert told[0]["quarantine"] == KEPT


def test_many_rows_do_not_flood_the_screen(world: World) -> None:
    world.store(*(a_parked(quarantine=WHY) for _ in range(23)))
    text = rendered(status_view(world.status()))
    assert text.count("(READY)") == 20
    assert "and 3 more" in text


def test_explain_says_why_a_task_is_held_and_how_to_free_it(world: World, ti_id: str) -> None:
    world.store(workload_of(ti_id, quarantine=KEPT))
    facts = world.explain()
    (said,) = facts.sentences[1:]
    assert said.startswith(f"It is in quarantine, since the executor met a bug on it: {WHY}. Airflow keeps")
    assert "clear the task in Airflow (it runs again) or mark it" in said
    view = rendered(explanation_view(facts))
    assert (
        "What happened before its quarantine (UTC)\n2031-05-06 07:08:09 placed: submission 1 on j-1" in view
    )


def test_the_kept_story_is_not_told_twice(world: World, ti_id: str) -> None:
    world.store(workload_of(ti_id, quarantine=KEPT))
    world.tell("workload", ti_id, "quarantined", WHY, 30)
    view = rendered(explanation_view(world.explain()))
    assert "before its quarantine" not in view
    assert "07:08:39  no edge from READY on step_completed" in view


def test_one_that_airflow_let_go_of_is_on_its_way(world: World, ti_id: str) -> None:
    world.store(
        workload_of(ti_id, quarantine=KEPT, target=WorkloadTarget.CANCEL, cancel_reason="Airflow cleared it")
    )
    said = " ".join(world.explain().sentences)
    assert "It is being cancelled: Airflow cleared it." in said
    assert "It is cancelled as soon as no step of it is alive." in said


def test_explain_tells_of_the_step_or_the_cluster_that_holds_the_task(world: World, ti_id: str) -> None:
    mine = workload_of(ti_id, state=WorkloadState.SUBMITTED, submissions=1)
    up = a_cluster(cluster_id=ClusterId("j-1"), quarantine="odd cluster")
    runs = {"state": SubmissionState.RUNNING, "step_id": StepId("s-1"), "started_at": at(30)}
    world.store(mine, up, a_submission(mine, up, quarantine=KEPT, **runs))
    _, submission, cluster, step = world.explain().sentences
    assert submission.startswith(f"Its submission 1 is in quarantine: {WHY}. Its step may be alive")
    assert cluster.startswith("Cluster j-1 is in quarantine: odd cluster. It counts")
    assert step == "It runs on cluster j-1 as step s-1 for 1 min 10 s."

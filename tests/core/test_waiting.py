"""The sentence that everything that waits has: what is, why, and until when."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from emr_executor.core.fact_ages import ages_by_rows
from emr_executor.core.model import Cluster, Snapshot, StepId, Submission, Workload
from emr_executor.core.plan import plan
from emr_executor.core.states import ClusterState, ClusterTarget, StepState, SubmissionState, WorkloadState
from emr_executor.core.waiting import Hold, Holds, Reason, reasons
from tests.builders import NOW, ago, make_cluster, make_limits, make_snapshot, make_submission, make_workload

SILENT = (
    "EMR shows the step RUNNING on cluster j-c1 and its wrapper has written nothing for a minute: the "
    "cluster's instance profile probably cannot write staging_uri"
)
HELD = (
    "its step on cluster j-c1 is FAILED without its wrapper's final record, as steps are of a cluster that "
    "is being lost: held at least until 12:02:00 UTC (loss_hold), and run elsewhere if the cluster ends by "
    "then"
)
LATER = NOW + timedelta(seconds=10)
NOT_LAUNCHED = Hold(why="The supplied ec2SubnetId is not valid.", until=LATER, longest_s=600.0)
NOT_ADDED = Hold(why="EMR throttled AddJobFlowSteps.", until=LATER, longest_s=60.0)
AGAIN = "the next try is at 12:00:10 UTC, then ever more rarely, at least every"


def told(
    *rows: Workload | Cluster | Submission,
    holds: Holds | None = None,
    records_unseen_s: float = 0.0,
    **changes: Any,
) -> list[Reason]:
    """The reasons of everything that waits in such a world of one pool with at most one cluster."""
    holds = holds or Holds()
    held: dict[str, Any] = {
        "launch_held": frozenset(holds.launch),
        "place_held": frozenset(holds.place),
    }
    if holds.budget_until:
        held["place_held"] = frozenset(row.cluster_uuid for row in rows if isinstance(row, Cluster))
    snapshot: Snapshot = make_snapshot(*rows, **held)
    limits = {"default": make_limits(**{"max_clusters": 1, "prefetch": 0, "slots": 2, **changes})}
    ages = ages_by_rows(snapshot.clusters, snapshot.submissions, now=snapshot.now)
    decided = plan(snapshot, limits, ages)
    if holds.away:
        from emr_executor.agent.steering import without_new

        decided = without_new(decided)
    found = reasons(
        snapshot, decided, limits, ages, holds, loss_hold_s=150.0, records_unseen_s=records_unseen_s
    )
    return list(found)


def why(*rows: Workload | Cluster | Submission, holds: Holds | None = None, **changes: Any) -> str:
    (reason,) = told(*rows, holds=holds, **changes)
    return reason.why


def test_without_a_cluster_one_is_launched() -> None:
    assert why(make_workload()) == "no cluster of its pool is up yet; a cluster is being launched"
    intended = make_cluster(state=ClusterState.INTENDED, cluster_id=None, ready_at=None)
    assert why(make_workload(), intended) == "no cluster of its pool is up yet; a cluster is being launched"


def test_a_launch_that_came_to_nothing_is_told_with_its_words_and_the_next_try() -> None:
    (reason,) = told(make_workload(), holds=Holds(launch={"default": NOT_LAUNCHED}))
    assert reason.why == (
        "no cluster of its pool is up yet, and the last launch failed: The supplied ec2SubnetId is not "
        f"valid; {AGAIN} 10 min"
    )
    assert reason.is_trouble


def busy(cluster: Cluster, count: int = 2, **changes: Any) -> list[Workload | Submission]:
    names = [f"busy{n}" for n in range(count)]
    return [
        *(make_workload(name, state=WorkloadState.SUBMITTED, submissions=1) for name in names),
        *(make_submission(name, cluster.cluster_uuid, record_mark="1", **changes) for name in names),
    ]


def test_full_clusters_are_counted_and_the_cap_is_named() -> None:
    full = make_cluster()
    assert why(make_workload(), full, *busy(full)) == (
        "every slot of its pool is taken (2 on 1 cluster); max_clusters is reached (1 of 1)"
    )
    assert why(make_workload(), full, *busy(full), max_clusters=2) == (
        "every slot of its pool is taken (2 on 1 cluster); a cluster is being launched"
    )
    drained = make_cluster(target=ClusterTarget.DRAIN)
    assert why(make_workload(), drained, *busy(drained)) == (
        "no cluster of its pool is up yet; max_clusters is reached (1 of 1, 1 of them draining)"
    )
    holds = Holds(launch={"default": NOT_LAUNCHED})
    assert why(make_workload(), full, *busy(full), max_clusters=2, holds=holds) == (
        "every slot of its pool is taken (2 on 1 cluster), and the last launch failed: The supplied "
        f"ec2SubnetId is not valid; {AGAIN} 10 min"
    )


def test_a_free_slot_that_must_not_be_used_says_whose_refusal_it_is() -> None:
    up = make_cluster()
    holds = Holds(place={up.cluster_uuid: NOT_ADDED})
    assert why(make_workload(), up, holds=holds) == (
        f"EMR takes no steps for j-c1: EMR throttled AddJobFlowSteps; {AGAIN} 1 min"
    )
    assert why(make_workload(), up, holds=Holds(budget_until=LATER)) == (
        "a slot is free, and as many steps were added as EMR takes (AddJobFlowSteps, by our own count); the "
        "next call is at 12:00:10 UTC"
    )


def test_while_emr_is_away_nothing_else_is_the_reason() -> None:
    holds = Holds(away="Amazon EMR is away")
    for rows in ([make_workload()], [make_workload(), make_cluster()]):
        assert (
            why(*rows, holds=holds) == "Amazon EMR is away: nothing is launched or placed until that is over"
        )


def test_tries_of_one_task_wait_for_each_other() -> None:
    key = make_workload().key
    first = make_workload("w1", key=key, state=WorkloadState.SUBMITTED, submissions=1)
    second, third = (make_workload(f"w{n}", key=replace(key, try_number=n)) for n in (2, 3))
    live = make_submission(record_mark="1")
    assert why(first, live, third, make_cluster()) == (
        "another try of this task still has a live step; it starts when that is over"
    )
    assert (
        why(second, third, make_cluster())
        == "a later try of this task waits too, and only that one is started"
    )


def test_a_step_that_was_refused_says_until_when_it_is_held_back() -> None:
    (reason,) = told(make_workload(not_before=LATER), make_cluster())
    assert reason.why == "EMR refused its step; it is asked again at 12:00:10 UTC"
    assert reason.news is None, "the refusal itself was told with EMR's words"


def step(**changes: Any) -> tuple[Workload, Submission]:
    mine: dict[str, Any] = {
        "state": SubmissionState.PENDING,
        "step_state": StepState.PENDING,
        "started_at": None,
        "submitted_at": ago(15),
    }
    workload = make_workload(state=WorkloadState.SUBMITTED, submissions=1)
    return workload, make_submission(**{**mine, **changes})


def test_a_step_behind_others_says_how_many_and_how_long_they_run() -> None:
    cluster = make_cluster()
    others = [
        replace(row, started_at=ago(240)) if isinstance(row, Submission) else row for row in busy(cluster)
    ]
    assert why(cluster, *others, *step()) == "behind 2 steps on cluster j-c1; the longest runs for 4 min"
    before = make_workload("w0", state=WorkloadState.SUBMITTED, submissions=1)
    queued = replace(step()[1], submission_id="w0-1", workload_id="w0", submitted_at=ago(20))
    assert [reason.why for reason in told(cluster, *others, before, queued, *step())] == [
        "behind 2 steps on cluster j-c1; the longest runs for 4 min",
        "behind 3 steps on cluster j-c1; the longest runs for 4 min",
    ]


@pytest.mark.parametrize(
    ("cluster", "submission", "sentence"),
    [
        ({}, {}, "EMR has not started the step, which is first on cluster j-c1"),
        (
            {"state": ClusterState.BOOTSTRAPPING},
            {"submitted_at": ago(90)},
            "queued on cluster j-c1, which is BOOTSTRAPPING",
        ),
        (
            {},
            {"state": SubmissionState.INTENDED, "step_id": None, "submitted_at": None},
            "no answer yet whether cluster j-c1 has the step: it is looked for by its name, then added again",
        ),
        ({}, {"cancel_asked_at": ago(5)}, "CancelSteps was asked for its step on cluster j-c1"),
        (
            {},
            {"state": SubmissionState.RUNNING, "step_state": StepState.RUNNING, "started_at": ago(61)},
            SILENT,
        ),
        (
            {},
            {"step_state": StepState.FAILED, "started_at": ago(60), "ended_at": ago(30), "record_mark": "1"},
            HELD,
        ),
        (
            {"state": ClusterState.TERMINATING},
            {"state": SubmissionState.RUNNING, "started_at": ago(60), "step_state": StepState.RUNNING},
            "cluster j-c1 is TERMINATING; the step runs elsewhere when it is over, unless it ended",
        ),
        (
            {"state": ClusterState.TERMINATED},
            {"state": SubmissionState.RUNNING, "started_at": ago(60), "step_state": StepState.RUNNING},
            "cluster j-c1 is over; EMR's last list of its steps is awaited, then it goes on",
        ),
    ],
)
def test_a_step_that_does_not_run_says_why(
    cluster: dict[str, Any], submission: dict[str, Any], sentence: str
) -> None:
    assert why(make_cluster(**cluster), *step(**submission)) == sentence


@pytest.mark.parametrize(
    "submission",
    [
        {"submitted_at": ago(5)},
        {"state": SubmissionState.RUNNING, "started_at": ago(600), "record_mark": "1"},
        {"state": SubmissionState.RUNNING, "step_state": StepState.RUNNING, "started_at": ago(59)},
        {"state": SubmissionState.RUNNING, "started_at": ago(60), "ended_at": ago(1), "wrapper_ended": True},
    ],
)
def test_what_goes_on_has_no_reason(submission: dict[str, Any]) -> None:
    assert told(make_cluster(), *step(**submission)) == []


def test_a_wrapper_is_not_called_silent_while_its_records_cannot_be_read() -> None:
    silent = step(state=SubmissionState.RUNNING, step_state=StepState.RUNNING, started_at=ago(61))
    assert len(told(make_cluster(), *silent)) == 1
    assert told(make_cluster(), *silent, records_unseen_s=30.0) == []


def test_numbers_and_times_that_move_are_no_news() -> None:
    cluster = make_cluster()
    (now,) = told(cluster, *busy(cluster), *step())
    (later,) = told(cluster, *busy(cluster, 1), *step(submitted_at=ago(400)))
    assert now.why != later.why
    assert now.news == later.news
    holds = [
        Holds(launch={"default": replace(NOT_LAUNCHED, until=LATER + timedelta(minutes=n))}) for n in (0, 9)
    ]
    words = [f"cluster j-{n} ended before it came up (RequestId: {n}ab-{n})" for n in (1, 2)]
    holds += [Holds(launch={"default": replace(NOT_LAUNCHED, why=why)}) for why in words]
    news = [told(make_workload(), holds=one)[0].news for one in holds]
    assert news[0] == news[1]
    assert news[2] == news[3] != news[0]


def test_other_words_of_emr_another_submission_and_a_loss_are_news() -> None:
    other = replace(NOT_LAUNCHED, why="Insufficient capacity")
    both = [Holds(launch={"default": one}) for one in (NOT_LAUNCHED, other)]
    assert len({told(make_workload(), holds=one)[0].news for one in both}) == 2
    assert len({told(make_workload(losses=n))[0].news for n in (0, 1)}) == 2
    workload, first = step()
    second = replace(first, submission_id="w1-2", n=2, step_id=StepId("s-2"))
    assert len({told(make_cluster(), workload, one)[0].news for one in (first, second)}) == 2

"""What people are told."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection, update

from emr_executor.core.model import ClusterId, HistoryEntry, TaskKey, WorkloadId
from emr_executor.core.states import ClusterState, SubmissionState, WorkloadState, WorkloadTarget
from emr_executor.store import queries
from emr_executor.store.history_store import append
from emr_executor.store.lease_store import LeaseRow, take_lease
from emr_executor.store.schema import STEERING, TASK_INSTANCE
from tests.store.builders import (
    NOW,
    SCHEDULER,
    a_cluster,
    a_parked,
    a_submission,
    a_workload,
    at,
    put_task_instance,
    store,
)


def line(subject: str, subject_id: str, seconds: float = 0) -> HistoryEntry:
    return HistoryEntry(
        at=at(seconds), subject=subject, subject_id=subject_id, event="e", text=f"{subject} {subject_id}"
    )


def test_an_empty_store_has_a_status(conn: Connection) -> None:
    assert queries.status(conn) == queries.Status(
        workloads=(), clusters=(), submissions=(), unread=0, steering=LeaseRow()
    )


def test_status_counts_what_lives_and_what_is_unread(conn: Connection) -> None:
    cluster, gone = a_cluster(), a_cluster(state=ClusterState.TERMINATED)
    first, second = a_parked(accepted_at=at(5)), a_parked(accepted_at=at(3))
    cancelled = a_parked(target=WorkloadTarget.CANCEL, accepted_at=at(9))
    over = a_parked(state=WorkloadState.FINISHED)
    store(conn, cluster, gone, first, second, cancelled, over)
    store(
        conn,
        a_submission(first, cluster, state=SubmissionState.RUNNING),
        a_submission(second, gone, state=SubmissionState.LOST),
    )
    take_lease(conn, STEERING, "agent-1", LeaseRow())

    def count(target: WorkloadTarget, number: int, seconds: float) -> queries.WorkloadCount:
        return queries.WorkloadCount(
            cluster_pool="default", state=WorkloadState.READY, target=target, count=number, oldest=at(seconds)
        )

    assert queries.status(conn) == queries.Status(
        workloads=(count(WorkloadTarget.CANCEL, 1, 9), count(WorkloadTarget.RUN, 2, 3)),
        clusters=(("default", "RUNNING", 1),),
        submissions=((SubmissionState.RUNNING, 1),),
        unread=1,
        steering=LeaseRow(holder="agent-1", token=1, beat=0),
    )


def test_clusters_come_with_their_load_and_the_last_that_are_over(conn: Connection) -> None:
    older, newer = a_cluster(intended_at=at(1)), a_cluster(intended_at=at(2))
    gone = [a_cluster(intended_at=at(-n), state=ClusterState.TERMINATED) for n in (1, 2, 3)]
    workloads = [a_parked() for _ in range(3)]
    store(conn, newer, older, *gone, *workloads)
    states = (SubmissionState.RUNNING, SubmissionState.PENDING, SubmissionState.COMPLETED)
    store(conn, *(a_submission(w, newer, state=s) for w, s in zip(workloads, states, strict=True)))
    up = (
        queries.ClusterLoad(cluster=older, live=0, running=0),
        queries.ClusterLoad(cluster=newer, live=2, running=1),
    )
    assert queries.clusters(conn) == up
    past = tuple(queries.ClusterLoad(cluster=c, live=0, running=0) for c in (gone[1], gone[0]))
    assert queries.clusters(conn, over=2) == (*past, *up)


def test_live_steps_name_their_task_and_cluster(conn: Connection) -> None:
    known, unknown = a_cluster(cluster_id=ClusterId("j-1")), a_cluster(state=ClusterState.INTENDED)
    first, second = a_parked(), a_parked()
    late = a_submission(first, known, intended_at=at(2))
    early = a_submission(second, unknown, intended_at=at(1))
    store(conn, known, unknown, first, second, late, early)
    store(conn, a_submission(first, known, 2, state=SubmissionState.LOST))
    assert queries.live_steps(conn, 10) == (
        queries.StepView(submission=early, key=second.key, cluster_id=None),
        queries.StepView(submission=late, key=first.key, cluster_id="j-1"),
    )
    assert len(queries.live_steps(conn, 1)) == 1


def test_workloads_are_found_by_any_part_of_their_key(conn: Connection) -> None:
    key = TaskKey(dag_id="d", task_id="t", run_id="r", try_number=1, map_index=0)
    zero, one = (
        a_parked(key=key, accepted_at=at(1)),
        a_parked(key=replace(key, map_index=1), accepted_at=at(2)),
    )
    over = a_parked(key=replace(key, run_id="r2"), accepted_at=at(3), state=WorkloadState.FINISHED)
    store(conn, zero, one, over, a_workload())
    assert queries.workloads_of(conn, dag_id="d") == (one, zero)
    assert queries.workloads_of(conn, dag_id="d", over=True, limit=2) == (over, one)
    assert queries.workloads_of(conn, dag_id="d", task_id="t", run_id="r", map_index=0) == (zero,)
    assert queries.workloads_of(conn, dag_id="d", task_id="other") == ()
    assert queries.workload(conn, zero.workload_id) == zero
    assert queries.workload(conn, WorkloadId("unknown")) is None


def test_ahead_of_counts_priority_then_age_in_the_same_pool(conn: Connection) -> None:
    mine = a_parked(accepted_at=at(5))
    store(
        conn,
        mine,
        a_parked(accepted_at=at(4)),
        a_parked(accepted_at=at(5)),
        a_parked(accepted_at=at(6)),
        a_parked(accepted_at=at(9), priority_weight=2),
        a_parked(accepted_at=at(1), priority_weight=0),
        a_parked(accepted_at=at(1), cluster_pool="large"),
        a_parked(accepted_at=at(1), state=WorkloadState.SUBMITTED),
        a_parked(accepted_at=at(1), target=WorkloadTarget.CANCEL),
    )
    assert queries.ahead_of(conn, mine) == 2


def test_submissions_come_in_their_order(conn: Connection) -> None:
    mine, cluster = a_parked(), a_cluster()
    two, one = a_submission(mine, cluster, 2), a_submission(mine, cluster, 1, state=SubmissionState.LOST)
    store(conn, two, one, a_submission(a_parked(), cluster))
    assert queries.submissions_of(conn, mine.workload_id) == (one, two)


def test_the_story_of_rows_is_theirs_alone_and_its_last_lines(conn: Connection) -> None:
    mine, cluster = a_parked(), a_cluster()
    submission = a_submission(mine, cluster)
    store(conn, submission)
    told = [
        line("cluster", cluster.cluster_uuid),
        line("workload", mine.workload_id, 1),
        line("submission", submission.submission_id, 2),
    ]
    append(conn, [told[0], line("workload", "other"), *told[1:], line("submission", mine.workload_id)])
    asked = [(entry.subject, entry.subject_id) for entry in told]
    assert queries.history_of(conn, asked) == tuple(told)
    assert queries.history_of(conn, asked, limit=2) == tuple(told[1:])
    assert queries.history_of(conn, [("cluster", cluster.cluster_uuid)]) == (told[0],)
    assert queries.history_of(conn, []) == ()
    assert [entry.at for entry in queries.recent_history(conn, 3)] == [at(1), at(2), NOW]


def test_past_steps_are_the_last_that_are_over_and_may_be_of_one_dag(conn: Connection) -> None:
    cluster = a_cluster(cluster_id=ClusterId("j-1"))
    mine, other = a_parked(losses=2), a_parked(key=TaskKey(dag_id="d", task_id="t", run_id="r", try_number=1))
    ended = [a_submission(mine, cluster, n, state=SubmissionState.LOST, intended_at=at(n)) for n in (1, 2, 3)]
    live = a_submission(other, cluster, intended_at=at(9))
    store(conn, cluster, mine, other, *ended, live)
    assert queries.past_steps(conn, 2) == tuple(
        queries.StepView(submission=submission, key=mine.key, cluster_id="j-1", losses=2)
        for submission in ended[1:]
    )
    assert queries.past_steps(conn, 2, dag_id="d") == ()
    assert [step.key for step in queries.live_steps(conn, 9, dag_id="d")] == [other.key]
    assert queries.keys_of(conn, [mine.workload_id, "unknown"]) == {mine.workload_id: mine.key}


def test_live_workloads_are_counted_by_their_scheduler(conn: Connection) -> None:
    store(
        conn, a_parked(), a_parked(), a_parked(scheduler_job_id=None), a_parked(state=WorkloadState.FINISHED)
    )
    assert queries.live_by_scheduler(conn) == {SCHEDULER: 2, None: 1}


def test_the_last_heartbeat_is_that_of_parked_tries(conn: Connection) -> None:
    parked, prepared = a_parked(), a_workload(state=WorkloadState.PREPARING)
    store(conn, parked, prepared)
    assert queries.last_heartbeat(conn) is None
    for workload, seconds in ((parked, 5), (prepared, 9)):
        put_task_instance(conn, workload, "running")
        heard = TASK_INSTANCE.c.task_id == workload.key.task_id
        conn.execute(update(TASK_INSTANCE).where(heard).values(last_heartbeat_at=at(seconds)))
    assert queries.last_heartbeat(conn) == at(5)

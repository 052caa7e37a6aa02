"""What is over goes away in batches; what lives stays."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from emr_executor.core.model import HistoryEntry
from emr_executor.core.states import ClusterState, SubmissionState, WorkloadState
from emr_executor.store.history_store import Purged, append, purge
from emr_executor.store.schema import CLUSTER, HISTORY, SUBMISSION, WORKLOAD
from tests.store.builders import NOW, a_cluster, a_parked, a_submission, at, store

DAY_S = 86_400.0


def counts(conn: Connection) -> list[int]:
    tables = (WORKLOAD, SUBMISSION, CLUSTER, HISTORY)
    return [conn.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]


def entry(seconds: float) -> HistoryEntry:
    return HistoryEntry(at=at(seconds), subject="agent", subject_id="a", event="started", text="")


def test_only_what_has_been_over_for_long_is_deleted(conn: Connection) -> None:
    old_cluster = a_cluster(state=ClusterState.TERMINATED, ended_at=at(-2 * DAY_S))
    needed_cluster = a_cluster(state=ClusterState.TERMINATED, ended_at=at(-2 * DAY_S))
    live_cluster = a_cluster(intended_at=at(-9 * DAY_S))
    old = a_parked(state=WorkloadState.FINISHED, finished_at=at(-2 * DAY_S))
    recent = a_parked(state=WorkloadState.CANCELLED, finished_at=at(-DAY_S / 2))
    parked = a_parked(accepted_at=at(-9 * DAY_S))
    store(conn, old_cluster, needed_cluster, live_cluster, old, recent, parked)
    store(
        conn,
        a_submission(old, old_cluster, state=SubmissionState.COMPLETED),
        a_submission(recent, needed_cluster, state=SubmissionState.CANCELLED),
        a_submission(parked, live_cluster, state=SubmissionState.RUNNING),
    )
    append(conn, [entry(-2 * DAY_S), entry(-1)])
    assert purge(conn, NOW, DAY_S) == Purged(workloads=1, submissions=1, clusters=1, history=1, more=False)
    assert counts(conn) == [2, 2, 2, 1]


def test_a_batch_is_bounded_and_says_that_there_is_more(conn: Connection) -> None:
    store(conn, *(a_parked(state=WorkloadState.FINISHED, finished_at=at(-9)) for _ in range(5)))
    append(conn, [entry(-9) for _ in range(3)])
    sizes = []
    while True:
        purged = purge(conn, NOW, 1.0, 2)
        sizes.append((purged.workloads, purged.history))
        if not purged.more:
            break
    assert sizes == [(2, 2), (2, 1), (1, 0)]
    assert counts(conn) == [0, 0, 0, 0]

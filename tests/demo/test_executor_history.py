"""What is read of the executor's tables, from a database as the executor writes it."""

from __future__ import annotations

from pathlib import Path

from emr_executor.core.model import HistoryEntry, TaskKey
from emr_executor.core.states import SubmissionState, WorkloadState
from emr_executor.store.dialect import engine_for
from emr_executor.store.history_store import append
from emr_executor.store.schema import AIRFLOW, METADATA
from tests.demo_run.executor_history import ExecutorHistory, OurTables
from tests.store.builders import NOW, a_cluster, a_parked, a_submission, a_workload, store


def line(subject: str, subject_id: str, event: str, text: str) -> HistoryEntry:
    return HistoryEntry(at=NOW, subject=subject, subject_id=subject_id, event=event, text=text)


def test_the_queue_the_story_and_the_losses_are_read(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'airflow.db'}"
    engine = engine_for(url)
    METADATA.create_all(engine)
    AIRFLOW.create_all(engine)
    key = TaskKey(dag_id="salaries", task_id="month", run_id="r", try_number=1, map_index=3)
    mine, cluster = a_parked(key=key, state=WorkloadState.SUBMITTED), a_cluster()
    lost = a_submission(mine, cluster, state=SubmissionState.LOST, cause="cluster j-1 ended")
    again = a_submission(mine, cluster, 2, state=SubmissionState.COMPLETED)
    with engine.begin() as conn:
        store(conn, cluster, mine, a_parked(), a_workload(), lost, again)
        append(
            conn,
            [
                line("submission", lost.submission_id, "running", "running as s-1"),
                line("submission", lost.submission_id, "lost", "lost: cluster j-1 ended"),
                line("workload", mine.workload_id, "lost", "cluster j-1 ended; it will run again"),
                line("cluster", cluster.cluster_uuid, "running", "cluster j-2 is RUNNING"),
            ],
        )
    engine.dispose()
    tables, at = OurTables(url), NOW.timestamp()
    assert tables.now() == ExecutorHistory(
        preparing=1,
        waiting=1,
        submitted=1,
        lines=(
            (at, "month[3]: running as s-1"),
            (at, "month[3]: cluster j-1 ended; it will run again"),
            (at, "cluster j-2 is RUNNING"),
        ),
    )
    assert tables.losses("salaries") == {"month[3]": ["cluster j-1 ended"]}
    assert tables.losses("another") == {}

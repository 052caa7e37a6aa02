"""What live rows refer to, on both databases: nothing of it may be missed, whoever wrote the row."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Connection, update

from emr_executor.core.model import StepPlan, SubmissionId
from emr_executor.core.states import SubmissionState, WorkloadState
from emr_executor.store.clauses import OVER_WORKLOAD_STATES
from emr_executor.store.reference_store import live_submissions, named_by_live_steps
from emr_executor.store.schema import SUBMISSION, WORKLOAD
from tests.store.builders import a_cluster, a_parked, a_submission, a_workload, store


def numbers(text: str) -> set[str]:
    return set(re.findall(r"object-\d+", text))


def step(n: int) -> StepPlan:
    return StepPlan(command=("ä", f"s3://b/object-{n}"), env={"E": f"object-{n}1"}, spec_uri=f"object-{n}2")


@pytest.mark.parametrize("state", WorkloadState)
def test_a_step_counts_until_its_workload_is_over(conn: Connection, state: WorkloadState) -> None:
    store(conn, a_workload(), a_parked(state=state, step=step(7)))
    found = named_by_live_steps(conn, numbers)
    assert found == (set() if state in OVER_WORKLOAD_STATES else {"object-7", "object-71", "object-72"})


def test_steps_of_other_releases_count_in_full(conn: Connection) -> None:
    newer = a_parked(step=step(1))
    store(conn, newer)
    written = {"words": ["object-8"], "new": {"place": "s3://b/object-9"}}
    conn.execute(update(WORKLOAD).values(state="HIBERNATING", step=written))
    assert named_by_live_steps(conn, numbers) == {"object-8", "object-9"}


def test_all_are_read_however_many_go_into_one_statement(conn: Connection) -> None:
    store(conn, *(a_parked(step=step(n)) for n in range(100, 125)))
    for at_once in (1, 24, 25, 1000):
        assert len(named_by_live_steps(conn, numbers, at_once)) == 3 * 25


def test_a_submission_lives_while_it_or_its_workload_does(conn: Connection) -> None:
    live, over = a_parked(), a_parked(state=WorkloadState.FINISHED)
    cluster = a_cluster()
    rows = {
        "lost, runs again": a_submission(live, cluster, 1, state=SubmissionState.LOST),
        "runs": a_submission(live, cluster, 2, state=SubmissionState.RUNNING),
        "over": a_submission(over, cluster, 1, state=SubmissionState.COMPLETED),
        "not settled": a_submission(over, cluster, 2, state=SubmissionState.RUNNING),
        "of another release": a_submission(over, cluster, 3, state=SubmissionState.COMPLETED),
    }
    store(conn, live, over, cluster, *rows.values())
    newer = rows["of another release"].submission_id
    conn.execute(update(SUBMISSION).where(SUBMISSION.c.submission_id == newer).values(state="SUSPENDED"))
    asked = {row.submission_id for row in rows.values()} | {SubmissionId("purged-1")}
    assert live_submissions(conn, asked) == {
        row.submission_id for name, row in rows.items() if name != "over"
    }
    assert live_submissions(conn, ()) == set()

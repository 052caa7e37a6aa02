"""Rows of other releases: read as well as they can be, and never anybody else's problem."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Connection, Table, select, update
from structlog.testing import capture_logs

from emr_executor.core.model import StepOutcome, StepPlan, Submission
from emr_executor.core.states import (
    OVER_CLUSTER_STATES,
    ClusterState,
    ClusterTarget,
    SubmissionState,
    Verdict,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.store import queries
from emr_executor.store.change_store import Change, apply
from emr_executor.store.clauses import OVER_SUBMISSION_STATES, is_none_of
from emr_executor.store.lease_store import read_lease, take_lease
from emr_executor.store.phase_store import claim
from emr_executor.store.rows import from_json, json_of
from emr_executor.store.schema import CLUSTER, STEERING, SUBMISSION, WORKLOAD
from emr_executor.store.snapshot_store import snapshot
from tests.store.builders import ME, NOW, STEP, a_cluster, a_parked, a_submission, a_workload, store, stored


def set_row(conn: Connection, table: Table, key: str, **columns: Any) -> None:
    (its_key,) = table.primary_key.columns
    assert conn.execute(update(table).where(its_key == key).values(columns)).rowcount == 1


def test_a_step_and_an_outcome_of_another_release_are_read() -> None:
    step, outcome = json_of("step", STEP), json_of("outcome", StepOutcome(verdict=Verdict.LOST))
    assert step is not None
    assert outcome is not None
    assert from_json("step", step | {"cores": 4}) == STEP
    assert from_json("step", {"command": ["x"]}) == StepPlan(command=("x",))
    assert from_json("outcome", outcome | {"cost": "0.12"}) == StepOutcome(verdict=Verdict.LOST)
    assert from_json("outcome", {"verdict": "LOST"}) == StepOutcome(verdict=Verdict.LOST)


def test_a_state_that_is_not_known_counts_as_alive_and_in_quarantine(conn: Connection) -> None:
    workload, cluster = a_parked(state=WorkloadState.SUBMITTED), a_cluster()
    submission = a_submission(workload, cluster)
    store(conn, workload, cluster, submission)
    set_row(conn, SUBMISSION, submission.submission_id, state="SUSPENDED")
    set_row(conn, CLUSTER, cluster.cluster_uuid, state="HIBERNATING")
    found = snapshot(conn, NOW, 10)
    (of_submission,), (of_cluster,) = found.submissions, found.clusters
    assert (of_submission.state, of_cluster.state) == (SubmissionState.RUNNING, ClusterState.RUNNING)
    assert "state is 'SUSPENDED'" in (of_submission.quarantine or "")
    assert "state is 'HIBERNATING'" in (of_cluster.quarantine or "")
    assert [w.workload_id for w in found.workloads] == [workload.workload_id]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"target": "PAUSE"}, "target is 'PAUSE'"),
        ({"state": "HELD"}, "state is 'HELD'"),
        ({"step": {"argv": ["x"]}}, "step is broken (command: Field required)"),
        ({"step": ["x"]}, "step is broken (Input should be a dictionary"),
        ({"step": {"command": None}}, "step is broken (command: Input should be a valid tuple)"),
        ({"outcome": {"verdict": "POSTPONED"}}, "outcome is broken (verdict: Input should be 'SUCCEEDED'"),
        (
            {"outcome": {"verdict": "LOST", "ended_at": "yesterday"}},
            "outcome is broken (ended_at: Input should",
        ),
    ],
)
def test_a_workload_that_cannot_be_read_says_why_and_is_told_once(
    conn: Connection, columns: dict[str, Any], said: str
) -> None:
    workload = a_parked()
    store(conn, workload)
    set_row(conn, WORKLOAD, workload.workload_id, **columns)
    with capture_logs() as logs:
        first, second = (queries.workload(conn, workload.workload_id) for _ in range(2))
    assert first == second
    assert first is not None
    assert said in (first.quarantine or "")
    assert workload.workload_id in (first.quarantine or "")
    assert [entry["event"] for entry in logs] == ["row_unreadable"]


def test_a_quarantine_that_is_stored_stays_as_it_is(conn: Connection) -> None:
    cluster = a_cluster(quarantine="a bug of ours")
    store(conn, cluster)
    set_row(conn, CLUSTER, cluster.cluster_uuid, target="REST")
    assert snapshot(conn, NOW, 10).clusters == (replace(cluster, target=ClusterTarget.KEEP),)


def test_all_other_rows_go_on(conn: Connection) -> None:
    good, bad = a_parked(priority_weight=1), a_parked(priority_weight=9)
    store(conn, good, bad)
    set_row(conn, WORKLOAD, bad.workload_id, step={"v": 2})
    found = snapshot(conn, NOW, 10)
    assert [w.workload_id for w in found.workloads] == [good.workload_id]
    assert queries.status(conn).workloads[0].count == 2


def test_nothing_that_stands_in_is_written_back(conn: Connection) -> None:
    workload, cluster = a_parked(state=WorkloadState.SUBMITTED), a_cluster()
    submission = a_submission(workload, cluster)
    store(conn, workload, cluster, submission)
    set_row(conn, SUBMISSION, submission.submission_id, step_state="PAUSED")
    token = take_lease(conn, STEERING, "me", read_lease(conn, STEERING))
    assert token is not None
    (read,) = snapshot(conn, NOW, 10).submissions
    (written,) = apply(conn, token, [Change(old=read, new=replace(read, output_chunks=3))], [])
    assert isinstance(written, Submission)
    row = conn.execute(select(SUBMISSION)).mappings().one()
    assert (row["step_state"], row["quarantine"], row["output_chunks"]) == ("PAUSED", None, 3)


@pytest.mark.parametrize("kind", [WorkloadState.PREPARING, WorkloadState.FINISHING])
def test_a_broken_row_does_not_hold_up_the_line_for_a_phase(conn: Connection, kind: WorkloadState) -> None:
    waiting = {
        WorkloadState.PREPARING: a_workload,
        WorkloadState.FINISHING: lambda **changes: a_parked(
            state=WorkloadState.FINISHABLE, outcome=StepOutcome(verdict=Verdict.SUCCEEDED), **changes
        ),
    }[kind]
    broken, good = [waiting(priority_weight=9) for _ in range(3)], waiting(priority_weight=1)
    store(conn, *broken, good)
    for workload in broken:
        set_row(conn, WORKLOAD, workload.workload_id, outcome={"verdict": "POSTPONED"})
    tokens = (f"t{n}" for n in count(1))

    def claimed() -> list[str]:
        found = claim(conn, kind, 2, ME, now=NOW, new_token=lambda: next(tokens))
        return [workload.workload_id for workload in found]

    assert [claimed(), claimed()] == [[], [good.workload_id]]
    for workload in broken:
        after = stored(conn, workload.workload_id)
        assert (after.state, after.claim_token, after.version) == (workload.state, None, workload.version + 1)
        assert "outcome is broken (verdict" in (after.quarantine or "")


@pytest.mark.parametrize("over", [OVER_SUBMISSION_STATES, tuple(OVER_CLUSTER_STATES)])
def test_ranges_between_states_are_all_states_but_those(conn: Connection, over: tuple[str, ...]) -> None:
    names = {*SubmissionState, *ClusterState, "", "A", "a", "_", "ZZ", "CANCELLED_", "TERMINATED_SLOWLY", "é"}
    cluster = a_cluster()
    for name in sorted(names):
        another = a_cluster()
        store(conn, another)
        set_row(conn, CLUSTER, another.cluster_uuid, state=name, reason=name)
    store(conn, cluster)
    found = conn.execute(select(CLUSTER.c.reason).where(is_none_of(CLUSTER.c.state, over)))
    assert set(found.scalars()) - {None} == {str(name) for name in names} - {str(name) for name in over}


def test_people_see_a_state_that_only_another_release_knows(conn: Connection) -> None:
    workload, cluster = a_parked(), a_cluster()
    store(conn, workload, cluster)
    set_row(conn, WORKLOAD, workload.workload_id, target="PAUSE")
    set_row(conn, CLUSTER, cluster.cluster_uuid, state="HIBERNATING")
    status = queries.status(conn)
    assert [w.target for w in status.workloads] == ["PAUSE"]
    assert status.clusters == (("default", "HIBERNATING", 1),)
    assert queries.clusters(conn)[0].cluster.quarantine is not None
    assert WorkloadTarget.RUN not in [w.target for w in status.workloads]

"""Values come back from the database exactly as they went in."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, insert, select
from sqlalchemy.exc import StatementError

from emr_executor.core.model import (
    Cluster,
    HistoryEntry,
    Identity,
    StepOutcome,
    StepPlan,
    Submission,
    TaskKey,
    Workload,
)
from emr_executor.core.states import (
    ClusterState,
    ClusterTarget,
    StepState,
    SubmissionState,
    Verdict,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.store.history_store import append
from emr_executor.store.rows import (
    cluster_from,
    history_entry_from,
    mapping_of,
    submission_from,
    workload_from,
)
from emr_executor.store.schema import CLUSTER, HISTORY, SUBMISSION, WORKLOAD
from tests.store.builders import NOW, a_cluster, a_parked, a_submission, a_workload, store, stored

words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
names = st.text("abcdefghij-é", min_size=1, max_size=12)
counts = st.integers(0, 2**31 - 1)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
maybe_moments = st.none() | moments
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
steps = st.builds(
    StepPlan,
    command=st.lists(st.text(max_size=8), max_size=4).map(tuple),
    env=st.dictionaries(words, words, max_size=3),
    spec_uri=words,
    wrapper_uri=words,
    execution_timeout_s=st.none() | st.floats(0, 1e9),
    translator=words,
    rendered_fields=json_objects,
)
outcomes = st.builds(
    StepOutcome,
    verdict=st.sampled_from(Verdict),
    cause=st.text(max_size=8),
    exit_code=st.none() | st.integers(-255, 255),
    cluster_id=st.none() | names,
    step_id=st.none() | names,
    submissions=counts,
    started_at=maybe_moments,
    ended_at=maybe_moments,
)
workloads = st.builds(
    Workload,
    workload_id=st.uuids().map(str),
    key=st.builds(
        TaskKey, dag_id=names, task_id=names, run_id=names, try_number=counts, map_index=st.integers(-1, 1000)
    ),
    cluster_pool=names,
    queue=names,
    priority_weight=st.integers(-(2**31), 2**31 - 1),
    accepted_at=moments,
    scheduler_job_id=st.none() | counts,
    workload=json_objects,
    executor_config=json_objects,
    log_path=st.none() | words,
    state=st.sampled_from(WorkloadState),
    target=st.sampled_from(WorkloadTarget),
    version=counts,
    claim_token=st.none() | names,
    claim_beat=counts,
    identity=st.none() | st.builds(Identity, hostname=names, unixname=names, pid=counts),
    started_at=maybe_moments,
    step=st.none() | steps,
    ready_at=maybe_moments,
    submissions=counts,
    losses=counts,
    phase_attempts=counts,
    not_before=maybe_moments,
    outcome=st.none() | outcomes,
    cancel_reason=st.none() | words,
    airflow_state=st.none() | names,
    finished_at=maybe_moments,
    quarantine=st.none() | words,
)
submissions = st.builds(
    Submission,
    submission_id=st.uuids().map(lambda u: f"{u}-1"),
    workload_id=st.uuids().map(str),
    n=counts,
    cluster_uuid=st.uuids().map(str),
    state=st.sampled_from(SubmissionState),
    intended_at=moments,
    version=counts,
    step_id=st.none() | names,
    step_state=st.none() | st.sampled_from(StepState),
    submitted_at=maybe_moments,
    started_at=maybe_moments,
    ended_at=maybe_moments,
    cancel_asked_at=maybe_moments,
    exit_code=st.none() | st.integers(-255, 255),
    timed_out=st.booleans(),
    wrapper_ended=st.booleans(),
    wrapper_reason=words,
    cause=words,
    output_chunks=counts,
    record_mark=st.none() | names,
    quarantine=st.none() | words,
)
clusters = st.builds(
    Cluster,
    cluster_uuid=st.uuids().map(str),
    cluster_pool=names,
    name=names,
    template_hash=names,
    slots=counts,
    state=st.sampled_from(ClusterState),
    intended_at=moments,
    target=st.sampled_from(ClusterTarget),
    version=counts,
    cluster_id=st.none() | names,
    ready_at=maybe_moments,
    idle_since=maybe_moments,
    end_asked_at=maybe_moments,
    ended_at=maybe_moments,
    reason_code=st.none() | names,
    reason=st.none() | words,
    quarantine=st.none() | words,
)
KINDS = [
    pytest.param(workloads, WORKLOAD, workload_from, id="workload"),
    pytest.param(submissions, SUBMISSION, submission_from, id="submission"),
    pytest.param(clusters, CLUSTER, cluster_from, id="cluster"),
]


@pytest.mark.parametrize(("values", "table", "from_row"), KINDS)
def test_values_come_back_as_they_went_in(engine: Engine, values: Any, table: Any, from_row: Any) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(value=values)
    def check(value: Any) -> None:
        with engine.connect() as conn:
            store(conn, value)
            assert from_row(conn.execute(select(table)).mappings().one()) == value
            conn.rollback()

    check()


@pytest.mark.parametrize(
    ("kind", "table", "without_field"),
    [(Workload, WORKLOAD, {"reported"}), (Submission, SUBMISSION, set()), (Cluster, CLUSTER, set())],
)
def test_each_field_has_its_columns_and_each_column_its_field(
    kind: Any, table: Any, without_field: set[str]
) -> None:
    samples = {
        Workload: a_workload(),
        Submission: a_submission(a_workload(), a_cluster()),
        Cluster: a_cluster(),
    }
    assert set(mapping_of(kind).columns(samples[kind])) == {c.name for c in table.c} - without_field


@pytest.mark.parametrize("kind", [Workload, Submission, Cluster])
def test_a_value_that_did_not_change_has_no_changed_columns(kind: Any) -> None:
    samples = {
        Workload: a_parked(),
        Submission: a_submission(a_workload(), a_cluster()),
        Cluster: a_cluster(),
    }
    value = samples[kind]
    assert mapping_of(kind).changed_columns(value, dataclasses.replace(value, version=9)) == {}


def test_only_columns_of_changed_fields_are_written() -> None:
    old = a_workload()
    new = dataclasses.replace(old, identity=Identity(hostname="h", unixname="u", pid=1), submissions=1)
    assert mapping_of(Workload).changed_columns(old, new) == {
        "hostname": "h",
        "unixname": "u",
        "pid": 1,
        "submissions": 1,
    }


def test_history_comes_back(conn: Connection) -> None:
    entry = HistoryEntry(at=NOW, subject="cluster", subject_id="c", event="launched", text="for 3 steps")
    append(conn, [entry])
    append(conn, [])
    assert history_entry_from(conn.execute(select(HISTORY)).mappings().one()) == entry


def test_other_time_zones_come_back_as_the_same_moment_in_utc(conn: Connection) -> None:
    workload = a_workload(accepted_at=NOW.astimezone(timezone(timedelta(hours=5, minutes=30))))
    store(conn, workload)
    found = stored(conn, workload.workload_id).accepted_at
    assert found == NOW
    assert found.tzinfo is UTC


def test_a_time_without_a_zone_is_refused(conn: Connection) -> None:
    with pytest.raises(StatementError, match="without a time zone"):
        store(conn, a_workload(accepted_at=NOW.replace(tzinfo=None)))


def test_text_that_databases_refuse_is_cleaned(conn: Connection) -> None:
    cluster = a_cluster(reason="a\x00b\ud800c")
    conn.execute(insert(CLUSTER), [mapping_of(Cluster).columns(cluster)])
    assert conn.execute(select(CLUSTER.c.reason)).scalar_one() == "a\ufffdb?c"

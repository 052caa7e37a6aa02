"""Values for tests: every builder gives a valid value and takes what the test cares about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from emr_executor.core.fact_ages import ages_by_rows
from emr_executor.core.model import (
    Cluster,
    ClusterId,
    ClusterPoolLimits,
    ClusterUuid,
    Snapshot,
    StepId,
    StepPlan,
    Submission,
    SubmissionId,
    TaskKey,
    Workload,
    WorkloadId,
    submission_id_of,
)
from emr_executor.core.plan import Plan, plan
from emr_executor.core.states import ClusterState, SubmissionState, WorkloadState

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OLD_WRAPPER = (
    "s3://b/wrapper/2026-03-01/4d45c319c405d4404c8d00215d158ff41c91c6dc05186b395a54ad12e2dbfe8c/w.py"
)
"""That of commit f99b3ad: it claims nothing, and writes output without the cluster in its key."""


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def make_workload(name: str = "w1", **changes: Any) -> Workload:
    values: dict[str, Any] = {
        "workload_id": WorkloadId(name),
        "key": TaskKey(dag_id="d", task_id=name, run_id="r", try_number=1),
        "cluster_pool": "default",
        "queue": "emr",
        "priority_weight": 1,
        "accepted_at": ago(60),
        "scheduler_job_id": 1,
        "workload": {},
        "state": WorkloadState.READY,
        "ready_at": ago(30),
        "step": StepPlan(command=("spark-submit",), spec_uri="s3://b/s", wrapper_uri="s3://b/w"),
    }
    return Workload(**{**values, **changes})


def make_cluster(name: str = "c1", **changes: Any) -> Cluster:
    values: dict[str, Any] = {
        "cluster_uuid": ClusterUuid(name),
        "cluster_pool": "default",
        "name": f"airflow-emr/dep/default/{name}",
        "template_hash": "t1",
        "slots": 2,
        "state": ClusterState.WAITING,
        "intended_at": ago(600),
        "cluster_id": ClusterId(f"j-{name}"),
        "ready_at": ago(300),
    }
    return Cluster(**{**values, **changes})


def make_submission(workload: str = "w1", cluster: str = "c1", n: int = 1, **changes: Any) -> Submission:
    values: dict[str, Any] = {
        "submission_id": SubmissionId(submission_id_of(WorkloadId(workload), n)),
        "workload_id": WorkloadId(workload),
        "n": n,
        "cluster_uuid": ClusterUuid(cluster),
        "state": SubmissionState.RUNNING,
        "intended_at": ago(20),
        "step_id": StepId(f"s-{workload}"),
        "started_at": ago(10),
    }
    return Submission(**{**values, **changes})


def make_limits(**changes: Any) -> ClusterPoolLimits:
    values: dict[str, Any] = {
        "cluster_pool": "default",
        "max_clusters": 2,
        "min_clusters": 0,
        "idle_timeout_s": 300.0,
        "slots": 2,
        "prefetch": 1,
        "max_submissions": 3,
        "queue_timeout_s": None,
        "template_hash": "t1",
        "launch_unknown_s": 60.0,
    }
    return ClusterPoolLimits(**{**values, **changes})


def make_snapshot(*rows: Workload | Cluster | Submission, **changes: Any) -> Snapshot:
    workloads = tuple(row for row in rows if isinstance(row, Workload))
    values: dict[str, Any] = {
        "now": NOW,
        "clusters": tuple(row for row in rows if isinstance(row, Cluster)),
        "submissions": tuple(row for row in rows if isinstance(row, Submission)),
        "workloads": workloads,
    }
    return Snapshot(**{**values, **changes})


def named(cases: dict[str, tuple[Any, ...]]) -> list[Any]:
    """Values for ``pytest.mark.parametrize`` from the sentence that names each case."""
    return [pytest.param(*values, id=name) for name, values in cases.items()]


def decide(world: Snapshot, **limits: Any) -> Plan:
    """The plan for a world of one cluster pool, by the rows' own times."""
    ages = ages_by_rows(world.clusters, world.submissions, now=world.now)
    return plan(world, {"default": make_limits(**limits)}, ages)

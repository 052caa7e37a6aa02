"""What an observation changes: pure folds of news into a submission or a cluster.

News comes late, doubled and out of order (S3 listings, ListSteps pages, ListClusters). A fold is
therefore monotone: applying the same or older news again changes nothing, and an end that was
seen is never unseen. No fold decides anything; ``core.settle`` and ``core.plan`` do.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from emr_executor.core.cause import cause_of
from emr_executor.core.model import Cluster, ObservedCluster, ObservedStep, StepRecord, Submission
from emr_executor.core.states import (
    OVER_CLUSTER_STATES,
    TERMINAL_STEP_STATES,
    ClusterState,
    RecordPhase,
    StepState,
    SubmissionState,
)

_RANK = {
    ClusterState.INTENDED: 0,
    ClusterState.STARTING: 1,
    ClusterState.BOOTSTRAPPING: 2,
    ClusterState.RUNNING: 3,
    ClusterState.WAITING: 3,
    ClusterState.TERMINATING: 4,
    ClusterState.TERMINATED: 5,
    ClusterState.TERMINATED_WITH_ERRORS: 5,
    ClusterState.NEVER_LAUNCHED: 5,
}
"""A cluster only ever moves to the same rank or a higher one (EMR Management Guide, cluster lifecycle)."""


def observe_step(submission: Submission, step: ObservedStep, *, now: datetime) -> Submission:
    """The submission after ListSteps showed its step."""
    if not submission.is_live:
        return submission
    known_over = submission.step_state in TERMINAL_STEP_STATES
    step_state = submission.step_state if known_over else step.state
    over = step_state in TERMINAL_STEP_STATES
    started = submission.started_at or step.started_at
    if started is None and step.state is StepState.RUNNING:
        started = now
    running = over or started is not None or submission.state is SubmissionState.RUNNING
    return replace(
        submission,
        step_id=submission.step_id or step.step_id,
        step_state=step_state,
        state=SubmissionState.RUNNING if running else SubmissionState.PENDING,
        submitted_at=submission.submitted_at or step.created_at or now,
        started_at=started,
        ended_at=submission.ended_at or (now if over else None),
        cause=submission.cause or (step.failure if over else ""),
    )


def observe_record(submission: Submission, record: StepRecord, *, now: datetime) -> Submission:
    """The submission after its wrapper's record was read. Output chunks are counted by the reader."""
    if not submission.is_live or submission.wrapper_ended:
        return replace(submission, record_mark=record.mark)
    if record.phase is not RecordPhase.ENDED:
        return replace(
            submission,
            record_mark=record.mark,
            state=SubmissionState.RUNNING,
            started_at=submission.started_at or record.at,
        )
    failed = record.exit_code != 0
    return replace(
        submission,
        record_mark=record.mark,
        state=SubmissionState.RUNNING,
        started_at=submission.started_at or record.at,
        ended_at=submission.ended_at or now,
        wrapper_ended=True,
        wrapper_reason=record.reason,
        exit_code=record.exit_code,
        timed_out=submission.timed_out or record.reason == "timeout",
        cause=(cause_of(record.tail, record.exit_code) if failed else "") or submission.cause,
    )


def observe_cluster(cluster: Cluster, seen: ObservedCluster, *, now: datetime) -> Cluster:
    """The cluster after ListClusters or DescribeCluster showed it."""
    if _RANK[seen.state] < _RANK[cluster.state]:
        return replace(cluster, cluster_id=cluster.cluster_id or seen.cluster_id)
    over = seen.state in OVER_CLUSTER_STATES
    ready = seen.ready_at
    if ready is None and seen.state in (ClusterState.RUNNING, ClusterState.WAITING):
        ready = now
    return replace(
        cluster,
        cluster_id=cluster.cluster_id or seen.cluster_id,
        state=seen.state,
        ready_at=cluster.ready_at or ready,
        ended_at=cluster.ended_at or ((seen.ended_at or now) if over else None),
        reason_code=seen.reason_code or cluster.reason_code,
        reason=seen.reason or cluster.reason,
    )


def observe_idleness(cluster: Cluster, *, live_submissions: int, now: datetime) -> Cluster:
    """The cluster with ``idle_since`` kept: set when it is up without a live submission, else cleared."""
    up = cluster.state in (ClusterState.RUNNING, ClusterState.WAITING)
    if not up or live_submissions:
        return replace(cluster, idle_since=None) if cluster.idle_since else cluster
    return cluster if cluster.idle_since else replace(cluster, idle_since=now)

"""The immutable values that every part passes around. Times are aware UTC datetimes; ``_s`` are seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NewType

from emr_executor.core.states import (
    LIVE_SUBMISSION_STATES,
    ClusterState,
    ClusterTarget,
    RecordPhase,
    StepState,
    SubmissionState,
    Verdict,
    WorkloadState,
    WorkloadTarget,
)

WorkloadId = NewType("WorkloadId", str)
"""The task instance's UUID as text: one workload for each task instance (``ti.id``)."""
SubmissionId = NewType("SubmissionId", str)
"""``<workload_id>-<n>``, n from 1: known before EMR is called, so a lost answer can be looked up."""
ClusterUuid = NewType("ClusterUuid", str)
"""Ours, made before RunJobFlow; the last part of the cluster's Name."""
ClusterId = NewType("ClusterId", str)
"""EMR's ``j-...``."""
StepId = NewType("StepId", str)
"""EMR's ``s-...``."""


def submission_id_of(workload_id: WorkloadId, n: int) -> SubmissionId:
    """The id of a workload's n-th submission, n from 1."""
    return SubmissionId(f"{workload_id}-{n}")


AllTries = tuple[str, str, str, int]
"""What all tries of a task instance have in common: ``dag_id``, ``task_id``, ``run_id``, ``map_index``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskKey:
    """Airflow's TaskInstanceKey as plain values."""

    dag_id: str
    task_id: str
    run_id: str
    try_number: int
    map_index: int = -1

    @property
    def text(self) -> str:
        """``dag.task[map_index] try n`` for people."""
        mapped = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.dag_id}.{self.task_id}{mapped} try {self.try_number}"

    @property
    def without_try(self) -> AllTries:
        """The same for all tries of the task instance; asked of everything parked in every tick."""
        return self.dag_id, self.task_id, self.run_id, self.map_index


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Hostname, unixname and pid under which Airflow knows the try; fixed for its life.

    ``ti_run`` and ``ti_heartbeat`` of Airflow's Execution API match on them.
    """

    hostname: str
    unixname: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """A rendered task as one EMR step. Holds no secret: it is stored, sent to S3 and shown.

    command: argv that the step wrapper runs on the primary node
    env: extra environment of that process
    spec_uri: the S3 object that holds command and env for the wrapper (content-addressed)
    wrapper_uri: the S3 object of the step wrapper's script (content-addressed)
    execution_timeout_s: the task's ``execution_timeout``; None means none
    rendered_fields: the task's template fields as first rendered, those that JSON can hold
    """

    command: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    spec_uri: str = ""
    wrapper_uri: str = ""
    execution_timeout_s: float | None = None
    translator: str = ""
    rendered_fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """How a workload's step ended, for the finish phase and for people.

    cause: one line; the error's own text where one was found
    """

    verdict: Verdict
    cause: str = ""
    exit_code: int | None = None
    cluster_id: ClusterId | None = None
    step_id: StepId | None = None
    submissions: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A task instance that we accepted.

    workload: Airflow's ExecuteTask as JSON without its token
    version: grows with every write; writes are guarded by it
    claim_token, claim_beat: who runs the current phase, and its sign of life
    submissions: how many submissions there have been; the next one is this plus 1
    losses: how many of them died with their cluster; bounded by the pool's max_submissions
    not_before: no phase and no placement earlier than this
    cancel_reason: why target is CANCEL
    airflow_state: what Airflow was told of the try; before that, what a phase was about to tell it
    quarantine: what went wrong with this row, and under it the row's story; None: nothing did
    """

    workload_id: WorkloadId
    key: TaskKey
    cluster_pool: str
    queue: str
    priority_weight: int
    accepted_at: datetime
    scheduler_job_id: int | None
    workload: dict[str, Any]
    executor_config: dict[str, Any] = field(default_factory=dict)
    log_path: str | None = None
    state: WorkloadState = WorkloadState.ACCEPTED
    target: WorkloadTarget = WorkloadTarget.RUN
    version: int = 0
    claim_token: str | None = None
    claim_beat: int = 0
    identity: Identity | None = None
    started_at: datetime | None = None
    step: StepPlan | None = None
    ready_at: datetime | None = None
    submissions: int = 0
    losses: int = 0
    phase_attempts: int = 0
    not_before: datetime | None = None
    outcome: StepOutcome | None = None
    cancel_reason: str | None = None
    airflow_state: str | None = None
    finished_at: datetime | None = None
    quarantine: str | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether it has a step that is to run."""
        is_wanted = self.target is WorkloadTarget.RUN and self.quarantine is None
        return is_wanted and self.state is WorkloadState.SUBMITTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One time a workload was put on a cluster as a step.

    intended_at: when its last call was decided
    submitted_at: when EMR had it; of one that was sent again, when it was sent first
    started_at, ended_at: of a step that is over both by one clock: its wrapper's, or EMR's
    wrapper_ended: the wrapper wrote its final record; wrapper_reason is empty when the command
        ended by itself (see ``StepRecord.reason``)
    output_chunks: chunks of driver output already copied to the task log
    record_mark: the S3 ETag of the last wrapper record applied
    cause: one line on why it failed, was cancelled or lost
    quarantine: as of a workload
    """

    submission_id: SubmissionId
    workload_id: WorkloadId
    n: int
    cluster_uuid: ClusterUuid
    state: SubmissionState
    intended_at: datetime
    version: int = 0
    step_id: StepId | None = None
    step_state: StepState | None = None
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_asked_at: datetime | None = None
    exit_code: int | None = None
    timed_out: bool = False
    wrapper_ended: bool = False
    wrapper_reason: str = ""
    cause: str = ""
    output_chunks: int = 0
    record_mark: str | None = None
    quarantine: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether EMR may have an active step for it."""
        return self.state in LIVE_SUBMISSION_STATES

    @property
    def was_sent_again(self) -> bool:
        """Whether EMR may have several steps for it. A single one does anything: the wrapper claims it."""
        return self.submitted_at is not None and self.submitted_at < self.intended_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One RunJobFlow of ours.

    slots: StepConcurrencyLevel of the template that it was launched from
    idle_since: since when it has had no live submission; None while it has one or is not up
    quarantine: as of a workload
    """

    cluster_uuid: ClusterUuid
    cluster_pool: str
    name: str
    template_hash: str
    slots: int
    state: ClusterState
    intended_at: datetime
    target: ClusterTarget = ClusterTarget.KEEP
    version: int = 0
    cluster_id: ClusterId | None = None
    ready_at: datetime | None = None
    idle_since: datetime | None = None
    end_asked_at: datetime | None = None
    ended_at: datetime | None = None
    reason_code: str | None = None
    reason: str | None = None
    quarantine: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPoolLimits:
    """What ``plan`` needs to know of one cluster pool. Bounds and units as in ``config``."""

    cluster_pool: str
    max_clusters: int
    min_clusters: int
    idle_timeout_s: float
    slots: int
    prefetch: int
    max_submissions: int
    queue_timeout_s: float | None
    template_hash: str
    launch_unknown_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InLine:
    """A live workload, seen by who waits behind whom.

    is_open: it is wanted and not in quarantine
    """

    workload_id: WorkloadId
    state: WorkloadState
    is_open: bool
    log_path: str | None
    not_before: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state that ``plan`` decides from, at one moment.

    clusters: all that are not over, and those with a live submission
    submissions: all that are live
    workloads: those in READY and SUBMITTED, and those with target CANCEL that are not over; of quarantined
        ones in READY only those with target CANCEL
    ready_beyond: how many READY workloads wait beyond the snapshot's bound
    launch_held: cluster pools that must not launch now, since recent launches failed
    place_held: clusters that must get no steps now, since they just took none
    stalled: clusters that are up and on which EMR has shown pending steps, and none running, for too long
    shown: submissions whose step EMR has just shown
    """

    now: datetime
    clusters: tuple[Cluster, ...]
    submissions: tuple[Submission, ...]
    workloads: tuple[Workload, ...]
    ready_beyond: int = 0
    launch_held: frozenset[str] = frozenset()
    place_held: frozenset[ClusterUuid] = frozenset()
    stalled: frozenset[ClusterUuid] = frozenset()
    shown: frozenset[SubmissionId] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedStep:
    """One step as ListSteps shows it (StepSummary).

    state: None is a state that this release does not know: the step is there, and not known to be over
    """

    step_id: StepId
    name: str
    state: StepState | None
    failure: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPage:
    """One answer of ListSteps: newest first.

    marker: where the next page begins; None: these were the last
    """

    steps: tuple[ObservedStep, ...]
    marker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedCluster:
    """One cluster as ListClusters shows it (ClusterSummary).

    state: None is a state that this release does not know: the cluster is there, and not known to be over
    """

    cluster_id: ClusterId
    name: str
    state: ClusterState | None
    reason_code: str | None = None
    reason: str | None = None
    created_at: datetime | None = None
    ready_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What the step wrapper last wrote of a submission.

    mark: the object's ETag; the same mark means nothing new
    at, started_at: when it was written and when the wrapper began, both on the primary node's clock
    chunks: output chunks written so far, numbered from 1
    tail: the last lines of the driver's output
    """

    submission_id: SubmissionId
    cluster_uuid: ClusterUuid
    mark: str
    phase: RecordPhase
    at: datetime
    started_at: datetime | None = None
    exit_code: int | None = None
    reason: str = ""
    chunks: int = 0
    tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One line of the append-only story: why something was launched, drained, moved, failed."""

    at: datetime
    subject: str
    """``workload``, ``submission``, ``cluster`` or ``agent``."""
    subject_id: str
    event: str
    """A fixed snake_case phrase."""
    text: str
    """One readable line."""

"""What the agent needs from the outside, as Protocols that belong to it.

Implementations satisfy them structurally: ``aws`` (real), ``task`` (real), ``simulation``
(virtual time). A method that raises says so; anything else that escapes is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from emr_executor.core.model import (
    ClusterId,
    ClusterUuid,
    Identity,
    ObservedCluster,
    StepId,
    StepPage,
    StepRecord,
    SubmissionId,
    Workload,
    WorkloadId,
)


class Clock(Protocol):
    """The agent's only source of time."""

    def now(self) -> datetime:
        """Wall clock, aware UTC: for records and people, never for deciding who is alive."""

    def monotonic(self) -> float:
        """Seconds that never jump: for leases, claims and timeouts."""

    async def sleep(self, delay_s: float) -> None:
        """Wait through the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStep:
    """One step of an AddJobFlowSteps call; ``name`` carries the submission id."""

    name: str
    jar: str
    args: tuple[str, ...]


class EmrApi(Protocol):
    """The few calls of Amazon EMR that the agent makes.

    Every method may raise ``TryAgain`` (Throttled, AwsUnavailable, CredentialsMissing).
    The two calls with an effect that EMR cannot undo may also raise ``OutcomeUnknown``.
    """

    async def run_job_flow(self, request: Mapping[str, Any], *, within_s: float) -> ClusterId:
        """Launch a cluster; never retried inside, and not begun later than ``within_s`` from now.

        Raises LaunchRefused: EMR will not launch it. OutcomeUnknown: it may have. TryAgain: not launched.
        """

    async def add_steps(
        self, cluster_id: ClusterId, steps: Sequence[NewStep], *, within_s: float
    ) -> tuple[StepId, ...]:
        """Add steps, in order, in one AddJobFlowSteps call; never retried, nor begun after ``within_s``.

        Raises TryElsewhere, StepsRefused: nothing was added. OutcomeUnknown: it may have been.
        """

    async def list_steps(
        self,
        cluster_id: ClusterId,
        *,
        marker: str | None = None,
        step_ids: Sequence[StepId] = (),
        within_s: float | None = None,
    ) -> StepPage:
        """One page of steps, newest first: the first, or the one at ``marker``; or these steps, at most 10.

        Raises ClusterGone for an unknown id, and BudgetSpent when ``within_s`` is given and the call would
        have to wait longer than that for the call budget.
        """

    async def cancel_steps(self, cluster_id: ClusterId, step_ids: Sequence[StepId]) -> None:
        """Ask EMR to cancel steps (at most 256); asynchronous and without guarantee."""

    async def list_clusters(
        self, *, name_prefix: str, over_since: datetime | None = None, within_s: float | None = None
    ) -> tuple[ObservedCluster, ...]:
        """Clusters whose Name has the prefix: all in STARTING to TERMINATING.

        With ``over_since``, instead those that are over and were created after that moment. ``within_s`` as
        for ``list_steps``; what was begun is read to its last page.
        """

    async def describe_cluster(
        self, cluster_id: ClusterId, *, within_s: float | None = None
    ) -> ObservedCluster | None:
        """One cluster, or None when EMR does not know the id. ``within_s`` as for ``list_steps``."""

    async def terminate_clusters(self, cluster_ids: Sequence[ClusterId]) -> None:
        """TerminateJobFlows, at most 10 ids; ended clusters are accepted silently."""


class StepRecords(Protocol):
    """What step wrappers wrote to S3. Listings may be late or stale; a record may be missing.

    Methods may raise ``TryAgain``.
    """

    async def changed(self, known: Mapping[SubmissionId, str]) -> tuple[StepRecord, ...]:
        """Records whose mark differs from ``known``; one listing covers a thousand live steps."""

    async def output(
        self, cluster_uuid: ClusterUuid, submission_id: SubmissionId, chunk: int
    ) -> bytes | None:
        """One chunk of driver output, from 1; None when it does not exist (yet)."""

    async def claimed_by(self, cluster_uuid: ClusterUuid, submission_id: SubmissionId) -> StepId | None:
        """The step that holds the submission's claim; "" when the claim names none that can be.

        None when no step ever began; then none will: the agent has taken the claim. Repeatable.
        """

    async def unread(self, cluster_uuid: ClusterUuid, submission_id: SubmissionId, chunks: int) -> int:
        """How many bytes of driver output stand behind the first so many chunks."""

    async def consume(self, over: Mapping[SubmissionId, ClusterUuid]) -> None:
        """Delete the state records of submissions that are over; absent is fine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedObject:
    """One object below ``staging_uri``: its key from there on, and the time since it was last written."""

    key: str
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedPage:
    """Objects in the order of their keys; ``more``: there are others behind the last one."""

    objects: tuple[StagedObject, ...]
    more: bool


class StagedObjects(Protocol):
    """All that stands below ``staging_uri``, of every deployment that has it; methods may raise TryAgain."""

    async def page(self, prefix: str, after: str = "") -> StagedPage:
        """Up to 1,000 objects below a prefix, from behind the key ``after`` on: one call."""

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete at most 1,000 objects: one call; how many are gone."""

    async def refresh(self, key: str) -> None:
        """Set an object's age back to 0; nothing when it is gone."""


class TaskApi(Protocol):
    """Airflow's Execution API for parked tries, with tokens minted for each call."""

    async def heartbeat(self, workload_id: WorkloadId, identity: Identity) -> None:
        """Keep the try RUNNING.

        Raises TaskGone: 404, 410 or 409 ``not_running``. TryAgain: anything else.
        """

    async def fail_terminally(self, workload_id: WorkloadId, *, ended_at: datetime) -> None:
        """Set the try FAILED without a retry; the last resort when its DAG is gone.

        Raises TaskGone, TryAgain.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseJob:
    """One prepare or finish phase. ``workload`` is in PREPARING or FINISHING and carries the claim."""

    workload: Workload
    claim_token: str

    @property
    def workload_id(self) -> WorkloadId:
        """The workload whose phase this is."""
        return self.workload.workload_id


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEnded:
    """The phase's process is gone. What it achieved stands in the store; this only says that.

    masks: values to redact from driver output, kept in memory only
    """

    workload_id: WorkloadId
    claim_token: str
    exit_code: int
    masks: tuple[str, ...] = ()


class TaskHost(Protocol):
    """Runs user code, each phase in a process of its own, never more than ``capacity`` at once."""

    @property
    def capacity(self) -> int:
        """How many phases may run at once."""

    @property
    def is_ready(self) -> bool:
        """Whether the host is up: a phase that is claimed for one that is not would wait for nothing."""

    async def start(self) -> None:
        """Have the host come up, without waiting for it. Raises TryAgain when it cannot be started."""

    async def run(self, job: PhaseJob) -> PhaseEnded:
        """Run one phase to its end. Raises TryAgain when it never began."""


class TaskLog(Protocol):
    """The tasks' ordinary logs."""

    async def append(self, lines: Mapping[str | None, Sequence[dict[str, Any]]]) -> None:
        """Append JSON lines to tasks' logs, by path; raises nothing: a log never holds up a task.

        A task without a path has no log.
        """

"""The exception tree. A class says what the caller does next; facts travel in fields.

EmrExecutorError
├─ ConfigError                 the operator fixes it; carries every problem at once
├─ TryAgain                    the same call, later
│  ├─ Throttled                AWS asked for fewer calls
│  │  └─ BudgetSpent           we ask for no more calls than AWS takes: this one was not made
│  ├─ AwsUnavailable           no answer, or a server-side fault
│  ├─ CredentialsMissing       none found, or expired; heals when they appear
│  ├─ StoreBusy                the database is away or locked
│  └─ TokenRefused             the API server takes no token of ours: clocks or signing keys differ
├─ OutcomeUnknown              the call may have had its effect: look before acting again
│  └─ ThrottledUnknown          AWS asked for fewer calls, and hardly ever did what it was asked
├─ TryElsewhere                this cluster cannot take the step
│  ├─ ClusterGone              it is ending or over
│  └─ StepLimitReached         EMR's 256 active steps
├─ LaunchRefused               EMR refused this RunJobFlow for a reason of its own
├─ StepsRefused                EMR refused the steps that a call carried or named; the cluster takes others
├─ WorkloadRejected            the try fails, with the message as its cause
│  ├─ NotTranslatable          nothing turns this task into a step
│  ├─ StepTooLong              more than one HadoopJarStep holds
│  ├─ SecretInStep             a secret would have left the host
│  └─ StagingFailed            a file that the task names cannot be read or written
├─ TaskGone                    Airflow no longer wants this try: cancel, report nothing
├─ StaleWriter                 the lease, claim or row version was lost: drop the result
└─ Bug
   ├─ InvalidTransition        an edge that no table has: quarantine the row, go on with all others
   └─ Contradiction            rows that cannot be true together: the same
"""

from __future__ import annotations

from collections.abc import Sequence


class EmrExecutorError(Exception):
    """Root of everything that this package raises on purpose."""


class ConfigError(EmrExecutorError):
    """The configuration cannot be used. ``problems`` holds one full sentence for each fault."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        super().__init__(
            f"emr_executor cannot start with this configuration, {head}:\n"
            + "\n".join(f"  - {problem}" for problem in self.problems)
        )


class TryAgain(EmrExecutorError):
    """The call had no effect; make it again after a pause."""


class Throttled(TryAgain):
    """AWS answered that calls come too fast."""


class BudgetSpent(Throttled):
    """The call was not made: its turn in the call budget would have come too late."""


class AwsUnavailable(TryAgain):
    """No connection, or a fault on the side of AWS, before the call had an effect."""


class CredentialsMissing(TryAgain):
    """AWS credentials are missing, expired or refused; work resumes when they heal."""


class StoreBusy(TryAgain):
    """The database did not answer, or is locked."""


class TokenRefused(TryAgain):
    """The API server refuses our tokens (401, 403): put a clock or a key right, then all goes on."""


class OutcomeUnknown(EmrExecutorError):
    """A call with an effect was sent and its answer never came: look before acting again."""


class ThrottledUnknown(OutcomeUnknown):
    """A throttled call with an effect: a RunJobFlow was seen to have launched (aws-sdk-ruby issue 825)."""


class TryElsewhere(EmrExecutorError):
    """This cluster cannot take the step; another one may."""

    def __init__(self, message: str, *, cluster_id: str) -> None:
        self.cluster_id = cluster_id
        super().__init__(message)


class ClusterGone(TryElsewhere):
    """The cluster is terminating, terminated or unknown to EMR."""


class StepLimitReached(TryElsewhere):
    """The cluster already has EMR's 256 active steps."""


class LaunchRefused(EmrExecutorError):
    """EMR refused a RunJobFlow request (validation, permission, quota); nothing was launched."""


class StepsRefused(EmrExecutorError):
    """EMR refused the steps of an AddJobFlowSteps or ListSteps: one of them is to blame, not the cluster."""


class WorkloadRejected(EmrExecutorError):
    """The try cannot run; the message is what its task log and failure show."""


class NotTranslatable(WorkloadRejected):
    """No translator turns this task into an EMR step."""


class StepTooLong(WorkloadRejected):
    """More than one HadoopJarStep holds (10,240 characters), or than Linux starts a process with."""


class SecretInStep(WorkloadRejected):
    """A value that Airflow's secrets masker knows would have travelled with the step."""


class StagingFailed(WorkloadRejected):
    """A local file that the task names could not be read, or not be written to S3."""


class TaskGone(EmrExecutorError):
    """Airflow no longer wants this try (404, 410 or 409 ``not_running``): cancel, report nothing."""


class StaleWriter(EmrExecutorError):
    """Another writer is ahead (lease, claim or row version): drop the result."""


class Bug(EmrExecutorError):
    """A state that the design excludes."""


class Contradiction(Bug):
    """Rows that cannot be true together (``core.contradictions``)."""


class InvalidTransition(Bug):
    """An edge that the transition table does not have.

    entity, row: ``workload``, ``submission`` or ``cluster``, and its id where it is known. Its past is read
        and kept with the row, by whoever puts it in quarantine.
    """

    def __init__(self, entity: str, start: str, event: str, *, row: str = "") -> None:
        self.entity, self.row, self.start, self.event = entity, row, start, event
        named = f"{entity} {row}" if row else entity
        super().__init__(f"{named}: no edge from {start} on {event}")

"""The exception tree. A class says what the caller does next; facts travel in fields."""

from __future__ import annotations

from collections.abc import Sequence


class EmrExecutorError(Exception):
    """Root of everything that this package raises on purpose."""


class ConfigError(EmrExecutorError):
    """The operator has to mend the configuration. ``problems`` holds one full sentence for each fault."""

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
    """AWS asked for fewer calls."""


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
    """The try fails; the message is what its task log and failure show."""


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
    """Rows that cannot be true together (``core.contradictions``): quarantine them, go on with all others."""


class InvalidTransition(Bug):
    """An edge that the transition table does not have: quarantine the row, go on with all others.

    entity, row: ``workload``, ``submission`` or ``cluster``, and its id where it is known. Its past is read
        and kept with the row, by whoever puts it in quarantine.
    """

    def __init__(self, entity: str, start: str, event: str, *, row: str = "") -> None:
        self.entity, self.row, self.start, self.event = entity, row, start, event
        named = f"{entity} {row}" if row else entity
        super().__init__(f"{named}: no edge from {start} on {event}")

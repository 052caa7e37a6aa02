"""The states of a workload, a submission and a cluster, and EMR's own enums.

A *workload* is a task instance that we accepted; a *submission* is one time it was put on a
cluster as an EMR step; a *cluster* is one RunJobFlow of ours. Each machine records
observations; what to do next is decided by ``core.plan`` alone.
"""

from __future__ import annotations

from enum import StrEnum


class WorkloadState(StrEnum):
    """Where a workload stands between the scheduler's hand-over and Airflow's terminal state."""

    ACCEPTED = "ACCEPTED"
    """The scheduler handed it over; no user code has run yet."""
    PREPARING = "PREPARING"
    """A task runner renders and translates it; the row's claim belongs to that process."""
    READY = "READY"
    """Parked: the step is rendered and waits for a slot on a cluster."""
    SUBMITTED = "SUBMITTED"
    """Parked: one live submission exists; its own state says more."""
    FINISHABLE = "FINISHABLE"
    """The step's outcome is stored; user code must still hear of it."""
    FINISHING = "FINISHING"
    """A task runner finishes it; the row's claim belongs to that process."""
    FINISHED = "FINISHED"
    """Airflow has its state for this try; the scheduler may still have to read the outcome."""
    CANCELLED = "CANCELLED"
    """Airflow no longer wanted the try, and no submission of it is alive."""


STEPLESS_WORKLOAD_STATES = frozenset({WorkloadState.ACCEPTED, WorkloadState.READY, WorkloadState.FINISHABLE})
"""No phase of it is alive, and no submission may be."""


class WorkloadTarget(StrEnum):
    """What should become of a workload."""

    RUN = "RUN"
    """Run to an outcome."""
    CANCEL = "CANCEL"
    """Airflow cleared, marked or revoked it: stop its step, report nothing but its end."""


class SubmissionState(StrEnum):
    """One time a workload was put on a cluster as an EMR step."""

    INTENDED = "INTENDED"
    """Written before AddJobFlowSteps; EMR may or may not know it."""
    PENDING = "PENDING"
    """EMR has the step; it has not started."""
    RUNNING = "RUNNING"
    """The step runs."""
    COMPLETED = "COMPLETED"
    """The step ended well."""
    FAILED = "FAILED"
    """The step ended badly while its cluster stayed whole: the task's own failure."""
    CANCELLED = "CANCELLED"
    """The step was cancelled, by us or by a person."""
    LOST = "LOST"
    """It died with its cluster or node, or never reached EMR: to be run elsewhere."""


LIVE_SUBMISSION_STATES = frozenset(
    {SubmissionState.INTENDED, SubmissionState.PENDING, SubmissionState.RUNNING}
)
"""Submissions that may have an active step."""


class ClusterState(StrEnum):
    """EMR's ClusterState (botocore emr 2009-03-31) between two states of our own."""

    INTENDED = "INTENDED"
    """Written before RunJobFlow; EMR may or may not know it."""
    STARTING = "STARTING"
    """EC2 provisions instances."""
    BOOTSTRAPPING = "BOOTSTRAPPING"
    """Bootstrap actions run, applications install."""
    RUNNING = "RUNNING"
    """At least one step is running."""
    WAITING = "WAITING"
    """Up, with no running step that EMR shows; not a proof of idleness."""
    TERMINATING = "TERMINATING"
    """Shutting down; its steps may still be alive."""
    TERMINATED = "TERMINATED"
    """Over, on request or idle."""
    TERMINATED_WITH_ERRORS = "TERMINATED_WITH_ERRORS"
    """Over, for a reason of EMR's or EC2's."""
    NEVER_LAUNCHED = "NEVER_LAUNCHED"
    """The RunJobFlow was refused, or was never seen by EMR within ``launch_unknown_s``."""


OVER_CLUSTER_STATES = frozenset(
    {ClusterState.TERMINATED, ClusterState.TERMINATED_WITH_ERRORS, ClusterState.NEVER_LAUNCHED}
)
"""Nothing of the cluster is left: its submissions are known dead."""

USABLE_CLUSTER_STATES = frozenset(
    {
        ClusterState.STARTING,
        ClusterState.BOOTSTRAPPING,
        ClusterState.RUNNING,
        ClusterState.WAITING,
    }
)
"""AddJobFlowSteps is accepted in these states only (botocore emr, AddJobFlowSteps)."""

UP_CLUSTER_STATES = frozenset({ClusterState.RUNNING, ClusterState.WAITING})
"""EMR starts steps in these states only."""

CAPPED_CLUSTER_STATES = USABLE_CLUSTER_STATES | {ClusterState.INTENDED}
"""Counted against ``max_clusters``: STARTING to WAITING and every unresolved launch."""


class ClusterTarget(StrEnum):
    """What should become of a cluster."""

    KEEP = "KEEP"
    """Serves steps."""
    DRAIN = "DRAIN"
    """Takes no new step; ends when its last one is over."""
    END = "END"
    """To be terminated now."""


class StepState(StrEnum):
    """EMR's StepState (botocore emr 2009-03-31, StepState)."""

    PENDING = "PENDING"
    CANCEL_PENDING = "CANCEL_PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


OVER_STEP_STATES = frozenset(
    {StepState.COMPLETED, StepState.CANCELLED, StepState.FAILED, StepState.INTERRUPTED}
)


class RecordPhase(StrEnum):
    """What the step wrapper says of itself in its record."""

    RUNNING = "RUNNING"
    ENDED = "ENDED"


class Verdict(StrEnum):
    """The outcome of a workload's step, as user code in the finish phase hears of it."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    CANCELLED = "CANCELLED"
    LOST = "LOST"
    """Resubmitted ``max_submissions`` times and lost each time."""

"""A step's outcome as the exceptions that user code, callbacks and the task log see."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout

from emr_executor.core.model import StepOutcome
from emr_executor.core.states import Verdict
from emr_executor.errors import Bug


class EmrStepFailed(AirflowException):
    """The step ended badly on a cluster that stayed whole. Airflow's retries decide what follows."""

    def __init__(self, message: str, *, outcome: StepOutcome) -> None:
        self.outcome = outcome
        super().__init__(message)


class EmrStepLost(EmrStepFailed):
    """The step was lost with its cluster or node as often as ``max_submissions`` allows."""


class EmrStepCancelled(AirflowFailException):
    """Somebody cancelled the step in EMR: the try fails and is not retried against their will."""

    def __init__(self, message: str, *, outcome: StepOutcome) -> None:
        self.outcome = outcome
        super().__init__(message)


class EmrStepTimedOut(AirflowTaskTimeout):
    """The step ran longer than the task's ``execution_timeout``."""


ENDS_OF_STEPS = (EmrStepFailed, EmrStepCancelled, EmrStepTimedOut)
"""What ``raise_unless_succeeded`` raises: the message says all; the frames that it comes through are ours."""


def raise_unless_succeeded(outcome: StepOutcome) -> None:
    """Returns for SUCCEEDED; raises the outcome's exception, its cause in the message, otherwise."""
    place = f"EMR step {outcome.step_id} on cluster {outcome.cluster_id}"
    if outcome.step_id is None:
        place = "the step"
    cause = outcome.cause or "no cause is known; see the driver's output above"
    match outcome.verdict:
        case Verdict.SUCCEEDED:
            return
        case Verdict.FAILED:
            is_said = outcome.exit_code is None or f"exit code {outcome.exit_code}" in cause
            code = "" if is_said else f" with exit code {outcome.exit_code}"
            raise EmrStepFailed(f"{place} failed{code}: {cause}", outcome=outcome)
        case Verdict.TIMED_OUT:
            raise EmrStepTimedOut(f"{place} ran longer than the task's execution_timeout and was ended")
        case Verdict.CANCELLED:
            raise EmrStepCancelled(f"{place} was cancelled: {cause}", outcome=outcome)
        case Verdict.LOST:
            raise EmrStepLost(
                f"{place} was lost after {outcome.submissions} submissions: {cause}", outcome=outcome
            )
    raise Bug(f"no such verdict: {outcome.verdict!r}")

"""How a step ended, in one sentence that says nothing twice."""

from __future__ import annotations

import pytest

from emr_executor.core.cause import cause_of
from emr_executor.core.model import ClusterId, StepId, StepOutcome
from emr_executor.core.states import Verdict
from emr_executor.task.step_errors import ENDS_OF_STEPS, raise_unless_succeeded

ON = {"cluster_id": ClusterId("j-1"), "step_id": StepId("s-1")}


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (
            StepOutcome(verdict=Verdict.FAILED, exit_code=7, cause=cause_of("leaving\n", 7), **ON),
            "EMR step s-1 on cluster j-1 failed: leaving (exit code 7)",
        ),
        (
            StepOutcome(verdict=Verdict.FAILED, exit_code=7, cause=cause_of("exit code 7\n", 7), **ON),
            "EMR step s-1 on cluster j-1 failed: exit code 7",
        ),
        (
            StepOutcome(
                verdict=Verdict.FAILED, exit_code=1, cause=cause_of("ValueError: no rows\n", 1), **ON
            ),
            "EMR step s-1 on cluster j-1 failed with exit code 1: ValueError: no rows",
        ),
        (
            StepOutcome(verdict=Verdict.FAILED, cause="no cluster ran the step within queue_timeout (60 s)"),
            "the step failed: no cluster ran the step within queue_timeout (60 s)",
        ),
    ],
)
def test_nothing_is_said_twice(outcome: StepOutcome, sentence: str) -> None:
    with pytest.raises(ENDS_OF_STEPS) as raised:
        raise_unless_succeeded(outcome)
    assert str(raised.value) == sentence

"""An unmodified SparkSubmitOperator is prepared, parked and finished, in real processes."""

from __future__ import annotations

from emr_executor.core.model import ClusterId, StepId, StepOutcome
from emr_executor.core.states import Verdict
from tests.task.conftest import IDENTITY, Bench

DONE = StepOutcome(
    verdict=Verdict.SUCCEEDED, cluster_id=ClusterId("j-1"), step_id=StepId("s-1"), submissions=2
)


def test_an_unmodified_operator_is_parked_and_then_succeeds(bench: Bench) -> None:
    bench.api.xcoms["up", "return_value"] = '"from-up"'
    prepared = bench.prepare("plain", "average")
    assert [event["event"] for event in prepared.results] == ["parked"]
    assert bench.api.state == "running"
    assert bench.api.states() == []
    assert bench.marks == ["execute"]

    finished = bench.finish("plain", "average", prepared.step, DONE)
    assert finished.results == [{"event": "over", "token": "claim", "state": "success"}]
    assert bench.api.states() == ["success"]
    assert bench.marks == ["execute", "success"]
    assert bench.api.identity == (IDENTITY.hostname, IDENTITY.unixname, IDENTITY.pid)

"""The registry of translators, the policy's list of them, and what travels between agent and host."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from emr_executor import policy
from emr_executor.config import ClusterPool, Settings
from emr_executor.core.model import Identity, StepOutcome, StepPlan, TaskKey, Workload, WorkloadId
from emr_executor.core.states import Verdict, WorkloadState
from emr_executor.errors import NotTranslatable
from emr_executor.task import translators
from emr_executor.task.wire import Phase, PhaseReply, phase_line, phase_of, reply_line, reply_of


class SparkSubmitOperator: ...


class Daily(SparkSubmitOperator): ...


class BashOperator: ...


def test_the_policy_knows_the_same_operators_as_the_registry() -> None:
    known = {name for translator in translators.registry() for name in translator.operators}
    assert known == set(policy.OPERATORS)
    assert policy.TRANSLATORS_GROUP == translators.ENTRY_POINT_GROUP


def test_a_subclass_is_translated_as_its_class() -> None:
    assert translators.translator_of(Daily()).name == "spark_submit"


def test_what_nothing_translates_is_told_what_is() -> None:
    with pytest.raises(
        NotTranslatable, match="BashOperator cannot run as an EMR step: use one of SparkSubmit"
    ):
        translators.translator_of(BashOperator())


def test_a_phase_and_its_reply_travel_unchanged() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    workload = Workload(
        workload_id=WorkloadId("w"),
        key=TaskKey(dag_id="d", task_id="t", run_id="r", try_number=2, map_index=3),
        cluster_pool="default",
        queue="emr",
        priority_weight=1,
        accepted_at=now,
        scheduler_job_id=None,
        workload={"ti": {"id": "w", "ü": [1, None]}},
        state=WorkloadState.FINISHING,
        identity=Identity(hostname="h", unixname="u", pid=1),
        started_at=now,
        step=StepPlan(command=("a", "b"), env={"k": "v"}, rendered_fields={"f": [1.5, {"x": None}]}),
        outcome=StepOutcome(verdict=Verdict.LOST, cause="c\nd", ended_at=now),
    )
    settings = Settings(staging_uri="s3://b/", cluster_pools=(ClusterPool(template={"a": [1]}),))
    phase = Phase(id=1, workload=workload, claim_token="c", settings=settings)
    line = phase_line(phase)
    assert line.count(b"\n") == 1
    assert phase_of(line) == phase
    reply = PhaseReply(id=1, exit_code=-9, masks=("a\nb", "ü"))
    assert reply_of(reply_line(reply)) == reply

"""The registry of translators, the policy's list of them, and what travels between agent and host."""

from __future__ import annotations

from datetime import UTC, datetime
from select import PIPE_BUF

import pytest

from emr_executor import policy
from emr_executor.config import ClusterPool, Settings
from emr_executor.core.model import Identity, StepOutcome, StepPlan, TaskKey, Workload, WorkloadId
from emr_executor.core.states import Verdict, WorkloadState
from emr_executor.errors import NotTranslatable
from emr_executor.task import translators
from emr_executor.task.wire import Phase, PhaseReply, Replies, phase_line, phase_of, reply_line, report_lines


class Provided: ...


Provided.__module__, Provided.__qualname__ = policy.OPERATORS[0].rsplit(".", 1)


class Daily(Provided): ...


class SparkSubmitOperator: ...


class BashOperator: ...


def test_the_policy_knows_the_same_operators_as_the_registry() -> None:
    known = {name for translator in translators.registry() for name in translator.operators}
    assert known == set(policy.OPERATORS)
    assert policy.TRANSLATORS_GROUP == translators.ENTRY_POINT_GROUP


def test_a_subclass_is_translated_as_its_class() -> None:
    assert translators.translator_of(Daily()).name == "spark_submit"


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (BashOperator, "BashOperator cannot run as an EMR step: use one of SparkSubmit"),
        (SparkSubmitOperator, rf"SparkSubmitOperator of {__name__} cannot .* use one of airflow\."),
    ],
)
def test_what_nothing_translates_is_told_what_is(operator: type, words: str) -> None:
    with pytest.raises(NotTranslatable, match=words):
        translators.translator_of(operator())


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
    assert Replies().take(reply_line(reply)) == reply


def test_reports_that_share_a_pipe_are_put_together_and_a_torn_one_is_superseded() -> None:
    long, other = (PhaseReply(id=n, exit_code=0, masks=("ü\n" * 3000, "b" * n)) for n in (1, 22))
    first, second = list(report_lines(long)), list(report_lines(other))
    assert max(map(len, first)) <= PIPE_BUF
    assert len(first) > 2
    replies = Replies()
    taken = [replies.take(line) for pair in zip(first, second, strict=True) for line in pair]
    assert taken == [*[None] * (len(taken) - 2), long, other]
    assert replies.take(first[0]) is None
    killed = PhaseReply(id=1, exit_code=-9)
    assert replies.take(reply_line(killed)) == killed
    assert [replies.take(line) for line in first][-1] == long

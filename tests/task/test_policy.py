"""The Airflow policy: tasks of an EMR queue get the executor, what cannot run there is an import error."""

from __future__ import annotations

import ast
import getpass
import re
import sys
from pathlib import Path

import pytest
from airflow.exceptions import AirflowClusterPolicyViolation
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task

from emr_executor import policy

OURS = "emr_executor.EmrExecutor"


class Daily(SparkSubmitOperator):
    """A subclass of a user's."""


class Broken:
    """No operator at all."""

    task_id = "broken"


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", f"LocalExecutor,{OURS}")


def applied(task):
    policy.task_policy(task)
    return task.executor


def spark(**kwargs) -> SparkSubmitOperator:
    return SparkSubmitOperator(task_id="t", application="s3://x", **{"queue": "emr", **kwargs})


@pytest.mark.parametrize(
    ("executor", "expected"),
    [
        (f"LocalExecutor,{OURS}", OURS),
        (f"LocalExecutor, spark:{OURS}", "spark"),
        ("CeleryExecutor,emr_executor.executor.EmrExecutor", "emr_executor.executor.EmrExecutor"),
        (f"LocalExecutor;team={OURS}", None),
        (OURS, None),
        (f"{OURS},LocalExecutor", None),
        ("LocalExecutor", None),
        ("LocalExecutor,other.EmrExecutor", None),
        ("", None),
    ],
)
def test_the_executor_is_written_as_it_is_configured(
    monkeypatch: pytest.MonkeyPatch, executor: str, expected: str | None
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    assert applied(spark()) == expected


def test_a_mapped_task_takes_it_in_its_partial_arguments() -> None:
    mapped = Daily.partial(task_id="m", application="s3://x", queue="emr").expand(name=["a", "b"])
    assert applied(mapped) == OURS
    assert mapped.partial_kwargs["executor"] == OURS


@pytest.mark.parametrize("queue", ["emr", "emr-large"])
def test_every_configured_queue_is_ours(monkeypatch: pytest.MonkeyPatch, queue: str) -> None:
    monkeypatch.setenv("AIRFLOW__EMR_EXECUTOR__QUEUE", "emr, emr-large")
    assert applied(spark(queue=queue)) == OURS


def test_other_queues_and_executors_of_ones_own_choice_stay() -> None:
    assert applied(BashOperator(task_id="b", bash_command="x")) is None
    assert applied(spark(executor="LocalExecutor")) == "LocalExecutor"


@pytest.mark.parametrize("queue", ["emrr", "EMR", "emr ", "em"])
def test_a_queue_that_is_nearly_ours_is_warned_of_or_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, queue: str
) -> None:
    said = f"no cluster pool serves queue {queue!r}, so its spark-submit would run on a host of Airflow's"
    assert applied(spark(queue=queue)) is None
    assert said in caplog.text
    assert "write queue='emr', if EMR is meant" in caplog.text
    monkeypatch.setenv("AIRFLOW__EMR_EXECUTOR__SIMILAR_QUEUE", "refuse")
    with pytest.raises(AirflowClusterPolicyViolation, match=f"Task 't': {re.escape(said)}"):
        applied(spark(queue=queue))


def test_no_other_task_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__EMR_EXECUTOR__SIMILAR_QUEUE", "refuse")
    applied(spark(queue="default"))
    applied(spark(queue="emr-large"))
    applied(BashOperator(task_id="b", bash_command="x", queue="emrr"))
    applied(spark(queue="emrr", executor="LocalExecutor"))
    assert caplog.text == ""


def test_a_refusal_says_what_to_do_and_how_much_is_refused() -> None:
    @task.bash(queue="emr")
    def shell() -> str:
        return "true"

    with DAG("d", schedule=None):
        operator = shell().operator
    with pytest.raises(AirflowClusterPolicyViolation) as refused:
        applied(operator)
    assert str(refused.value) == (
        "Task 'shell': @task.bash cannot run as an EMR step; queue 'emr' takes SparkSubmitOperator and "
        "subclasses: set queue on the Spark tasks only, not in default_args of the whole DAG. Until then no "
        "DAG of this file is imported"
    )


@pytest.mark.parametrize("name", [OURS, "emr_executor.executor.EmrExecutor", "EmrExecutor"])
def test_our_executor_by_any_name_becomes_the_configured_one(name: str) -> None:
    assert applied(spark(executor=name)) == OURS


def test_what_nothing_translates_is_refused_by_name() -> None:
    with pytest.raises(
        AirflowClusterPolicyViolation, match=r"'b': BashOperator cannot run .* takes SparkSubmitOperator"
    ):
        applied(BashOperator(task_id="b", bash_command="x", queue="emr"))
    with pytest.raises(AirflowClusterPolicyViolation, match="BashOperator cannot run"):
        applied(BashOperator.partial(task_id="b", queue="emr").expand(bash_command=["x"]))


def test_a_class_is_known_by_its_module_and_not_by_its_name() -> None:
    namesake = type("SparkSubmitOperator", (EmptyOperator,), {"__module__": "dags.own"})
    with pytest.raises(
        AirflowClusterPolicyViolation,
        match=r"SparkSubmitOperator of dags\.own cannot run as an EMR step; .* takes airflow\.providers",
    ):
        applied(namesake(task_id="t", queue="emr"))


def test_our_executor_with_a_queue_that_no_pool_serves_is_refused() -> None:
    with pytest.raises(AirflowClusterPolicyViolation, match="queue 'default' is served by no cluster pool"):
        applied(spark(queue="default", executor=OURS))


@pytest.mark.parametrize("mapped", [False, True])
def test_an_executor_config_of_another_executor_is_refused_with_its_keys(mapped: bool) -> None:
    config = {"pod_override": {}, "KubernetesExecutor": {"image": "x"}}
    task = spark(executor_config=config)
    if mapped:
        options = {"task_id": "m", "application": "s3://x", "queue": "emr", "executor_config": config}
        task = SparkSubmitOperator.partial(**options).expand(name=["a"])
    with pytest.raises(AirflowClusterPolicyViolation) as refused:
        applied(task)
    assert (
        "executor_config has KubernetesExecutor, pod_override, and EmrExecutor knows no key: remove it "
        "from the tasks of queue 'emr'; machines are chosen in the cluster template, "
        "Spark's resources by the operator."
    ) in str(refused.value)
    assert applied(spark(executor_config={})) == OURS
    assert applied(spark(executor_config=config, queue="default")) is None


def test_impersonation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowClusterPolicyViolation, match="run as user 'somebody'"):
        applied(spark(run_as_user="somebody"))
    assert applied(spark(run_as_user=getpass.getuser())) == OURS
    monkeypatch.setenv("AIRFLOW__CORE__DEFAULT_IMPERSONATION", "nobody-else")
    with pytest.raises(AirflowClusterPolicyViolation, match="nobody-else"):
        applied(spark())


def test_nothing_is_judged_in_a_task_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_TASK_ID", "t")
    assert applied(EmptyOperator(task_id="e", queue="emr")) == OURS


def test_nothing_else_is_ever_raised() -> None:
    broken = Broken()
    policy.task_policy(broken)
    assert vars(broken) == {}


def test_loading_it_needs_nothing_but_the_standard_library_and_pluggy() -> None:
    tree = ast.parse(Path(policy.__file__).read_text())
    names = {
        name.partition(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert names - set(sys.stdlib_module_names) == {"pluggy"}


def test_airflow_finds_it() -> None:
    from airflow.settings import get_policy_plugin_manager

    implementations = get_policy_plugin_manager().hook.task_policy.get_hookimpls()
    assert policy in [implementation.plugin for implementation in implementations]

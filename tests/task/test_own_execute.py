"""Classes that bring code of their own around the call of Spark."""

from __future__ import annotations

import pytest

from emr_executor.core.states import Verdict
from tests.task.conftest import Bench
from tests.task.test_happy_path import DONE, STEP, outcome

pytestmark = pytest.mark.processes


def test_code_on_both_sides_of_the_call_runs_and_nothing_is_unwound_at_park_time(bench: Bench) -> None:
    prepared = bench.prepare("own_execute", "around")
    assert bench.marks == ["pre_execute", "execute", "before"]
    finished = bench.finish("own_execute", "around", prepared.step, DONE)
    assert bench.marks[3:] == ["pre_execute", "before", "finally", "after", "post_execute", "success"]
    assert bench.api.xcoms["around", "return_value"] == {"rows": 3}
    assert finished.results[0]["state"] == "success"
    assert "asks Spark for something else" not in finished.log


def test_a_failure_is_raised_where_the_call_was(bench: Bench) -> None:
    prepared = bench.prepare("own_execute", "around")
    bench.finish("own_execute", "around", prepared.step, outcome(Verdict.FAILED, cause="boom"))
    assert bench.marks[5:] == [
        "raised EmrStepFailed: EMR step s-1 on cluster j-1 failed: boom",
        "finally",
        "failure: EMR step s-1 on cluster j-1 failed: boom",
    ]


def test_changed_arguments_are_warned_of_and_the_outcome_stands(bench: Bench) -> None:
    prepared = bench.prepare("own_execute", "changing")
    finished = bench.finish("own_execute", "changing", prepared.step, DONE)
    assert "asks Spark for something else" in finished.log
    assert finished.results[0]["state"] == "success"


def test_a_second_call_of_spark_is_refused_with_advice(bench: Bench) -> None:
    prepared = bench.prepare("own_execute", "twice")
    finished = bench.finish("own_execute", "twice", prepared.step, DONE)
    assert finished.results[0]["state"] == "failed"
    assert any("put the second call into a task of its own" in mark for mark in bench.marks)


def test_a_task_that_never_calls_spark_ends_in_prepare(bench: Bench) -> None:
    prepared = bench.prepare("own_execute", "never")
    assert prepared.results == [{"event": "over", "token": "claim", "state": "success"}]
    assert bench.api.xcoms["never", "return_value"] == "nothing to do"


def test_a_stock_execute_with_other_overrides_runs_them_once(bench: Bench) -> None:
    prepared = bench.prepare("own_execute", "timeless")
    bench.finish("own_execute", "timeless", prepared.step, DONE)
    assert bench.marks == ["pre_execute", "execute", "success"]


def test_a_task_whose_class_changed_meanwhile_still_ends_with_its_outcome(bench: Bench) -> None:
    bench.api.state, bench.api.identity = "running", ("agent.example", "airflow", 424242)
    finished = bench.finish("plain", "bash", STEP, DONE)
    assert finished.results[0]["state"] == "success"
    assert "operator is another one" in finished.log

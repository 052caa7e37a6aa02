"""An unmodified SparkSubmitOperator is prepared, parked and finished, in real processes."""

from __future__ import annotations

import base64
import json
import shlex
from datetime import UTC, datetime
from typing import Any

import pytest

from emr_executor.core.model import ClusterId, StepId, StepOutcome, StepPlan
from emr_executor.core.states import Verdict
from tests.task.conftest import BUCKET, DAGS, IDENTITY, STARTED_AT, Bench

pytestmark = pytest.mark.processes

DONE = StepOutcome(
    verdict=Verdict.SUCCEEDED,
    cluster_id=ClusterId("j-1"),
    step_id=StepId("s-1"),
    submissions=2,
    started_at=datetime(2026, 1, 1, 13, tzinfo=UTC),
    ended_at=datetime(2026, 1, 1, 14, tzinfo=UTC),
)
STEP = StepPlan(command=("spark-submit", "--master", "yarn", "s3://jobs/x.py"), spec_uri="s3://s/spec")


def outcome(verdict: Verdict, **fields: Any) -> StepOutcome:
    return StepOutcome(
        verdict=verdict, cluster_id=ClusterId("j-1"), step_id=StepId("s-1"), submissions=1, **fields
    )


def test_an_unmodified_operator_is_parked_and_then_succeeds(bench: Bench) -> None:
    after = DAGS / "after-submit"
    bench.api.xcoms["up", "return_value"] = '"from-up"'
    bench.api.xcoms["average", "of-an-earlier-try"] = "1"
    prepared = bench.prepare("plain", "average")
    assert [event["event"] for event in prepared.results] == ["parked"]
    assert (bench.api.state, bench.api.states()) == ("running", [])
    assert bench.marks == ["execute"]
    assert not after.exists()
    told = [json.loads(line)["event"] for line in prepared.log.splitlines()]
    assert told.count(f"The step's command: {shlex.join(prepared.step.command)}") == 1
    assert "Parked" in prepared.log

    bench.api.xcoms["average", "pushed-by-prepare"] = "1"
    finished = bench.finish("plain", "average", prepared.step, DONE)
    assert finished.results == [{"event": "over", "token": "claim", "state": "success"}]
    assert bench.api.states() == ["success"]
    assert bench.marks == ["execute", "success"]
    assert bench.events == ["running", "stopping", "success", "stopping"]
    assert after.exists()
    after.unlink()

    ours = {key: value for (task, key), value in bench.api.xcoms.items() if task == "average"}
    assert ours == {
        "pushed-by-prepare": "1",
        "emr_step": {
            "cluster_id": "j-1",
            "step_id": "s-1",
            "submissions": 2,
            "started_at": "2026-01-01T13:00:00+00:00",
            "ended_at": "2026-01-01T14:00:00+00:00",
        },
    }
    assert len(bench.api.asked("PUT", "/rtif")) == 1


def test_both_phases_start_with_the_stored_identity_and_a_token_for_this_try_alone(bench: Bench) -> None:
    prepared = bench.prepare("plain", "simple")
    bench.finish("plain", "simple", prepared.step, DONE)
    first, second = bench.api.asked("PATCH", "/run")
    assert first.body == second.body
    assert (first.body["hostname"], first.body["unixname"], first.body["pid"]) == (
        IDENTITY.hostname,
        IDENTITY.unixname,
        IDENTITY.pid,
    )
    assert datetime.fromisoformat(first.body["start_date"]) == STARTED_AT
    claims = first.authorization.split(".")[1]
    token = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert (token["sub"], token["scope"]) == (bench.workload_id, "execution")
    assert first.authorization not in prepared.log + json.dumps(prepared.events)


def test_the_stored_step_is_complete(bench: Bench, s3: Any) -> None:
    bench.api.xcoms["up", "return_value"] = "from-up"
    step = bench.prepare("plain", "average").step
    names = [word.rsplit("/", 1)[-1] for word in step.command]
    assert names[:4] == ["spark-submit", "--master", "yarn", "--conf"]
    assert names[-6:] == ["--deploy-mode", "client", "average.py", "--day", "2026-01-01", "from-up"]
    assert all(str(DAGS) not in word and "@emr" not in word for word in step.command)
    assert step.env["STAGE"] == "test"
    assert step.env["AIRFLOW_CTX_DAG_ID"] == "plain"
    assert {key for key in step.env if not key.startswith("AIRFLOW_CTX_")} == {"STAGE"}
    assert step.execution_timeout_s == 1800
    assert step.translator == "spark_submit"
    assert step.rendered_fields["application_args"] == ["--day", "2026-01-01", "from-up"]
    spec = json.loads(s3[0].get_object(Bucket=BUCKET, Key=key_of(step.spec_uri))["Body"].read())
    assert (spec["command"], spec["env"], spec["timeout_s"]) == (list(step.command), step.env, 1800)
    wrapper = s3[0].get_object(Bucket=BUCKET, Key=key_of(step.wrapper_uri))["Body"].read()
    assert wrapper.startswith(b"#!/usr/bin/env python3")
    (table,) = (word for word in step.command if word.endswith("table.csv#names"))
    staged = s3[0].get_object(Bucket=BUCKET, Key=key_of(table.removesuffix("#names")))["Body"].read()
    assert staged == (DAGS / "jobs" / "table.csv").read_bytes()


def key_of(uri: str) -> str:
    return uri.removeprefix(f"s3://{BUCKET}/")


def test_a_mapped_operator_gets_its_own_arguments_in_both_phases(bench: Bench) -> None:
    prepared = bench.prepare("plain", "mapped", map_index=1)
    assert prepared.step.command[-1] == "b"
    finished = bench.finish("plain", "mapped", prepared.step, DONE, map_index=1)
    assert finished.results[0]["state"] == "success"
    assert bench.marks == ["execute", "success"]


@pytest.mark.parametrize(
    ("verdict", "max_tries", "state", "mark"),
    [
        (Verdict.FAILED, 0, "failed", "failure: EMR step s-1 on cluster j-1 failed with exit code 3: boom"),
        (
            Verdict.FAILED,
            1,
            "up_for_retry",
            "retry: EMR step s-1 on cluster j-1 failed with exit code 3: boom",
        ),
        (
            Verdict.LOST,
            1,
            "up_for_retry",
            "retry: EMR step s-1 on cluster j-1 was lost after 1 submissions: boom",
        ),
        (Verdict.CANCELLED, 1, "failed", "failure: EMR step s-1 on cluster j-1 was cancelled: boom"),
        (
            Verdict.TIMED_OUT,
            0,
            "failed",
            "failure: EMR step s-1 on cluster j-1 ran longer than the task's execution_timeout and was ended",
        ),
    ],
)
def test_a_step_that_did_not_succeed_ends_the_try_with_its_cause(
    bench: Bench, verdict: Verdict, max_tries: int, state: str, mark: str
) -> None:
    bench.api.max_tries = max_tries
    bench.api.state, bench.api.identity = "running", ("agent.example", "airflow", 424242)
    finished = bench.finish("plain", "simple", STEP, outcome(verdict, cause="boom", exit_code=3))
    assert finished.results == [{"event": "over", "token": "claim", "state": state}]
    assert bench.api.states() == [state]
    assert bench.marks == [mark]
    lines = [json.loads(line) for line in finished.log.splitlines()]
    last = [line for line in lines if not line["event"].startswith("::")][-1]
    assert (last["event"], last["level"]) == (mark.partition(": ")[2], "error")
    assert "error_detail" not in last, "no frames of Airflow's and ours around one sentence"
    assert finished.log.count("boom") == mark.count("boom"), "nothing is said twice"
    assert ("simple", "emr_step") in bench.api.xcoms


def test_a_template_that_can_no_longer_be_rendered_does_not_fail_a_finished_step(bench: Bench) -> None:
    """Its upstream XCom is gone, and its first rendering was not stored."""
    bench.api.state, bench.api.identity = "running", ("agent.example", "airflow", 424242)
    bench.api.answers["GET", "/slice"] = (500, {"detail": "away"})
    finished = bench.finish("plain", "average", STEP, DONE)
    assert finished.results[0]["state"] == "success"
    (DAGS / "after-submit").unlink()

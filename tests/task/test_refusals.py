"""What may not become a step is refused in user code, so that Airflow's own failure path runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emr_executor.task.masking import in_one_line
from tests.task.conftest import BUCKET, DAGS, Bench

pytestmark = pytest.mark.processes

CANARY = "canary-7f3a9c"
DB = {"conn_type": "mysql", "host": "db", "login": "u", "password": CANARY}


@pytest.mark.parametrize(
    ("task_id", "field"),
    [("argument", "application_args[2]"), ("conf", "conf spark.db"), ("env", "env_vars DB")],
)
def test_a_secret_in_a_step_is_refused_and_goes_nowhere(
    bench: Bench, s3: Any, task_id: str, field: str
) -> None:
    bench.api.connections["db"] = DB
    bench.api.variables["db_password"] = CANARY
    ended = bench.prepare("secret", task_id)
    assert ended.results == [{"event": "over", "token": "claim", "state": "failed"}]
    (mark,) = bench.marks
    assert field in mark
    assert "Secrets Manager" in mark
    assert CANARY not in mark + ended.log + json.dumps(ended.events)
    assert all(CANARY not in json.dumps(request.body) for request in bench.api.requests)
    objects = s3[0].list_objects_v2(Bucket=BUCKET).get("Contents", [])
    bodies = (s3[0].get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read() for one in objects)
    assert all(CANARY.encode() not in body for body in bodies)
    assert CANARY in ended.reply.masks


def test_a_password_that_user_code_prints_is_masked_in_the_log_and_told_to_the_agent(bench: Bench) -> None:
    bench.api.connections["db"] = DB
    ended = bench.prepare("secret", "logged")
    assert [event["event"] for event in ended.results] == ["parked"]
    assert "the password is ***" in ended.log
    assert CANARY not in ended.log + json.dumps(ended.events)
    assert ended.reply.masks == (CANARY,)


def test_masks_of_one_phase_do_not_reach_the_next(bench: Bench) -> None:
    assert CANARY not in bench.prepare("plain", "simple").reply.masks


@pytest.mark.parametrize(
    ("task_id", "text"),
    [
        ("missing", "application: jobs/absent.py is not on this host"),
        ("impersonated", "run_as_user"),
        ("kerberos", "Kerberos credentials cannot travel"),
        ("bash", "BashOperator cannot run as an EMR step"),
    ],
)
def test_a_refusal_names_what_to_change(bench: Bench, task_id: str, text: str) -> None:
    ended = bench.prepare("plain", task_id)
    assert ended.results == [{"event": "over", "token": "claim", "state": "failed"}]
    assert any(mark.startswith("failure: ") and text in mark for mark in bench.marks), bench.marks
    assert not (DAGS / "never").exists()


def test_a_keytab_in_the_connection_is_refused_before_it_is_written(bench: Bench) -> None:
    extra = json.dumps({"keytab": "a2V5dGFi", "principal": "spark@X"})
    bench.api.connections["cluster"] = {"conn_type": "spark", "host": "yarn", "extra": extra}
    bench.prepare("plain", "connected")
    assert "connection's keytab" in bench.marks[-1]


def test_staging_that_fails_is_raised_in_user_code(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"staging_uri": "s3://no-such-bucket/x/"})
    ended = bench.prepare("plain", "simple")
    assert ended.results[0]["state"] == "failed"
    assert "cannot be written to s3://no-such-bucket/x/" in bench.marks[-1]


def test_a_command_in_the_log_is_one_line_without_what_a_name_calls_sensitive() -> None:
    command = ("spark-submit", "--conf", "spark.token=t0", "--api-key", "k0", "--name", "two\nlines", "x.py")
    assert in_one_line(command) == (
        "spark-submit --conf spark.token=*** --api-key *** --name 'two\\nlines' x.py"
    )
    long = in_one_line(("x.py", "a" * 200_000))
    assert len(long) < 5_000
    assert long.endswith("a... (200005 characters)")

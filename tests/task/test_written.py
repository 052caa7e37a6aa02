"""What people write in DAG files: it works as meant, or the refusal names the field and what to write."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from tests.task.conftest import Bench
from tests.task.test_happy_path import DONE

pytestmark = pytest.mark.processes

PG = {"conn_type": "postgres", "host": "pg.internal", "login": "u", "password": "postgres"}


def refusal(bench: Bench, task_id: str) -> str:
    """The words of a task that was refused, which no step followed."""
    ended = bench.prepare("written", task_id)
    assert [event["event"] for event in ended.results] == ["over"]
    assert ended.results[0]["state"] == "failed"
    return bench.marks[-1]


@pytest.mark.parametrize(
    ("task_id", "words"),
    [
        (
            "namesake",
            "use one of airflow.providers.apache.spark.operators.spark_submit.SparkSubmitOperator or",
        ),
        ("alone", "Alone.submit does not call SparkSubmitHook.submit; whatever it starts would run on"),
        ("undecided", "Deciding.submit returned without a call of SparkSubmitHook.submit, so no step ran"),
        ("reading", "Reading overrides _process_spark_submit_log, which is not called"),
        ("following", "Following overrides poll_until_complete, which is not called"),
        ("popen_cwd", "submit was called with cwd, for a process on Airflow's host"),
        ("direct", "the task starts spark-submit on Airflow's host"),
        ("properties_on_s3", "properties_file: spark-submit reads s3://conf/a.properties from no place but"),
        ("list_of_numbers", "jars[0] is a int: write one text"),
        ("text", "application_args is a str, of which Spark would make other arguments than meant: write a"),
        ("mapping", "application_args is a dict"),
        ("none", "application_args[1] is a NoneType"),
        ("conf_text", "conf is a str: write a mapping"),
        ("no_application", "application is empty: name the .py or .jar to run"),
        ("binary_path", "spark_binary: /opt/spark/bin/spark-submit is a path of Airflow's host"),
        (
            "long",
            "application_args[1] is 200,020 bytes long, and Linux takes 131,071 for one argument: put it",
        ),
        ("long_in_all", "and Linux takes about 2,000,000 for all arguments: put it into a file"),
        ("password_option", "application_args[0] holds a password in clear, by the name --db.password."),
        ("password_words", "application_args[1] holds a password in clear, by the name --db-password."),
        ("password_conf", "secret.key holds a password in clear, by the name spark.hadoop.fs.s3a.secret.key"),
        ("password_url", "conf spark.url holds a password in clear, by the name password."),
        ("password_env", "env_vars DB_PASSWORD holds a password in clear"),
    ],
)
def test_a_refusal_names_the_field_or_method_and_the_way_out(bench: Bench, task_id: str, words: str) -> None:
    said = refusal(bench, task_id)
    assert words in said
    assert "hunter2" not in said
    assert "alone" not in bench.marks, "nothing ran here"


@pytest.mark.parametrize(
    ("task_id", "origin"),
    [
        (
            "weak_word",
            "application_args[1] holds a secret that Airflow masks: the same text as the password of",
        ),
        ("extra", "api_token in the extra of connection 'pg'"),
        ("variable", "the same text as variable 'db_password'"),
    ],
)
def test_a_secret_is_told_by_its_origin_and_never_by_its_value(
    bench: Bench, task_id: str, origin: str
) -> None:
    bench.api.connections["pg"] = {**PG, "extra": json.dumps({"api_token": "canary-token-1"})}
    bench.api.variables["db_password"] = "canary-variable-1"
    said = refusal(bench, task_id)
    assert origin in said
    assert "by chance" in said
    assert "canary" not in said


def test_a_password_that_is_an_everyday_word_refuses_no_word_that_only_begins_with_it(bench: Bench) -> None:
    bench.api.connections["pg"] = PG
    assert "org.postgresql:postgresql:42.7.3" in bench.prepare("written", "weak").step.command


@pytest.mark.parametrize(
    ("task_id", "expected"),
    [
        ("nothing_said", "spark-submit --master yarn --name arrow-spark --deploy-mode client s3://jobs/x.py"),
        (
            "conf_says",
            (
                "spark-submit --conf spark.master=local[2] --conf spark.submit.deployMode=cluster"
                " --conf spark.yarn.queue=q --name arrow-spark s3://jobs/x.py"
            ),
        ),
        (
            "properties_on_cluster",
            "spark-submit --properties-file /etc/spark/a.properties --name arrow-spark s3://jobs/x.py",
        ),
        (
            "numbers",
            "spark-submit --master yarn --name arrow-spark --deploy-mode client s3://jobs/x.py --top 5 0.5",
        ),
        (
            "deciding",
            "spark-submit --master yarn --name arrow-spark --deploy-mode client s3://jobs/y.py",
        ),
        (
            "building",
            (
                "spark3-submit --master yarn --name arrow-spark --queue theirs --deploy-mode client s3://jobs/x.py"
                " --added 1"
            ),
        ),
    ],
)
def test_what_is_meant_is_what_runs(bench: Bench, task_id: str, expected: str) -> None:
    assert " ".join(bench.prepare("written", task_id).step.command) == expected


@pytest.mark.parametrize(
    ("task_id", "binary"),
    [
        ("binary_on_cluster", "/opt/spark/bin/spark-submit"),
        ("binary_of_emr", "/usr/lib/spark/bin/spark-submit"),
    ],
)
def test_a_binary_of_the_clusters_own_is_started(bench: Bench, task_id: str, binary: str) -> None:
    assert bench.prepare("written", task_id).step.command[0] == binary


def test_what_the_clusters_template_says_holds_over_the_pools_default(bench: Bench) -> None:
    said = {"spark.submit.deployMode": "cluster", "spark.yarn.queue": "q", "spark.master": "yarn"}
    template = {"Configurations": [{"Classification": "spark-defaults", "Properties": said}]}
    pool = bench.settings.cluster_pools[0].model_copy(update={"template": template, "yarn_queue": "ours"})
    bench.settings = bench.settings.model_copy(update={"cluster_pools": (pool,)})
    command = " ".join(bench.prepare("written", "nothing_said").step.command)
    assert command == "spark-submit --name arrow-spark --deploy-mode cluster s3://jobs/x.py"


def test_lists_become_what_spark_takes(bench: Bench) -> None:
    command = bench.prepare("written", "lists").step.command
    words = dict(pairwise(command))
    assert words["--jars"] == "s3://a/b.jar,s3://a/c.jar"
    assert words["--py-files"] == "s3://a/b.zip"
    assert words["--packages"] == "a:b:1,c:d:2"
    first, second = words["--files"].split(",")
    assert first.startswith("s3://")
    assert first.endswith("/table.csv")
    assert second == "s3://a/t.csv#u"


def test_variables_that_a_call_of_submit_adds_are_the_steps(bench: Bench) -> None:
    env = bench.prepare("written", "popen_env").step.env
    assert {key: value for key, value in env.items() if not key.startswith("AIRFLOW_CTX_")} == {"MINE": "1"}


def test_an_argument_that_only_this_host_has_is_warned_of(bench: Bench) -> None:
    log = bench.prepare("written", "host_file").log
    assert "application_args[0] names " in log
    assert 'write files=\\"jobs/table.csv\\" and the argument \\"table.csv\\"' in log
    assert "application_args[1]" not in log
    bench.workload_id = bench.workload_id[:-1] + "0"
    assert "application_args[0] names" not in bench.prepare("written", "host_file_shipped").log


def test_the_longest_argument_that_linux_takes_is_taken(bench: Bench) -> None:
    assert len(bench.prepare("written", "as_long_as_may_be").step.command[-1]) == 131_000


def test_the_command_is_one_line_of_the_log_and_references_to_secrets_pass(bench: Bench) -> None:
    ended = bench.prepare("written", "references")
    (line,) = (json.loads(text)["event"] for text in ended.log.splitlines() if "spark-submit" in text)
    assert "spark.ssl.keyPassword=***" in line
    assert line.endswith("--db-secret=*** --password-secret *** --max-tokens=*** 'a\\nb'")
    assert ended.step.command[-5:] == (
        "--db-secret=prod/db",
        "--password-secret",
        "prod/db",
        "--max-tokens=5",
        "a\nb",
    )


def test_a_task_that_skips_its_work_is_skipped(bench: Bench) -> None:
    assert bench.prepare("written", "skipping").results[0]["state"] == "skipped"


def test_a_hook_of_ones_own_is_used_on_both_sides_of_the_step(bench: Bench) -> None:
    prepared = bench.prepare("written", "own_hook")
    finished = bench.finish("written", "own_hook", prepared.step, DONE)
    assert finished.results[0]["state"] == "success"
    assert bench.marks == ["before submit", "before submit", "after submit"]


def test_a_step_that_succeeded_is_not_run_again_when_finish_fails(bench: Bench) -> None:
    """Airflow hears nothing; after finish_attempts the agent fails the try without a retry."""
    bench.api.max_tries = 1
    prepared = bench.prepare("written", "breaking")
    finished = bench.finish("written", "breaking", prepared.step, DONE)
    assert [event["event"] for event in finished.results] == ["retry"]
    assert bench.api.states() == []
    assert "The step succeeded; the task is finished again, its step is not run again." in finished.log

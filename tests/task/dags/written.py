"""What people write: each task is one input of a kind that real DAGs hold."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

sys.path.insert(0, str(Path(__file__).parent))
from notes import callback, note

Provider = SparkSubmitOperator


class WithHook(Provider):
    """An operator whose hook is the class that a task names."""

    def __init__(self, *, hook_class, popen=None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.hook_class, self.popen = hook_class, popen or {}

    def execute(self, context):
        hook = self.hook_class(application_args=self.application_args, name=self.name)
        hook.submit(self.application, **self.popen)


class Alone(SparkSubmitHook):
    """Starts a process of its own."""

    def submit(self, application="", **kwargs):
        subprocess.run(["sh", "-c", "echo alone >> $EMR_TEST_MARKS"], check=True)


class Deciding(SparkSubmitHook):
    """May leave out the provider's submit."""

    def submit(self, application="", **kwargs):
        if application.endswith("none.py"):
            return None
        note("before submit")
        return super().submit(application.replace("x.py", "y.py"), **kwargs)


class Building(SparkSubmitHook):
    """Builds a command of its own, and finds its connection elsewhere."""

    def _resolve_connection(self):
        return {**super()._resolve_connection(), "queue": "theirs", "spark_binary": "spark3-submit"}

    def _build_spark_submit_command(self, application):
        return [*super()._build_spark_submit_command(application), "--added", "1"]


class Reading(SparkSubmitHook):
    """Reads the output of a process that is not here."""

    def _process_spark_submit_log(self, itr):
        return None


class OwnHook(Provider):
    """A stock execute with another hook, whose commands after Spark count."""

    def _get_hook(self):
        hook = Deciding(name="own")
        hook._run_post_submit_commands = lambda: note("after submit")
        return hook


class Following(Provider):
    """Overrides what is not called here."""

    def poll_until_complete(self, external_id, context):
        return None


class Direct(Provider):
    """Starts spark-submit by itself."""

    def execute(self, context):
        os.system("cd / && spark-submit --version")


class Skipping(Provider):
    """Decides that there is nothing to do."""

    def execute(self, context):
        raise AirflowSkipException("no data today")


class Breaking(Provider):
    """What is ours to do after the step cannot be done."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.post_submit_commands = 7

    def pre_execute(self, context):
        self.post_submit_commands = None


class SparkSubmitOperator(BaseOperator):
    """Not the provider's, though of its name."""

    def execute(self, context):
        SparkSubmitHook(name="theirs").submit("s3://jobs/x.py")


with DAG(
    "written",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    default_args={"queue": "emr", "on_failure_callback": callback("failure")},
):
    x = {"application": "s3://jobs/x.py"}
    SparkSubmitOperator(task_id="namesake")
    WithHook(task_id="alone", hook_class=Alone, **x)
    WithHook(task_id="deciding", hook_class=Deciding, **x)
    WithHook(task_id="undecided", hook_class=Deciding, application="s3://jobs/none.py")
    WithHook(task_id="building", hook_class=Building, **x)
    WithHook(task_id="reading", hook_class=Reading, **x)
    WithHook(task_id="popen_env", hook_class=SparkSubmitHook, popen={"env": {**os.environ, "MINE": "1"}}, **x)
    WithHook(task_id="popen_cwd", hook_class=SparkSubmitHook, popen={"cwd": "/tmp"}, **x)
    OwnHook(task_id="own_hook", **x)
    Following(task_id="following", **x)
    Direct(task_id="direct", **x)
    Skipping(task_id="skipping", **x)
    Breaking(task_id="breaking", **x)
    # Precedence.
    Provider(task_id="properties_on_s3", properties_file="s3://conf/a.properties", **x)
    Provider(task_id="properties_on_cluster", properties_file="local:/etc/spark/a.properties", **x)
    Provider(
        task_id="conf_says",
        conf={"spark.master": "local[2]", "spark.submit.deployMode": "cluster", "spark.yarn.queue": "q"},
        **x,
    )
    Provider(task_id="nothing_said", **x)
    # Fields.
    Provider(
        task_id="lists",
        jars=["s3://a/b.jar", "s3://a/c.jar"],
        py_files=["s3://a/b.zip"],
        files=["jobs/table.csv", "s3://a/t.csv#u"],
        packages=["a:b:1", "c:d:2"],
        **x,
    )
    Provider(task_id="list_of_numbers", jars=[1], **x)
    Provider(task_id="text", application_args="--day {{ ds }}", **x)
    Provider(task_id="mapping", application_args={"--day": "{{ ds }}"}, **x)
    Provider(task_id="none", application_args=["--day", None], **x)
    Provider(task_id="numbers", application_args=["--top", 5, 0.5], **x)
    Provider(task_id="conf_text", conf="spark.a=1", **x)
    Provider(task_id="no_application")
    Provider(task_id="binary_path", spark_binary="/opt/spark/bin/spark-submit", **x)
    Provider(task_id="binary_on_cluster", spark_binary="local:/opt/spark/bin/spark-submit", **x)
    Provider(task_id="binary_of_emr", spark_binary="/usr/lib/spark/bin/spark-submit", **x)
    Provider(task_id="host_file", application_args=["--config=jobs/table.csv", "jobs"], **x)
    Provider(task_id="host_file_shipped", files="jobs/table.csv", application_args=["table.csv"], **x)
    Provider(task_id="long", application_args=["a", "b" * 200_000], **x)
    Provider(task_id="as_long_as_may_be", application_args=["b" * 131_000], **x)
    Provider(task_id="long_in_all", application_args=["b" * 100] * 20_000, **x)
    # Secrets.
    Provider(
        task_id="weak",
        packages="org.postgresql:postgresql:42.7.3",
        application_args=["{{ conn.pg.host }}"],
        **x,
    )
    Provider(task_id="weak_word", application_args=["{{ conn.pg.host }}", "--kind=postgres"], **x)
    Provider(task_id="extra", application_args=["{{ conn.pg.extra_dejson.api_token }}"], **x)
    Provider(task_id="variable", application_args=["x{{ var.value.db_password }}x"], **x)
    Provider(task_id="password_option", application_args=["--db.password=hunter2"], **x)
    Provider(task_id="password_words", application_args=["--db-password", "hunter2"], **x)
    Provider(task_id="password_conf", conf={"spark.hadoop.fs.s3a.secret.key": "hunter2"}, **x)
    Provider(task_id="password_url", conf={"spark.url": "jdbc:pg://h/d?user=u&password=hunter2"}, **x)
    Provider(task_id="password_env", env_vars={"DB_PASSWORD": "hunter2"}, **x)
    Provider(
        task_id="references",
        application_args=["--db-secret=prod/db", "--password-secret", "prod/db", "--max-tokens=5", "a\nb"],
        conf={"spark.ssl.keyPassword": "${env:KEY}"},
        **x,
    )

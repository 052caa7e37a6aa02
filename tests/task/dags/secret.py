"""Tasks into whose step a secret finds its way."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, BaseHook

sys.path.insert(0, str(Path(__file__).parent))
from notes import callback, note


class Logged(SparkSubmitOperator):
    """Prints a password, and hands none to Spark."""

    def execute(self, context):
        print("the password is", BaseHook.get_connection("db").password)
        self.log.info("again: %s", BaseHook.get_connection("db").password)
        super().execute(context)


class SlowAndLogged(Logged):
    """Takes long enough for its host to be killed meanwhile."""

    def execute(self, context):
        BaseHook.get_connection("db")
        note("slow")
        time.sleep(1)
        super().execute(context)


with DAG(
    "secret",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    default_args={"queue": "emr", "on_failure_callback": callback("failure")},
):
    SparkSubmitOperator(
        task_id="argument",
        application="s3://jobs/x.py",
        application_args=["--day", "x", "{{ conn.db.password }}"],
    )
    SparkSubmitOperator(
        task_id="conf",
        application="s3://jobs/x.py",
        conf={"spark.db": "jdbc:x?password={{ var.value.db_password }}"},
    )
    SparkSubmitOperator(
        task_id="env", application="s3://jobs/x.py", env_vars={"DB": "u:{{ conn.db.password }}@h"}
    )
    Logged(task_id="logged", application="s3://jobs/x.py")
    SlowAndLogged(task_id="slow_and_logged", application="s3://jobs/x.py")

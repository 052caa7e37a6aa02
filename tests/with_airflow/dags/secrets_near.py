"""Tasks that hold secrets in their hands: one keeps them at home, one would send them away."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, BaseHook, Variable

from noting import CALLBACKS, JOB


def read_secrets(_context: Any) -> None:
    connection = BaseHook.get_connection("canary_connection")
    token = Variable.get("canary_api_token")
    if not (connection.password and token and os.environ.get("CANARY_IN_THE_ENVIRONMENT")):
        raise ValueError("the canaries are not where they should be")


with DAG("secrets_near", schedule=None, start_date=datetime(2026, 1, 1), catchup=False):
    SparkSubmitOperator(
        task_id="keeps_them",
        application=JOB,
        application_args=["nothing-secret"],
        queue="emr",
        **{**CALLBACKS, "pre_execute": read_secrets},
    )
    SparkSubmitOperator(
        task_id="would_send_them",
        application=JOB,
        application_args=["--password", "{{ conn.canary_connection.password }}"],
        queue="emr",
    )

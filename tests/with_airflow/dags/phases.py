"""The provider's own operator, mapped and not, and a subclass of it: what each phase must do once."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, task

from noting import CALLBACKS, JOB, note


class AroundSpark(SparkSubmitOperator):
    """A team's subclass with code on both sides of the Spark call."""

    def execute(self, context: Any) -> str:
        note("before_submit", context)
        super().execute(context)
        note("after_submit", context)
        return "from the other side"


def slowly(context: Any) -> None:
    note("pre_execute", context)
    time.sleep(15)


with DAG("phases", schedule=None, start_date=datetime(2026, 1, 1), catchup=False):

    @task
    def make_words() -> list[str]:
        return ["rendered", "from", "xcom"]

    words = make_words()
    plain = SparkSubmitOperator(
        task_id="plain",
        application=JOB,
        application_args=["{{ ti.xcom_pull(task_ids='make_words') | join('-') }}"],
        queue="emr",
        **CALLBACKS,
    )
    around = AroundSpark(
        task_id="around", application=JOB, application_args=["around"], queue="emr", **CALLBACKS
    )
    mapped = SparkSubmitOperator.partial(task_id="mapped", application=JOB, queue="emr", **CALLBACKS).expand(
        application_args=[["first"], ["second"]]
    )
    slow = SparkSubmitOperator(
        task_id="slow",
        application=JOB,
        application_args=["slow"],
        queue="emr",
        **{**CALLBACKS, "pre_execute": slowly},
    )
    words >> [plain, around, mapped, slow]

with DAG("failing", schedule=None, start_date=datetime(2026, 1, 1), catchup=False):
    SparkSubmitOperator(
        task_id="fails",
        application=JOB,
        application_args=["about-to-fail", "--fail"],
        queue="emr",
        retries=1,
        retry_delay=timedelta(seconds=1),
        **CALLBACKS,
    )

"""Unmodified SparkSubmitOperators, mapped and not."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG

sys.path.insert(0, str(Path(__file__).parent))
from notes import callback

CALLBACKS = {
    f"on_{name}_callback": callback(name) for name in ("execute", "success", "failure", "retry", "skipped")
}

with DAG("plain", schedule=None, start_date=datetime(2026, 1, 1), default_args={"queue": "emr", **CALLBACKS}):
    SparkSubmitOperator(
        task_id="average",
        application="jobs/average.py",
        py_files="jobs/lib.py,s3://elsewhere/dep.zip",
        files="jobs/table.csv#names",
        application_args=["--day", "{{ ds }}", "{{ ti.xcom_pull(task_ids='up', key='return_value') }}"],
        env_vars={"STAGE": "test"},
        conf={"spark.jars": "jobs/tool.jar,local:/opt/x.jar", "spark.x": "1"},
        post_submit_commands=["touch {{ params.after }}"],
        params={"after": "after-submit"},
        execution_timeout=timedelta(minutes=30),
    )
    SparkSubmitOperator.partial(task_id="mapped", application="jobs/average.py", **CALLBACKS).expand(
        application_args=[["a"], ["b"]]
    )

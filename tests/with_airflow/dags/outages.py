"""One gated step a DAG: for what happens while something is away."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG

from noting import CALLBACKS, JOB

GATES = Path(os.environ["EMR_TEST_GATES"])

for what in ("database", "database_long", "api", "aws", "aws_new", "hang", "disk", "disk_new"):
    with DAG(f"outage_{what}", schedule=None, start_date=datetime(2026, 1, 1), catchup=False) as dag:
        SparkSubmitOperator(
            task_id="waits",
            application=JOB,
            application_args=["waiting", "--gate", str(GATES / what)],
            queue="emr",
            # Callbacks write to a file, which user code cannot do either on a full disk.
            **({} if what == "disk_new" else CALLBACKS),
        )
    globals()[f"dag_{what}"] = dag

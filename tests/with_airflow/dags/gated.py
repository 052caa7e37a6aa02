"""Steps that wait until the test opens a gate: for crashes and changes in the middle of a run."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG

from noting import CALLBACKS, JOB

GATES = Path(os.environ["EMR_TEST_GATES"])

for name in ("crash", "vanish"):
    with DAG(f"gated_{name}", schedule=None, start_date=datetime(2026, 1, 1), catchup=False) as dag:
        SparkSubmitOperator(
            task_id="waits",
            application=JOB,
            application_args=["waiting", "--gate", str(GATES / name)],
            queue="emr",
            **CALLBACKS,
        )
    globals()[f"gated_{name}"] = dag

"""One gated step a DAG: for what people, Airflow and AWS do to a step that runs."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG

from noting import CALLBACKS, JOB

GATES = Path(os.environ["EMR_TEST_GATES"])
NAMES: dict[str, dict[str, Any]] = {
    "lost_cancelled": {},
    "lost_failed": {},
    "lost_interrupted": {},
    "cleared": {},
    "marked_success": {},
    "marked_failed": {},
    "overtime": {"execution_timeout": timedelta(seconds=4)},
    "run_overtime": {},
    "away": {},
    "handover": {},
    "throttled": {},
}
DAG_OPTIONS: dict[str, dict[str, Any]] = {"run_overtime": {"dagrun_timeout": timedelta(seconds=12)}}

for name, options in NAMES.items():
    with DAG(
        name, schedule=None, start_date=datetime(2026, 1, 1), catchup=False, **DAG_OPTIONS.get(name, {})
    ) as dag:
        SparkSubmitOperator(
            task_id="waits",
            application=JOB,
            application_args=["waiting", "--gate", str(GATES / name)],
            queue="emr",
            **CALLBACKS,
            **options,
        )
    globals()[f"dag_{name}"] = dag

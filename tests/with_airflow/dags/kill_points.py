"""One task whose life is told by the run's conf: for everything that dies around it."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

from noting import CALLBACKS, JOB, note

GATES = Path(os.environ["EMR_TEST_GATES"])


def begin(context: Any) -> None:
    """Skips, comes back later or waits, as the conf says."""
    note("pre_execute", context)
    conf, run_id = context["dag_run"].conf, context["dag_run"].run_id
    if conf.get("skip"):
        raise AirflowSkipException
    been_here = GATES / f"{run_id}-been-here"
    if conf.get("reschedule") and not been_here.exists():
        been_here.touch()
        raise AirflowRescheduleException(reschedule_date=datetime.now(tz=UTC) + timedelta(seconds=1))
    while conf.get("hold") and not (GATES / conf["hold"]).exists():
        time.sleep(0.1)


def end(context: Any, _result: Any = None) -> None:
    conf = context["dag_run"].conf
    while conf.get("hold_end") and not (GATES / conf["hold_end"]).exists():
        time.sleep(0.1)


for name, options in {
    "survives": {},
    "survives_overtime": {"execution_timeout": timedelta(seconds=4)},
}.items():
    with DAG(name, schedule=None, start_date=datetime(2026, 1, 1), catchup=False) as dag:
        SparkSubmitOperator(
            task_id="step",
            application=JOB,
            application_args=[
                "--gate={{ dag_run.conf.get('gate', '') }}",
                "--exit={{ dag_run.conf.get('exit', 0) }}",
            ],
            # A stand-in that starts no JVM (arena.py).
            spark_binary="spark3-submit",
            queue="emr",
            post_execute=end,
            **{**CALLBACKS, "pre_execute": begin},
            **options,
        )
    globals()[f"dag_{name}"] = dag

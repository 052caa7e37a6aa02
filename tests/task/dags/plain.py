"""Unmodified SparkSubmitOperators, mapped and not."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

sys.path.insert(0, str(Path(__file__).parent))
from notes import callback

CALLBACKS = {
    f"on_{name}_callback": callback(name) for name in ("execute", "success", "failure", "retry", "skipped")
}

with DAG(
    "plain",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    default_args={"queue": "emr", **CALLBACKS},
):
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
    SparkSubmitOperator(task_id="simple", application="jobs/average.py")
    SparkSubmitOperator(task_id="missing", application="jobs/absent.py")
    SparkSubmitOperator(task_id="impersonated", application="jobs/average.py", run_as_user="somebody")
    SparkSubmitOperator(
        task_id="cluster_mode",
        application="s3://jobs/x.jar",
        java_class="org.example.Main",
        deploy_mode="cluster",
        yarn_queue="night",
        conf={"spark.yarn.submit.waitAppCompletion": "false", "spark.y": "2"},
        track_driver_via_k8s_api=True,
        yarn_track_via_rm_api=True,
    )
    SparkSubmitOperator(task_id="kerberos", application="s3://jobs/x.py", keytab="/k", principal="p")
    SparkSubmitOperator(task_id="connected", application="s3://jobs/x.py", conn_id="cluster")
    SparkSubmitOperator(
        task_id="full",
        application="file://{{ dag.folder }}/jobs/average.py",
        archives="jobs/table.csv#table",
        jars="s3://jobs/a.jar",
        driver_class_path="jobs/tool.jar:/usr/lib/cluster/*",
        properties_file="jobs/spark.properties",
        conf={"spark.both": "conf", "spark.submit.deployMode": "cluster"},
    )
    BashOperator(task_id="bash", bash_command="echo never > never")

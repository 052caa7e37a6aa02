"""The DAG's own arithmetic, on flights that one can count by hand."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.demo_run.checks import DAG_ID, FLIGHTS, STEP_TASKS, TASKS

DAG_FILE = Path(__file__).parents[2] / "dags" / "delays_by_month.py"
WEATHER = """origin,time_hour,precip
EWR,1T,0
EWR,2T,0.01
JFK,1T,NA
"""
FLIGHTS_CSV = """year,month,carrier,origin,dest,arr_delay,time_hour
2013,1,UA,EWR,IAH,11,1T
2013,1,UA,EWR,IAH,-3,2T
2013,10,UA,EWR,IAH,NA,2T
2013,2,AA,JFK,MIA,7,1T
2013,2,AA,JFK,MIA,5,9T
"""


@pytest.fixture(scope="module")
def dag_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location(DAG_ID, DAG_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[DAG_ID] = module
    spec.loader.exec_module(module)
    return module


def test_figures_count_flights_arrivals_and_rain(dag_file: ModuleType) -> None:
    figures = dag_file.figures(csv.DictReader(FLIGHTS_CSV.splitlines()), csv.DictReader(WEATHER.splitlines()))
    # flights, arrived, delay_min, wet_arrived, wet_delay_min
    assert figures == {("UA", "EWR", "IAH"): [3, 2, 8, 1, -3], ("AA", "JFK", "MIA"): [2, 2, 12, 0, 0]}


def test_months_come_from_the_data_and_lose_no_line(dag_file: ModuleType) -> None:
    months = dict(dag_file.split_by_month(FLIGHTS_CSV.splitlines(keepends=True)))
    assert list(months) == ["2013-01", "2013-02", "2013-10"]
    header = FLIGHTS_CSV.splitlines()[0]
    assert all(text.startswith(header) for text in months.values())
    assert sorted(line for text in months.values() for line in text.splitlines()[1:]) == sorted(
        FLIGHTS_CSV.splitlines()[1:]
    )


def test_the_package_has_as_many_flights_as_the_demo_says(dag_file: ModuleType) -> None:
    assert sum(1 for _ in dag_file.data_file("flights.csv")) == FLIGHTS + 1
    assert dag_file.data_file("weather.csv").readline().startswith("origin,year,month")


def test_the_dag_has_the_tasks_that_the_demo_judges_by() -> None:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(DAG_FILE))
    assert bag.import_errors == {}
    dag = bag.dags[DAG_ID]
    assert sorted(dag.task_ids) == sorted(TASKS)
    assert {task.task_id for task in dag.tasks if task.queue == "emr"} == STEP_TASKS

"""A SQLite file with Airflow's real tables, ours, and one DAG that Airflow has stored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dagbundle import DagBundleModel
from airflow.models.pool import Pool
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.tasklog import LogTemplate
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from emr_executor.config import ClusterPool, Settings
from emr_executor.store.dialect import engine_for
from emr_executor.store.schema import METADATA
from tests.cli.world import World
from tests.postgres import fresh_database

DAG_START = datetime(2025, 1, 1, tzinfo=UTC)


def salaries() -> DAG:
    """extract -> average (queue emr, at most 2 at once), and local in Airflow's default queue."""
    with DAG(
        "salaries",
        schedule=None,
        is_paused_upon_creation=False,
        start_date=DAG_START,
        max_active_tasks=3,
        max_active_runs=2,
    ) as dag:
        extract = EmptyOperator(task_id="extract")
        average = EmptyOperator(
            task_id="average", queue="emr", pool="spark", max_active_tis_per_dag=2, retries=2
        )
        EmptyOperator(task_id="local")
        extract >> average
    return dag


def prepare(engine: Engine) -> None:
    """All tables, what Airflow itself puts in them, and the DAG."""
    import_all_models()
    Base.metadata.create_all(engine)
    METADATA.create_all(engine)
    with Session(engine) as session:
        session.add(DagBundleModel(name="dags"))
        session.add(LogTemplate(id=1, filename="f", elasticsearch_id="e"))
        for name, slots in (("default_pool", 128), ("spark", 2)):
            session.add(Pool(pool=name, slots=slots, include_deferred=False))
        session.flush()
        lazy = LazyDeserializedDAG.from_dag(salaries())
        SerializedDAG.bulk_write_to_db("dags", None, [lazy], session=session)
        SerializedDagModel.write_dag(lazy, "dags", session=session)
        session.commit()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "template.db"
    engine = engine_for(f"sqlite:///{path}")
    prepare(engine)
    engine.dispose()
    return path


@pytest.fixture
def postgres() -> Iterator[Engine]:
    made = engine_for(fresh_database())
    prepare(made)
    yield made
    made.dispose()


@pytest.fixture
def engine(template: Path, tmp_path: Path) -> Iterator[Engine]:
    path = tmp_path / "airflow.db"
    shutil.copy(template, path)
    made = engine_for(f"sqlite:///{path}")
    yield made
    made.dispose()


@pytest.fixture
def world(engine: Engine, settings: Settings) -> World:
    return World(engine, settings)


@pytest.fixture
def ti_id(world: World) -> str:
    """A parked task instance; an agent steers."""
    world.take_lease()
    return world.parked()


@pytest.fixture
def settings() -> Settings:
    pool = ClusterPool(template={"StepConcurrencyLevel": 4}, max_clusters=2)
    return Settings(staging_uri="s3://bucket/airflow/", cluster_pools=(pool,))

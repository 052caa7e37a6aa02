"""A new database with all tables for each test, on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine

from emr_executor.store.dialect import engine_for
from emr_executor.store.schema import AIRFLOW, METADATA
from tests.postgres import fresh_database
from tests.store.whole_store import Store, store_in_memory, store_on


def _with_tables(url: str) -> str:
    engine = engine_for(url)
    METADATA.create_all(engine)
    AIRFLOW.create_all(engine)
    engine.dispose()
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _with_tables(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_session() -> Iterator[tuple[str, Engine]]:
    """One database for all tests: emptying its tables is quicker than making another."""
    url = _with_tables(fresh_database())
    cleaner = create_engine(url, isolation_level="AUTOCOMMIT")
    yield url, cleaner
    cleaner.dispose()


@pytest.fixture
def postgres_url(postgres_session: tuple[str, Engine]) -> str:
    url, cleaner = postgres_session
    tables = ", ".join((*METADATA.tables, *AIRFLOW.tables))
    with cleaner.connect() as connection:
        connection.exec_driver_sql(f"TRUNCATE {tables} RESTART IDENTITY")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with our tables and those of Airflow's that we read."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    path = tmp_path / "airflow.db"
    shutil.copy(request.getfixturevalue("sqlite_template"), path)
    return f"sqlite:///{path}"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    made = engine_for(url)
    yield made
    made.dispose()


@pytest.fixture
def conn(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that ends with the test."""
    with engine.begin() as connection:
        yield connection


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Engine]:
    """An engine on PostgreSQL, for what SQLite does not have."""
    made = engine_for(postgres_url)
    yield made
    made.dispose()


@pytest.fixture
def sqlite(sqlite_template: Path, tmp_path: Path) -> Iterator[Engine]:
    """An engine on SQLite."""
    path = tmp_path / "airflow.db"
    shutil.copy(sqlite_template, path)
    made = engine_for(f"sqlite:///{path}")
    yield made
    made.dispose()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    """The store with all its users: as a simulated world has it, and on both databases of production."""
    return (
        store_in_memory() if request.param == "memory" else store_on(request.getfixturevalue(request.param))
    )

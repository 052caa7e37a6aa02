"""Migrations and metadata agree; up and down work, by Alembic alone and the way Airflow runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, Integer, MetaData, Table, inspect

from emr_executor.store import schema
from emr_executor.store.dialect import engine_for
from tests.postgres import fresh_database

STORE = Path(schema.__file__).parent
OURS = {*schema.METADATA.tables, schema.VERSION_TABLE}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return fresh_database() if request.param == "postgresql" else f"sqlite:///{tmp_path / 'airflow.db'}"


@pytest.fixture
def empty(empty_url: str) -> Iterator[Connection]:
    """A database with one table of Airflow's."""
    engine = engine_for(empty_url)
    with engine.connect() as connection:
        Table("dag", MetaData(), Column("id", Integer, primary_key=True)).create(connection)
        connection.commit()
        yield connection
    engine.dispose()


def config_for(connection: Connection) -> Config:
    config = Config(STORE / "alembic.ini")
    config.attributes["connection"] = connection
    return config


def tables(connection: Connection) -> set[str]:
    connection.rollback()
    return set(inspect(connection).get_table_names())


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(
        connection,
        opts={
            "version_table": schema.VERSION_TABLE,
            "compare_type": True,
            "include_object": lambda _item, name, kind, *_: kind != "table" or name in schema.METADATA.tables,
        },
    )
    return compare_metadata(context, schema.METADATA)


def test_migrations_make_what_the_metadata_says(empty: Connection) -> None:
    command.upgrade(config_for(empty), "heads")
    assert tables(empty) == OURS | {"dag"}
    assert differences(empty) == []


def test_a_missing_column_would_be_found(empty: Connection) -> None:
    command.upgrade(config_for(empty), "heads")
    empty.exec_driver_sql("ALTER TABLE emr_cluster DROP COLUMN reason")
    empty.exec_driver_sql("DROP INDEX emr_history_at")
    assert len(differences(empty)) == 2


def test_going_down_leaves_airflows_tables_alone_and_up_again_works(empty: Connection) -> None:
    config = config_for(empty)
    command.upgrade(config, "heads")
    command.downgrade(config, "base")
    assert tables(empty) == {"dag", schema.VERSION_TABLE}
    command.upgrade(config, "heads")
    assert differences(empty) == []


def test_a_new_revision_would_be_empty(empty: Connection, tmp_path: Path) -> None:
    config = config_for(empty)
    command.upgrade(config, "heads")
    config.set_main_option("version_locations", f"{STORE / 'migrations' / 'versions'}{os.pathsep}{tmp_path}")
    made = command.revision(config, "nothing", autogenerate=True, version_path=str(tmp_path))
    text = Path(made.path).read_text()  # type: ignore[union-attr]
    assert text.count("pass\n") == 2
    assert "op.drop_table" not in text


def test_there_is_one_head() -> None:
    assert len(ScriptDirectory.from_config(Config(STORE / "alembic.ini")).get_heads()) == 1


AS_AIRFLOW_DOES = """
from airflow import settings
from airflow.settings import configure_vars, configure_orm
from sqlalchemy import inspect
from airflow.utils.db_manager import RunDBManager
from emr_executor.store.db_manager import EmrExecutorDBManager as Manager

RunDBManager._validate(Manager)
heads = set(Manager.revision_heads_map.values())
ours = {*Manager.metadata.tables, Manager.version_table_name}
tables = lambda: set(inspect(settings.get_engine()).get_table_names())
with settings.Session() as session:
    manager = Manager(session)
    for files in (False, True):
        manager.initdb(use_migration_files=files)
        assert tables() == ours, tables()
        assert manager.check_migration()
        assert {manager.get_current_revision()} == heads
        manager.upgradedb()
        manager.downgrade("base", show_sql_only=True)
        manager.downgrade("base")
        assert tables() == {manager.version_table_name}, tables()
        assert not manager.check_migration()
        session.commit()
    manager.upgradedb(use_migration_files=True)
    session.commit()
    with settings.get_engine().begin() as connection:
        manager.drop_tables(connection)
    assert tables() == set(), tables()
try:
    manager.downgrade("base", from_revision="0001")
except ValueError as e:
    print("refused:", e)
"""


def test_airflow_makes_migrates_and_drops_the_tables(empty_url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_AIRFLOW_DOES],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(STORE.parents[1]),
            "AIRFLOW_HOME": str(tmp_path / "home"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": empty_url,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "DROP TABLE emr_workload" in done.stdout
    assert "refused: from_revision is only for show_sql_only" in done.stdout

"""Migrations and metadata agree; up and down work, by Alembic alone and the way Airflow runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, Table, inspect

from emr_executor.store import schema
from emr_executor.store.dialect import engine_for
from emr_executor.store.migration_lock import migrating_alone
from tests.postgres import fresh_database
from tests.store.golden import STORE, config_for

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


def test_a_second_migration_waits_for_the_first(empty_url: str) -> None:
    order: list[str] = []
    first_holds, second_asks = Event(), Event()
    engines = [engine_for(empty_url) for _ in range(2)]

    def first() -> None:
        with migrating_alone(engines[0]):
            first_holds.set()
            second_asks.wait(10)
            order.append("first ends")

    def second() -> None:
        first_holds.wait(10)
        second_asks.set()
        with migrating_alone(engines[1]):
            order.append("second begins")

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(first), threads.submit(second)]:
            done.result(timeout=30)
    for engine in engines:
        engine.dispose()
    assert order == ["first ends", "second begins"]


AS_AIRFLOW_DOES = """
from airflow import settings
from airflow.settings import configure_vars, configure_orm
from sqlalchemy import inspect
from airflow.utils.db_manager import RunDBManager
from emr_executor.errors import ConfigError
from emr_executor.store.db_manager import EmrExecutorDBManager as Manager

RunDBManager._validate(Manager)
heads = set(Manager.revision_heads_map.values())
ours = {*Manager.metadata.tables, Manager.version_table_name}
tables = lambda: set(inspect(settings.get_engine()).get_table_names())
with settings.Session() as session:
    manager = Manager(session)
    for files in (False, True):
        manager.initdb(use_migration_files=files)
        manager.upgradedb(show_sql_only=True)
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
        connection.exec_driver_sql(f"UPDATE {Manager.version_table_name} SET version_num = '9999'")
    for change in (manager.initdb, manager.upgradedb, lambda: manager.downgrade("base")):
        try:
            change()
        except ConfigError as e:
            print("newer:", *e.problems)
    session.commit()
    with settings.get_engine().begin() as connection:
        manager.drop_tables(connection)
    assert tables() == set(), tables()
try:
    manager.downgrade("base", from_revision="0001")
except ValueError as e:
    print("refused:", e)
"""


SQL_OR_MIGRATION = """
import sys
from airflow import settings
from airflow.settings import configure_vars, configure_orm
from emr_executor.store.db_manager import EmrExecutorDBManager as Manager

with settings.Session() as session:
    manager = Manager(session)
    if sys.argv[1] == "sql":
        manager.upgradedb(show_sql_only=True)
        print("-- down;")
        manager.downgrade("base", from_revision="0001", show_sql_only=True)
    else:
        manager.initdb()
        print("done", manager.check_migration())
"""


def as_airflow(home: Path, url: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(STORE.parents[1]),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_airflow_makes_migrates_and_drops_the_tables(empty_url: str, tmp_path: Path) -> None:
    process = as_airflow(tmp_path, empty_url, "-c", AS_AIRFLOW_DOES)
    printed, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert "DROP TABLE emr_workload" in printed
    assert "refused: from_revision is only for show_sql_only" in printed
    assert printed.count("newer: the tables of emr_executor are of revision 9999") == 3


def test_the_printed_sql_makes_and_takes_the_tables(
    empty_url: str, empty: Connection, tmp_path: Path
) -> None:
    printed, told = as_airflow(tmp_path, empty_url, "-c", SQL_OR_MIGRATION, "sql").communicate(timeout=120)
    up, way, down = printed.partition("-- down;")
    assert way, told
    for sql, left in ((up, OURS | {"dag"}), (down, {"dag", schema.VERSION_TABLE})):
        for statement in filter(str.strip, sql.split(";")):
            if statement.split()[0] not in {"BEGIN", "COMMIT"}:
                empty.exec_driver_sql(statement)
        empty.commit()
        assert tables(empty) == left
        if sql is up:
            assert differences(empty) == []


def test_migrations_at_once_do_no_harm(empty_url: str, tmp_path: Path) -> None:
    both = [as_airflow(tmp_path / name, empty_url, "-c", SQL_OR_MIGRATION, "really") for name in ("a", "b")]
    for process in both:
        printed, told = process.communicate(timeout=120)
        assert printed.endswith("done True\n"), told
    engine = engine_for(empty_url)
    with engine.connect() as connection:
        assert tables(connection) == OURS
        assert differences(connection) == []
    engine.dispose()

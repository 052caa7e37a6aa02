"""The few places where SQLite and PostgreSQL want different words, and the engine for either."""

from __future__ import annotations

import sqlite3
from typing import Any, cast

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite

from emr_executor.errors import ConfigError

BUSY_TIMEOUT_S = 30
"""How long SQLite waits for another writer before it says that the database is locked."""
LIBPQ_BOUNDS: dict[str, int] = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""When a server that fell silent counts as away (libpq, "Parameter Key Words"; seconds, the last in ms).
Without them a statement waits for a dead host for as long as TCP does: a quarter of an hour and more."""
_LIBPQ_DRIVERS = frozenset({"psycopg2", "psycopg"})
_READ_ONLY = "emr_executor_read_only"


def upsert(dialect_name: str, table: Table) -> postgresql.Insert:
    """An INSERT into ``table`` that can say what to do where the row exists, for both dialects."""
    match dialect_name:
        case "postgresql":
            return postgresql.insert(table)
        case "sqlite":
            return cast(postgresql.Insert, sqlite.insert(table))
        case other:
            problem = (
                f"[database] sql_alchemy_conn names {other}, but emr_executor keeps its tables in PostgreSQL "
                "or SQLite only: move Airflow's metadata database to PostgreSQL"
            )
            raise ConfigError([problem])


def engine_for(url: str) -> Engine:
    """An engine of the agent's own for Airflow's metadata database.

    SQLite: a transaction that may write takes the write lock at its start (BEGIN IMMEDIATE), because one that
    reads first and writes later fails at once, without waiting, when another has written in between; readers
    never wait (WAL). PostgreSQL: READ COMMITTED, guarded by versions and row locks; a connection is tried
    before each use, so that the first transaction after a restart of the server works, and none waits long
    for a server that is away.
    """
    # What is stored (commands, environments) does not belong in an error's text.
    engine = create_engine(url, pool_recycle=1800, hide_parameters=True, **_patience(make_url(url)))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _patience(url: URL) -> dict[str, Any]:
    if url.get_backend_name() != "postgresql":
        return {}
    own = {name: value for name, value in LIBPQ_BOUNDS.items() if name not in url.query}
    bounds = own if url.get_driver_name() in _LIBPQ_DRIVERS else {}
    return {"pool_pre_ping": True, "connect_args": bounds}


def for_reading(conn: Connection) -> Connection:
    """The connection with its next transaction for reading: one moment for all of its statements.

    PostgreSQL: REPEATABLE READ READ ONLY, said with the driver's own BEGIN. SQLite: no write lock.
    """
    if conn.dialect.name == "postgresql":
        return conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return conn.execution_options(**{_READ_ONLY: True})


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transactions would begin late and without IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _begin_sqlite(conn: Connection) -> None:
    read_only = conn.get_execution_options().get(_READ_ONLY, False)
    conn.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

"""Only one migration of our tables at a time: a second one waits, and then finds nothing left to do."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, func, select

LOCK_KEY = 0x656D725F_65786563
"""Ours among PostgreSQL's advisory locks; Airflow's own are small numbers."""


@contextmanager
def migrating_alone(engine: Engine) -> Iterator[None]:
    """Hold the database's one place for a migration; waits for whoever has it."""
    if engine.dialect.name == "postgresql":
        with _advisory_lock(engine):
            yield
    elif (database := engine.url.database) in (None, "", ":memory:"):
        yield  # nobody else can see it
    else:
        with _file_lock(Path(str(database))):
            yield


@contextmanager
def _advisory_lock(engine: Engine) -> Iterator[None]:
    # Without a transaction: one that stays open would hold back CREATE INDEX CONCURRENTLY and vacuum.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(select(func.pg_advisory_lock(LOCK_KEY)))
        try:
            yield
        finally:
            connection.execute(select(func.pg_advisory_unlock(LOCK_KEY)))


@contextmanager
def _file_lock(database: Path) -> Iterator[None]:
    # Not on the database's own file: closing it would drop the locks that SQLite holds in this process.
    with database.with_name(f"{database.name}.migration-lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""How the commands read: one transaction, one moment, nothing written, nothing asked of AWS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, inspect

from emr_executor.config import Settings
from emr_executor.errors import ConfigError, EmrExecutorError
from emr_executor.store.runner import transact
from emr_executor.store.schema import METADATA

T = TypeVar("T")


class CannotTell(EmrExecutorError):
    """What was asked for cannot be shown; the message says what to do."""


def read(work: Callable[..., T], *args: Any, engine: Engine | None = None) -> T:
    """``work(connection, *args)`` on Airflow's own engine, in a transaction that only reads.

    Raises CannotTell where our tables are missing, StoreBusy where the database does not answer.
    """

    def with_tables(conn: Connection) -> T:
        missing = sorted(METADATA.tables.keys() - set(inspect(conn).get_table_names()))
        if missing:
            raise CannotTell(f"the database has no table {', '.join(missing)}: run `airflow db migrate`")
        return work(conn, *args)

    return transact(engine or _airflow_engine(), with_tables, read_only=True)


def settings_or_problems() -> tuple[Settings | None, tuple[str, ...]]:
    """The configuration, or None and every problem for which the executor would refuse it."""
    from emr_executor.config_load import load_settings

    try:
        return load_settings(), ()
    except ConfigError as error:
        return None, error.problems


def _airflow_engine() -> Engine:
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        engine = session.get_bind()
    return engine.engine

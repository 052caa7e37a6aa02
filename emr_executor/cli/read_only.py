"""How the commands read: one transaction, one moment, nothing written, nothing asked of AWS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from emr_executor.config import Settings
from emr_executor.errors import ConfigError, EmrExecutorError
from emr_executor.store.revision import tables_problem
from emr_executor.store.runner import transact

T = TypeVar("T")


class CannotTell(EmrExecutorError):
    """What was asked for cannot be shown; the message says what to do."""


def read(work: Callable[..., T], *args: Any, engine: Engine | None = None) -> T:
    """``work(connection, *args)`` on Airflow's own engine, in a transaction that only reads.

    Raises CannotTell where our tables are missing or of another release, StoreBusy where the database does
    not answer.
    """

    def with_tables(conn: Connection) -> T:
        if problem := tables_problem(conn):
            raise CannotTell(problem)
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

"""How the commands read: one transaction, one moment, nothing written, nothing asked of AWS."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from airflow.utils.session import create_session
from sqlalchemy import Connection, Engine

from emr_executor.config import Settings
from emr_executor.config_load import executor_problem, load_settings
from emr_executor.errors import ConfigError, EmrExecutorError
from emr_executor.store.revision import tables_problem
from emr_executor.store.runner import transact

T = TypeVar("T")


class CannotTell(EmrExecutorError):
    """What was asked for cannot be shown; the message says what to do."""


def read(work: Callable[[Connection], T], engine: Engine | None = None) -> T:
    """``work(connection)`` on Airflow's own engine, in a transaction that only reads.

    Raises CannotTell where our tables are missing or of another release, StoreBusy where the database does
    not answer.
    """

    def with_tables(conn: Connection) -> T:
        if problem := tables_problem(conn):
            raise CannotTell(problem)
        return work(conn)

    return transact(engine or _airflow_engine(), with_tables, read_only=True)


def settings_or_problems() -> tuple[Settings | None, tuple[str, ...]]:
    """The configuration, or None, and every problem for which the executor would refuse it."""
    executor = executor_problem()
    problems = (executor,) if executor else ()
    try:
        return load_settings(), problems
    except ConfigError as error:
        return None, (*problems, *error.problems)


def _airflow_engine() -> Engine:
    with create_session(scoped=False) as session:
        return session.get_bind().engine

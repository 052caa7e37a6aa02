"""How a transaction is run: in a thread beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from emr_executor.errors import StoreBusy
from emr_executor.store.dialect import for_reading

P = ParamSpec("P")
T = TypeVar("T")
_READ_ONLY_NOW = "25006"
"""SQLSTATE read_only_sql_transaction."""


def transact(engine: Engine, work: Callable[..., T], *args: Any, read_only: bool = False) -> T:
    """``work(connection, *args)`` in one transaction of its own, rolled back when it raises.

    Raises StoreBusy where the database did not answer, is locked, takes no writes now (a standby before its
    promotion), or ended this transaction for a deadlock.
    After a connection was lost during commit the work may be done: guarded writes find that out themselves.
    """
    try:
        with engine.connect() as plain:
            conn = for_reading(plain) if read_only else plain
            with conn.begin():
                return work(conn, *args)
    except (OperationalError, InterfaceError, PoolTimeoutError) as e:
        raise StoreBusy(_why(e)) from e
    except DBAPIError as e:
        if e.connection_invalidated or (_sqlstate(e) == _READ_ONLY_NOW and not read_only):
            raise StoreBusy(_why(e)) from e
        raise


def _sqlstate(error: DBAPIError) -> str | None:
    # psycopg2 and psycopg name it differently; SQLite has none.
    return getattr(error.orig, "pgcode", None) or getattr(error.orig, "sqlstate", None)


def _why(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return f"Airflow's metadata database did not do its work: {' '.join(str(cause).split())}"


class Runner(Protocol):
    """Runs functions of the store, each in one transaction. Both methods raise StoreBusy."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """A transaction that may write."""
        ...

    async def read(self, work: Callable[..., T], *args: Any) -> T:
        """A transaction that only reads; on SQLite it waits for no writer."""
        ...


class OnRunner(Protocol):
    """Whose calls go through a runner."""

    runner: Runner


def writes(
    work: Callable[Concatenate[Connection, P], T],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A method of who is OnRunner: a function of the store in a transaction that may write."""

    async def call(self: OnRunner, /, *args: P.args, **named: P.kwargs) -> T:
        return await self.runner.run(partial(work, **named) if named else work, *args)

    return call


def reads(
    work: Callable[Concatenate[Connection, P], T],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A method of who is OnRunner: a function of the store in a transaction that only reads."""

    async def call(self: OnRunner, /, *args: P.args, **named: P.kwargs) -> T:
        return await self.runner.read(partial(work, **named) if named else work, *args)

    return call


class ThreadRunner:
    """Runs each transaction in one of a few threads of its own, so that the event loop never waits.

    A cancelled await does not stop the transaction: it ends by itself, with its effect.
    """

    def __init__(self, engine: Engine, threads: int = 4) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="store")

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """A transaction that may write."""
        return await self._in_thread(partial(transact, self._engine, work, *args))

    async def read(self, work: Callable[..., T], *args: Any) -> T:
        """A transaction that only reads."""
        return await self._in_thread(partial(transact, self._engine, work, *args, read_only=True))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Wait for running transactions and close all connections."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._engine.dispose()

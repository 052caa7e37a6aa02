"""SQLite in memory, quick: the functions of the store on the one connection of a world.

SQLAlchemy compiles every statement and says how values go in and come out, as in production. Left out is what
a pool, the life of a cursor and many dialects need: that costs ten times what SQLite does, and a world of 200
tasks runs 20,000 statements. A statement that is made for one call only takes SQLAlchemy's own way, over the
same connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Executable, create_engine
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import StaticPool

from emr_executor.store.schema import AIRFLOW, METADATA

T = TypeVar("T")
_STATEMENTS_KEPT = 500
_DIALECT = sqlite.dialect()


class MemoryRunner:
    """``store.runner.Runner`` on a new database in memory: each transaction on the spot."""

    def __init__(self) -> None:
        settings = {"cached_statements": _STATEMENTS_KEPT, "isolation_level": None}
        engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args=settings, isolation_level="AUTOCOMMIT"
        )
        sqlalchemy = engine.connect()
        METADATA.create_all(sqlalchemy)
        AIRFLOW.create_all(sqlalchemy)
        self._database: Any = sqlalchemy.connection.dbapi_connection
        self._conn: Any = _QuickConnection(sqlalchemy, self._database)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """A transaction that may write."""
        return self.transact(work, *args)

    async def read(self, work: Callable[..., T], *args: Any) -> T:
        """A transaction that only reads: nobody writes between its statements."""
        return work(self._conn, *args)

    def transact(self, work: Callable[..., T], *args: Any) -> T:
        """``work(connection, *args)``: all of it happens, or nothing."""
        self._database.execute("BEGIN")
        try:
            done = work(self._conn, *args)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        return done


class _QuickConnection:
    """What the store uses of a ``Connection``."""

    def __init__(self, sqlalchemy: Connection, database: Any) -> None:
        self.dialect = sqlalchemy.dialect
        self._sqlalchemy, self._database = sqlalchemy, database

    def execute(self, statement: Executable, parameters: Any = None) -> Any:
        """The rows that it gives back and ``rowcount``, as SQLAlchemy shows them."""
        variants = _PREPARED.get(statement)
        if variants is None:
            # Most statements that are made for one call are gone before they could come again.
            _PREPARED[statement] = {}
            return self._sqlalchemy.execute(statement, parameters)
        is_many = isinstance(parameters, Sequence)
        one: Mapping[str, Any] = parameters[0] if is_many else parameters or {}
        one = {name: _filled_up(value) if isinstance(value, list) else value for name, value in one.items()}
        lists = tuple(len(value) for value in one.values() if isinstance(value, list))
        prepared = variants.get(lists)
        if prepared is None:
            prepared = variants[lists] = _Prepared(statement, one)
        return prepared.execute(self._database, parameters if is_many else one, is_many=is_many)


class _Prepared:
    """A statement that is executed again and again, with parameters of the same names and lists as long."""

    def __init__(self, statement: Any, given: Mapping[str, Any]) -> None:
        compiled = statement.compile(dialect=_DIALECT, column_keys=sorted(given))
        state = compiled.construct_expanded_state(given)
        self._text = state.statement
        into = {
            name: bind.type.dialect_impl(_DIALECT).bind_processor(_DIALECT)
            for name, bind in compiled.binds.items()
        }
        part_of = {
            part: (name, place)
            for name, parts in state.parameter_expansion.items()
            for place, part in enumerate(parts)
        }
        self._parameters: list[tuple[str | None, int | None, Any, Any]] = []
        for part in state.positiontup:
            name, place = part_of.get(part, (part, None))
            convert, value = into.get(name), state.parameters[part]
            if name not in given:
                fixed = value if convert is None else convert(value)
                self._parameters.append((None, None, fixed, None))
            else:
                self._parameters.append((name, place, None, convert))
        columns = statement.exported_columns
        out = [column.type.dialect_impl(_DIALECT).result_processor(_DIALECT, None) for column in columns]
        self._metadata = SimpleResultMetaData(columns.keys(), _processors=out if any(out) else None)

    def execute(self, database: sqlite3.Connection, parameters: Any, *, is_many: bool) -> _Result:
        """Once, or once for each of many parameters. Raises IntegrityError."""
        try:
            if is_many:
                cursor = database.executemany(self._text, list(map(self._values, parameters)))
            else:
                cursor = database.execute(self._text, self._values(parameters))
        except sqlite3.IntegrityError as e:
            raise IntegrityError(self._text, None, e) from e
        return _Result(self._metadata, cursor)

    def _values(self, given: Mapping[str, Any]) -> list[Any]:
        values = []
        for name, place, fixed, convert in self._parameters:
            if name is None:
                values.append(fixed)
                continue
            value = given[name] if place is None else given[name][place]
            values.append(value if convert is None else convert(value))
        return values


_PREPARED: WeakKeyDictionary[Executable, dict[tuple[int, ...], _Prepared]] = WeakKeyDictionary()
"""Of each statement that was seen, by the lengths of the lists in its parameters."""


def _filled_up(values: list[Any]) -> list[Any]:
    """To the next power of two with the last one, which says the same and makes few texts of IN."""
    return values + values[-1:] * ((1 << (len(values) - 1).bit_length()) - len(values)) if values else values


class _Result(IteratorResult[Any]):
    def __init__(self, metadata: SimpleResultMetaData, cursor: sqlite3.Cursor) -> None:
        super().__init__(metadata, iter(cursor.fetchall()))
        self.rowcount = cursor.rowcount

"""PostgreSQL and SQLite as the interleaved runs need them: stops, quick restores, and who waits for whom."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable
from typing import Any

import psycopg2
from sqlalchemy import Engine, Table, event

from emr_executor.store.dialect import engine_for
from emr_executor.store.runner import transact
from emr_executor.store.schema import AIRFLOW, METADATA
from tests.store.interleaving import RowKey, State, Work

TABLES: tuple[Table, ...] = (*METADATA.sorted_tables, *AIRFLOW.sorted_tables)
KEYS = {table.name: next(iter(table.primary_key.columns)).name for table in TABLES}
_PING = "SELECT 1"
"""What the pool asks of a connection before it hands it out."""
_HISTORY = "emr_history"
_UNNUMBERED = {_HISTORY: " - 'id'"}
_STATE = " UNION ALL ".join(
    f"SELECT '{name}', to_jsonb(x){_UNNUMBERED.get(name, '')} FROM {name} x" for name in KEYS
)
_LOCKED = " UNION ALL ".join(
    f"SELECT '{name}', {key}::text FROM {name} "
    f"WHERE {key} NOT IN (SELECT {key} FROM {name} FOR UPDATE SKIP LOCKED)"
    for name, key in KEYS.items()
)


class Postgres:
    """An empty database on PostgreSQL, with a session beside that looks on and one that locks rows."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.plain = engine_for(url)
        event.listen(self.plain, "connect", _set("lock_timeout = '200ms'"))
        METADATA.create_all(self.plain)
        AIRFLOW.create_all(self.plain)
        self._onlooker = self.plain.raw_connection()
        self._onlooker.driver_connection.autocommit = True
        self._look = self._onlooker.cursor()
        # Nothing may be locked while it works: better an error than a test that hangs.
        self._look.execute("SET lock_timeout = '10s'")
        self._filled_by: Work | None = None
        self._kept: State = {}
        self._changed = set(KEYS)
        self._locker = self.plain.raw_connection()
        self._lock = self._locker.cursor()

    def engine(self, stop: Callable[[str], None]) -> Engine:
        """An engine for one session; of an ``executemany`` it stops before each single statement."""
        engine = engine_for(self._url)
        cursor_class = _stopping_cursor(stop)

        @event.listens_for(engine, "connect")
        def set_up(connection: Any, record: object) -> None:
            _set("lock_timeout = '20s'")(connection, record)
            connection.cursor_factory = cursor_class

        _stop_at_ends(engine, stop)
        return engine

    def keep(self, fill: Work) -> None:
        """Empty all tables, fill them, and remember this for ``restore``, unless it is kept already."""
        if fill is self._filled_by:
            return
        self._filled_by = fill
        self._look.execute(f"TRUNCATE {', '.join(KEYS)} RESTART IDENTITY")
        transact(self.plain, fill)
        for name in KEYS:
            self._look.execute(
                f"DROP TABLE IF EXISTS kept_{name}; CREATE TEMP TABLE kept_{name} AS TABLE {name}"
            )
        self._look.execute(f"DEALLOCATE ALL; PREPARE state AS {_STATE}")
        self._kept, self._changed = self.state(), set()

    def restore(self) -> None:
        """All tables as they were kept."""
        if self._changed:
            self._look.execute(_restoring(self._changed))
        self._changed = set(KEYS)

    def state(self) -> State:
        """All tables as they are, in one statement."""
        self._look.execute("EXECUTE state")
        found: State = {name: [] for name in KEYS}
        for name, row in self._look.fetchall():
            found[name].append(row)
        found = _in_order(found)
        self._changed = {name for name in KEYS if found[name] != self._kept.get(name)}
        return found

    def waits(self, sessions: Collection[int]) -> dict[int, set[int]]:
        """For whose locks each of the sessions waits, by their pids."""
        self._look.execute("SELECT pid, pg_blocking_pids(pid) FROM unnest(%s) AS pid", (list(sessions),))
        return {pid: set(others) for pid, others in self._look.fetchall()}

    def lock(self, rows: Collection[RowKey]) -> int:
        """Lock rows, where they still are, from a session that stands still until ``unlock``; its pid."""
        for name, key in rows:
            self._lock.execute(f"SELECT 1 FROM {name} WHERE {KEYS[name]}::text = %s FOR UPDATE", (key,))
        return self._locker.driver_connection.get_backend_pid()

    def unlock(self) -> None:
        """Let go of these rows."""
        self._locker.rollback()

    def locked_rows(self) -> set[RowKey]:
        """All rows that some session has locked."""
        self._look.execute(_LOCKED)
        return set(self._look.fetchall())

    def close(self) -> None:
        """Leave nothing open."""
        self._onlooker.close()
        self._locker.close()
        self.plain.dispose()


class Sqlite:
    """A database on SQLite; a session that would have to wait for another fails at once instead."""

    def __init__(self, path: str) -> None:
        self._url = f"sqlite:///{path}"
        self.plain = engine_for(self._url)
        self._filled_by: Work | None = None
        self._kept: State = {}
        self._changed = set(KEYS)
        self._onlooker = sqlite3.connect(path, isolation_level=None)
        self._onlooker.row_factory = sqlite3.Row
        self._onlooker.execute("PRAGMA synchronous=OFF")

    def engine(self, stop: Callable[[str], None]) -> Engine:
        """An engine for one session."""
        engine = engine_for(self._url)

        @event.listens_for(engine, "connect")
        def set_up(connection: sqlite3.Connection, _record: object) -> None:
            connection.execute("PRAGMA busy_timeout=0")
            connection.execute("PRAGMA synchronous=OFF")

        @event.listens_for(engine, "before_cursor_execute")
        def before(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            stop(statement)

        _stop_at_ends(engine, stop)
        return engine

    def keep(self, fill: Work) -> None:
        """Empty all tables, fill them, and remember this for ``restore``, unless it is kept already."""
        if fill is self._filled_by:
            return
        self._filled_by = fill
        for name in KEYS:
            self._onlooker.execute(f"DELETE FROM {name}")
        transact(self.plain, fill)
        for name in KEYS:
            self._onlooker.execute(f"DROP TABLE IF EXISTS temp.kept_{name}")
            self._onlooker.execute(f"CREATE TEMP TABLE kept_{name} AS SELECT * FROM {name}")
        self._kept, self._changed = self.state(), set()

    def restore(self) -> None:
        """All tables as they were kept."""
        if self._changed:
            self._onlooker.executescript(_restoring(self._changed))
        self._changed = set(KEYS)

    def state(self) -> State:
        """All tables as they are."""
        found: State = {}
        for name in KEYS:
            rows = [dict(row) for row in self._onlooker.execute(f"SELECT * FROM {name}")]
            if name == _HISTORY:
                rows = [{key: value for key, value in row.items() if key != "id"} for row in rows]
            found[name] = rows
        found = _in_order(found)
        self._changed = {name for name in KEYS if found[name] != self._kept.get(name)}
        return found

    def waits(self, sessions: Collection[int]) -> dict[int, set[int]]:
        """Nobody ever waits."""
        return {session: set() for session in sessions}

    def lock(self, rows: Collection[RowKey]) -> int:
        """There are no locks of rows."""
        assert not rows
        return 0

    def unlock(self) -> None:
        """There are no locks of rows."""

    def close(self) -> None:
        """Leave nothing open."""
        self._onlooker.close()
        self.plain.dispose()


def _set(setting: str) -> Callable[[Any, object], None]:
    def set_it(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET {setting}")
        connection.commit()

    return set_it


def _restoring(names: Iterable[str]) -> str:
    copies = (f"DELETE FROM {name}; INSERT INTO {name} SELECT * FROM kept_{name};" for name in sorted(names))
    return f"BEGIN; {' '.join(copies)} COMMIT"


def _in_order(state: State) -> State:
    return {name: sorted(rows, key=lambda row: str(sorted(row.items()))) for name, rows in state.items()}


def _stop_at_ends(engine: Engine, stop: Callable[[str], None]) -> None:
    event.listen(engine, "commit", lambda _conn: stop("COMMIT"))
    event.listen(engine, "rollback", lambda _conn: stop("ROLLBACK"))


def _stopping_cursor(stop: Callable[[str], None]) -> type:
    class StoppingCursor(psycopg2.extensions.cursor):
        _rows: int | None = None

        def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 - the driver's own name
            if query != _PING:
                stop(str(query))
            self._rows = None
            super().execute(query, vars)

        def executemany(self, query: Any, vars_list: Any) -> None:
            # As the driver does it: a statement for each, and the sum of their rows.
            rows = 0
            for one in vars_list:
                self.execute(query, one)
                rows += super().rowcount
            self._rows = rows

        @property
        def rowcount(self) -> int:
            return super().rowcount if self._rows is None else self._rows

    return StoppingCursor

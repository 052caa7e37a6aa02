"""Rows that are read once: of those that a reader knows, only the keys and counters are read again.

Every change of a row changes one of its counters, so a key with its counters (``stamp``) names a value. The
database joins the stamps of all rows into one text, which is the same as long as no row has changed, come or
gone: a reader that looks every second pays for what changed, and not for what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Select, SelectBase, String, cast, func, select

from emr_executor.core.transitions import Row
from emr_executor.store.rows import Fields, as_dicts

AT_ONCE = 500
"""Rows that one statement reads by their ids."""

Value = TypeVar("Value", bound=Row)


def stamps(which: SelectBase) -> Select[Any]:
    """A statement that gives the rows of another one, which are keys and counters, as one text."""
    key, *counters = which.subquery().c
    stamp: ColumnElement[str] = key
    for counter in counters:
        stamp = stamp.concat(":").concat(func.coalesce(cast(counter, String), ""))
    return select(func.aggregate_strings(stamp, ","))


class KnownRows(Generic[Value]):
    """One reader's memory of the rows of one statement.

    stamped: the statement, as ``stamps`` makes it
    columns: what values are made of, the primary key first
    """

    def __init__(
        self,
        stamped: Select[Any],
        columns: Sequence[Column[Any]],
        value_of: Callable[[Fields], Value],
    ) -> None:
        self._stamped, self._columns, self._value_of = stamped, columns, value_of
        # Replaced as a whole: a read that nobody waits for any more may still go on in a thread of its own.
        self._known: tuple[str, dict[str, Value], tuple[Value, ...]] = ("", {}, ())

    def read(self, conn: Connection, **parameters: Any) -> tuple[Value, ...]:
        """The values as they stand; the same tuple as before where nothing changed."""
        known_text, known, values = self._known
        text = conn.execute(self._stamped, parameters).scalar_one() or ""
        if text != known_text:
            found = text.split(",") if text else []
            unknown = {stamp.partition(":")[0]: stamp for stamp in found if stamp not in known}
            known = known | self._fetch(conn, unknown)
            by_stamp = {stamp: known[stamp] for stamp in found if stamp in known}
            values = tuple(by_stamp.values())
            self._known = text, by_stamp, values
        return values

    def _fetch(self, conn: Connection, unknown: Mapping[str, str]) -> dict[str, Value]:
        fetched, ids, key = {}, iter(unknown), self._columns[0]
        while some := list(islice(ids, AT_ONCE)):
            for row in as_dicts(conn.execute(select(*self._columns).where(key.in_(some)))):
                fetched[unknown[row[key.name]]] = self._value_of(row)
        return fetched

"""Guarded writes of the steering agent: all of a tick's changes with their story, or nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Connection, Insert, Select, Table, Update, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from emr_executor.core.model import Cluster, HistoryEntry, Submission, Workload
from emr_executor.core.transitions import Row, check_change
from emr_executor.errors import StaleWriter
from emr_executor.store.history_store import append
from emr_executor.store.lease_store import hold_lease
from emr_executor.store.rows import Columns, TableMapping, mapping_of

_Update = tuple[Row, Columns]
_TABLES_IN_ORDER: tuple[type[Row], ...] = (Workload, Submission, Cluster)
_NAMED_AT_MOST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a value was when it was read, and what it should be. ``old`` None: a new row."""

    old: Row | None
    new: Row


def apply(
    conn: Connection, lease_token: int, changes: Sequence[Change], history: Sequence[HistoryEntry] = ()
) -> tuple[Row, ...]:
    """Write all changes and the story of them, or nothing; the new values with their new versions, in order.

    Only columns that differ are written. Several changes of one row count as one, from its first ``old`` to
    its last ``new``. Raises StaleWriter when the lease is lost, or when a row, named, is no longer as it was
    read: the caller rolls back, reads again and decides again. Raises InvalidTransition, naming the row, for
    a change that ``core.transitions`` does not have.
    """
    hold_lease(conn, lease_token)
    inserts: dict[type[Row], list[Row]] = defaultdict(list)
    updates: dict[type[Row], list[_Update]] = defaultdict(list)
    written: dict[str, Row] = {}
    # One order of tables and rows for all writers, so that no two wait for each other.
    for key, change in sorted(_merged(changes).items()):
        kind = type(change.new)
        written[key] = change.new
        if change.old is None:
            inserts[kind].append(change.new)
        elif columns := mapping_of(kind).changed_columns(change.old, change.new):
            updates[kind].append((change.old, columns))
            written[key] = replace(change.new, version=change.old.version + 1)
    for kind in filter(inserts.__contains__, _TABLES_IN_ORDER):
        _insert(conn, mapping_of(kind), inserts[kind])
    for kind in filter(updates.__contains__, _TABLES_IN_ORDER):
        _update(conn, mapping_of(kind), updates[kind])
    append(conn, history)
    return tuple(written[key_of(change.new)] for change in changes)


def key_of(value: Row) -> str:
    """The primary key of a value's row."""
    return str(getattr(value, mapping_of(type(value)).key_column.name))


def _merged(changes: Iterable[Change]) -> dict[str, Change]:
    """Each row once, by its key: from the first ``old`` to the last ``new`` of it.

    Raises InvalidTransition for a change of state that is no edge of its table.
    """
    by_key: dict[str, Change] = {}
    for change in changes:
        check_change(change.old, change.new)
        key = key_of(change.new)
        earlier = by_key.get(key)
        by_key[key] = Change(old=earlier.old, new=change.new) if earlier else change
    return by_key


def _insert(conn: Connection, mapping: TableMapping[Any], values: Sequence[Row]) -> None:
    try:
        conn.execute(_insert_into(mapping.table), [mapping.columns(value) for value in values])
    except IntegrityError as e:
        keys = ", ".join(key_of(value) for value in values[:_NAMED_AT_MOST])
        raise StaleWriter(f"one of these rows of {mapping.table.name} exists already: {keys}") from e


def _update(conn: Connection, mapping: TableMapping[Any], rows: Sequence[_Update]) -> None:
    _lock(conn, mapping, [old for old, _ in rows])
    alike: dict[frozenset[str], list[_Update]] = defaultdict(list)
    for row in rows:
        alike[frozenset(row[1])].append(row)
    for names, group in alike.items():
        _update_alike(conn, mapping, sorted(names), group)


def _lock(conn: Connection, mapping: TableMapping[Any], read: Sequence[Row]) -> None:
    """Hold the rows in the order of their keys, as they were read. Raises StaleWriter naming the others."""
    wanted = {key_of(value): value.version for value in read}
    rows = conn.execute(_locked(mapping.table), {"their_keys": list(wanted)})
    found: dict[str, int] = {row[0]: row[1] for row in rows}
    wrong = [
        f"{its_key} (read at version {its_version}, now {found.get(its_key, 'deleted')})"
        for its_key, its_version in wanted.items()
        if found.get(its_key) != its_version
    ]
    if wrong:
        more = f" and {len(wrong) - _NAMED_AT_MOST} more" if len(wrong) > _NAMED_AT_MOST else ""
        named = "; ".join(wrong[:_NAMED_AT_MOST])
        raise StaleWriter(f"{mapping.table.name} moved on since it was read: {named}{more}")


@cache
def _locked(table: Table) -> Select[Any]:
    (key,) = table.primary_key.columns
    wanted = key.in_(bindparam("their_keys", expanding=True))
    return select(key, table.c.version).where(wanted).order_by(key).with_for_update()


def _update_alike(
    conn: Connection, mapping: TableMapping[Any], names: Sequence[str], rows: Sequence[_Update]
) -> None:
    parameters = [
        {
            "its_key": key_of(old),
            "its_version": old.version,
            **{f"new_{name}": value for name, value in columns.items()},
        }
        for old, columns in rows
    ]
    if conn.execute(_update_of(mapping.table, tuple(names)), parameters).rowcount != len(rows):
        raise StaleWriter(f"{mapping.table.name} moved on although its rows were locked")


@lru_cache(maxsize=256)
def _update_of(table: Table, names: tuple[str, ...]) -> Update:
    # A tick writes the same few shapes again and again, and making a statement takes longer than running it.
    (key,) = table.primary_key.columns
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    return (
        update(table)
        .where(key == bindparam("its_key"), table.c.version == bindparam("its_version"))
        .values(values | {"version": table.c.version + 1})
    )


@cache
def _insert_into(table: Table) -> Insert:
    return insert(table)

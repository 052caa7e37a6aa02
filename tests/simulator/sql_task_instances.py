"""Airflow's task_instance table, written as a model of Airflow changes it, where the store is on SQL."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Insert,
    Update,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    update,
)

from emr_executor.core.model import TaskKey
from emr_executor.store.schema import TASK_INSTANCE

_PLACE = ("dag_id", "task_id", "run_id", "map_index")


class SqlTaskInstances:
    """Airflow's task_instance table, as far as the store reads it, written by the model of Airflow.

    Each call is a transaction of its own. A task instance has one row: putting a new id for its key removes
    the older one.

    transact: as ``store.runner.transact`` of some engine
    """

    def __init__(self, transact: Callable[..., Any]) -> None:
        self._transact = transact

    def put(self, ti_id: str, key: TaskKey, state: str | None) -> None:
        """The task instance as it is now."""
        row = {
            "id": uuid.UUID(ti_id),
            "dag_id": key.dag_id,
            "task_id": key.task_id,
            "run_id": key.run_id,
            "map_index": key.map_index,
            "try_number": key.try_number,
            "state": state,
        }
        self._transact(_put, row)

    def remove(self, ti_id: str) -> None:
        """The row is deleted."""
        self._transact(lambda conn: conn.execute(_removed(), {"its_id": uuid.UUID(ti_id)}))


def _put(conn: Connection, row: dict[str, Any]) -> None:
    its = {f"its_{name}": row[name] for name in ("id", *_PLACE)}
    # Most of the time it is there and only its state is new.
    changed = {"new_try_number": row["try_number"], "new_state": row["state"]}
    if not conn.execute(_changed(), its | changed).rowcount:
        conn.execute(_replaced(), its)
        conn.execute(_inserted(), row)


@cache
def _removed() -> Delete:
    return delete(TASK_INSTANCE).where(_same_id())


@cache
def _changed() -> Update:
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in ("try_number", "state")}
    return update(TASK_INSTANCE).where(_same_id(), _same_place()).values(values)


@cache
def _replaced() -> Delete:
    return delete(TASK_INSTANCE).where(or_(_same_id(), _same_place()))


def _same_id() -> ColumnElement[bool]:
    return TASK_INSTANCE.c.id == bindparam("its_id")


def _same_place() -> ColumnElement[bool]:
    return and_(*(TASK_INSTANCE.c[name] == bindparam(f"its_{name}") for name in _PLACE))


@cache
def _inserted() -> Insert:
    return insert(TASK_INSTANCE)

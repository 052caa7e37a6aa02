"""Airflow's task_instance table, written as a model of Airflow changes it, where the store is on SQL."""

from __future__ import annotations

import uuid
from functools import cache
from typing import Any

from sqlalchemy import Delete, Engine, Insert, and_, bindparam, delete, insert, or_

from emr_executor.core.model import TaskKey
from emr_executor.store.runner import transact
from emr_executor.store.schema import TASK_INSTANCE

_PLACE = ("dag_id", "task_id", "run_id", "map_index")


class SqlTaskInstances:
    """``TaskInstances`` through an engine, each call in a transaction of its own. Raises StoreBusy."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

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
        transact(self._engine, _put, row)

    def remove(self, ti_id: str) -> None:
        """The row is deleted."""
        transact(self._engine, lambda conn: conn.execute(_removed(), {"its_id": uuid.UUID(ti_id)}))


def _put(conn: Any, row: dict[str, Any]) -> None:
    older = {f"its_{name}": row[name] for name in ("id", *_PLACE)}
    conn.execute(_replaced(), older)
    conn.execute(_inserted(), row)


@cache
def _removed() -> Delete:
    return delete(TASK_INSTANCE).where(TASK_INSTANCE.c.id == bindparam("its_id"))


@cache
def _replaced() -> Delete:
    same_place = and_(*(TASK_INSTANCE.c[name] == bindparam(f"its_{name}") for name in _PLACE))
    return delete(TASK_INSTANCE).where(or_(TASK_INSTANCE.c.id == bindparam("its_id"), same_place))


@cache
def _inserted() -> Insert:
    return insert(TASK_INSTANCE)

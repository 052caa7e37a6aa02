"""Rows of the tables to values of ``core.model`` and back: total, both ways, and nothing else.

A field is the column of its name, but for those that ``_MAPPINGS`` names. A guarded write sends only what
changed: ``changed_columns`` compares two values field by field and converts the fields that differ, so it may
be given values whose bulky fields were left out of a snapshot.

JSON of other releases is read: keys that are not known are passed over, those that are missing have their
default. A row that cannot be read is a value in quarantine (``store.unreadable``), never an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import Column, Result, Table

from emr_executor.core.model import (
    Cluster,
    HistoryEntry,
    Identity,
    StepOutcome,
    StepPlan,
    Submission,
    TaskKey,
    Workload,
)
from emr_executor.core.states import (
    ClusterState,
    ClusterTarget,
    StepState,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.transitions import Row
from emr_executor.store import schema
from emr_executor.store.unreadable import BROKEN, as_readable

Columns = dict[str, Any]
Fields = Mapping[Any, Any]
"""A row by the names of its columns."""
Value = TypeVar("Value", bound=Row)

BULKY_WORKLOAD_COLUMNS = frozenset({"workload", "executor_config"})
"""What only a phase needs: left out of snapshots."""

_KEY = tuple(field.name for field in fields(TaskKey))
_IDENTITY = tuple(field.name for field in fields(Identity))
_JSON: dict[str, TypeAdapter[Any]] = {
    "step": TypeAdapter(StepPlan | None),
    "outcome": TypeAdapter(StepOutcome | None),
}


def as_dicts(result: Result[Any]) -> Iterator[dict[str, Any]]:
    """The rows by the names of their columns, as dicts: twice as fast to read as SQLAlchemy's mappings."""
    names = tuple(result.keys())
    return (dict(zip(names, row, strict=True)) for row in result)


def workload_from(row: Fields) -> Workload:
    """A workload."""
    lean = lean_workload_from(row)
    return replace(lean, workload=row["workload"] or {}, executor_config=row["executor_config"] or {})


def lean_workload_from(row: Fields) -> Workload:
    """A workload from a row without the bulky columns, whose fields are empty."""
    return mapping_of(Workload).read(row)


def submission_from(row: Fields) -> Submission:
    """A submission."""
    return mapping_of(Submission).read(row)


def cluster_from(row: Fields) -> Cluster:
    """A cluster."""
    return mapping_of(Cluster).read(row)


def task_key_from(row: Fields) -> TaskKey:
    """Airflow's key of a workload's row."""
    return TaskKey(**{name: row[name] for name in _KEY})


def identity_from(row: Fields) -> Identity:
    """The identity of a workload's row that has one."""
    return Identity(**{name: row[name] for name in _IDENTITY})


def history_entry_from(row: Fields) -> HistoryEntry:
    """One line of the story."""
    return HistoryEntry(**{field.name: row[field.name] for field in fields(HistoryEntry)})


def json_of(name: str, value: StepPlan | StepOutcome | None) -> Any:
    """A value of the column ``step`` or ``outcome`` as JSON; times as ISO 8601."""
    return _JSON[name].dump_python(value, mode="json")


def from_json(name: str, data: Any) -> Any:
    """A value of the column from its JSON, of this or another release. Raises one of BROKEN."""
    return _JSON[name].validate_python(data)


@dataclass(frozen=True, slots=True)
class _Special:
    """A field that is not one column of the same name with the same value."""

    read: Callable[[Fields], Any]
    columns: Callable[[Any], Columns]


def _enum(name: str, kind: type[StrEnum]) -> _Special:
    return _Special(
        lambda row: None if row[name] is None else kind(row[name]),
        lambda value: {name: value},
    )


def _json(name: str) -> _Special:
    return _Special(lambda row: from_json(name, row[name]), lambda value: {name: json_of(name, value)})


class TableMapping(Generic[Value]):
    """How the values of one class lie in their table.

    left_out: fields that ``read`` leaves empty, whatever the row has
    """

    def __init__(
        self, kind: type[Value], table: Table, special: Mapping[str, _Special], left_out: Collection[str] = ()
    ) -> None:
        self.table, self._kind, self._special, self._left_out = table, kind, special, left_out
        self.fields = tuple(field.name for field in fields(kind))
        self._plain = tuple(name for name in self.fields if name not in {*special, *left_out})
        self._entity = kind.__name__.lower()

    @property
    def key_column(self) -> Column[str]:
        """The primary key, which is the first column."""
        return self.table.c[0]

    def read(self, row: Fields) -> Value:
        """The value of a row; one in quarantine where the row cannot be read."""
        try:
            return self._read(row)
        except BROKEN:
            jsons = {
                name: adapter.validate_python for name, adapter in _JSON.items() if name in self._special
            }
            return self._read(as_readable(self._entity, row[self.key_column.name], row, jsons))

    def _read(self, row: Fields) -> Value:
        values: Columns = {name: row[name] for name in self._plain}
        for name in self._left_out:
            values[name] = {}
        for name, special in self._special.items():
            values[name] = special.read(row)
        return self._kind(**values)

    def columns(self, value: Row) -> Columns:
        """All columns of a value's row."""
        return self._of(value, self.fields)

    def changed_columns(self, old: Row, new: Row) -> Columns:
        """The columns that differ, without ``version``, which the store counts."""
        differing = (
            name for name in self.fields if name != "version" and getattr(old, name) != getattr(new, name)
        )
        return self._of(new, differing)

    def _of(self, value: Row, names: Iterable[str]) -> Columns:
        columns: Columns = {}
        for name in names:
            special, its_own = self._special.get(name), getattr(value, name)
            columns |= {name: its_own} if special is None else special.columns(its_own)
        return columns


_MAPPINGS: dict[type[Any], TableMapping[Any]] = {
    Workload: TableMapping(
        Workload,
        schema.WORKLOAD,
        {
            "key": _Special(task_key_from, asdict),
            "identity": _Special(
                lambda row: None if row["hostname"] is None else identity_from(row),
                lambda identity: asdict(identity) if identity else dict.fromkeys(_IDENTITY),
            ),
            "state": _enum("state", WorkloadState),
            "target": _enum("target", WorkloadTarget),
            "step": _json("step"),
            "outcome": _json("outcome"),
        },
        left_out=BULKY_WORKLOAD_COLUMNS,
    ),
    Submission: TableMapping(
        Submission,
        schema.SUBMISSION,
        {"state": _enum("state", SubmissionState), "step_state": _enum("step_state", StepState)},
    ),
    Cluster: TableMapping(
        Cluster,
        schema.CLUSTER,
        {"state": _enum("state", ClusterState), "target": _enum("target", ClusterTarget)},
    ),
}


def mapping_of(kind: type[Value]) -> TableMapping[Value]:
    """How values of a class are stored."""
    return _MAPPINGS[kind]

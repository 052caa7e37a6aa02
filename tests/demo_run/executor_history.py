"""What the executor's own tables tell of a DAG: its queue, its last lines, and why steps ran again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from emr_executor.core.model import HistoryEntry, TaskKey
from emr_executor.core.states import SubmissionState, WorkloadState
from emr_executor.store import queries

_LINES = 60
_STEPS = 10_000
_SAID_BY_WORKLOAD = frozenset({"added", "completed", "lost"})
"""Events of a submission that its workload tells in better words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the executor's story. ``at`` is epoch seconds, ``about`` a task or empty."""

    at: float
    about: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorHistory:
    """The queue and the last lines, oldest first.

    preparing, waiting, submitted: workloads before their step is known, without and with a step on a cluster
    """

    preparing: int = 0
    waiting: int = 0
    submitted: int = 0
    lines: tuple[Line, ...] = ()


class OurTables:
    """Reads the executor's tables in Airflow's database."""

    def __init__(self, database_url: str) -> None:
        # No connection is kept: the one that is looked at belongs to Airflow.
        self._engine = create_engine(database_url, poolclass=NullPool)

    def now(self) -> ExecutorHistory:
        """The queue and the last lines."""
        with self._engine.connect() as conn:
            counts = dict.fromkeys(WorkloadState, 0)
            for row in queries.status(conn).workloads:
                counts[row.state] += row.count
            return ExecutorHistory(
                preparing=counts[WorkloadState.ACCEPTED] + counts[WorkloadState.PREPARING],
                waiting=counts[WorkloadState.READY],
                submitted=counts[WorkloadState.SUBMITTED],
                lines=_lines(conn, queries.recent_history(conn, _LINES)),
            )

    def losses(self, dag_id: str) -> dict[str, tuple[str, ...]]:
        """For each task that lost a step: why, in the order of the losses."""
        with self._engine.connect() as conn:
            found: dict[str, tuple[str, ...]] = {}
            for step in queries.past_steps(conn, _STEPS, dag_id=dag_id):
                if step.submission.state is SubmissionState.LOST:
                    name = _name(step.key)
                    found[name] = (*found.get(name, ()), step.submission.cause)
            return found


def _lines(conn: Connection, entries: Iterable[HistoryEntry]) -> tuple[Line, ...]:
    entries = [e for e in entries if e.subject != "submission" or e.event not in _SAID_BY_WORKLOAD]
    keys = queries.keys_of(conn, {owner for entry in entries if (owner := _owner(entry))})
    return tuple(
        Line(
            at=entry.at.timestamp(),
            about=_name(keys[owner]) if (owner := _owner(entry)) in keys else "",
            text=entry.text,
        )
        for entry in entries
    )


def _owner(entry: HistoryEntry) -> str:
    """The workload that a line is about, or nothing."""
    if entry.subject == "workload":
        return entry.subject_id
    return entry.subject_id.rpartition("-")[0] if entry.subject == "submission" else ""


def _name(key: TaskKey) -> str:
    return key.task_id if key.map_index < 0 else f"{key.task_id}[{key.map_index}]"

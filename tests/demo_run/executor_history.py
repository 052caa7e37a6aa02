"""What the executor's own tables tell of a DAG: its queue, its last lines, and why steps ran again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
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
class ExecutorHistory:
    """The queue and the last lines, oldest first.

    preparing, waiting, submitted: workloads before their step is known, without and with a step on a cluster
    lines: epoch seconds, and the text, behind its task where it has one
    """

    preparing: int = 0
    waiting: int = 0
    submitted: int = 0
    lines: tuple[tuple[float, str], ...] = ()


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
                lines=tuple(_lines(conn)),
            )

    def losses(self, dag_id: str) -> dict[str, list[str]]:
        """For each task that lost a step: why, in the order of the losses."""
        with self._engine.connect() as conn:
            found: defaultdict[str, list[str]] = defaultdict(list)
            for step in queries.past_steps(conn, _STEPS, dag_id=dag_id):
                if step.submission.state is SubmissionState.LOST:
                    found[_name(step.key)].append(step.submission.cause)
            return dict(found)


def _lines(conn: Connection) -> Iterator[tuple[float, str]]:
    entries = queries.recent_history(conn, _LINES)
    keys = queries.keys_of(conn, map(_owner, entries))
    for entry in entries:
        if entry.subject != "submission" or entry.event not in _SAID_BY_WORKLOAD:
            key = keys.get(_owner(entry))
            yield entry.at.timestamp(), f"{_name(key)}: {entry.text}" if key else entry.text


def _owner(entry: HistoryEntry) -> str:
    """The workload that a line is about, or another id."""
    return entry.subject_id.rpartition("-")[0] if entry.subject == "submission" else entry.subject_id


def _name(key: TaskKey) -> str:
    return key.task_id if key.map_index < 0 else f"{key.task_id}[{key.map_index}]"

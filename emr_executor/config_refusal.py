"""SCHEDULER PROCESS. A configuration that cannot be used, and the tasks that wait for a better one."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import object_session

from emr_executor.agent.tasklog import FileTaskLog, agent_line
from emr_executor.airflow_mapping import savepoint, workload_id_of
from emr_executor.errors import ConfigError
from emr_executor.store.scheduler_store import live

if TYPE_CHECKING:
    from airflow.executors import workloads
    from airflow.models.taskinstance import TaskInstance

log = logging.getLogger(__name__)

KNOWN_AIRFLOW_MINORS = ("3.3",)
"""Minor versions whose private Task SDK classes ``task.supervise`` was written against."""


def refuse_unknown_airflow() -> None:
    """Raises ConfigError."""
    from airflow import __version__

    if not __version__.startswith(tuple(f"{minor}." for minor in KNOWN_AIRFLOW_MINORS)):
        known = ", ".join(KNOWN_AIRFLOW_MINORS)
        raise ConfigError(
            [f"this release knows Airflow {known}, this is Airflow {__version__}: upgrade emr-executor"]
        )


class ExecutorOrderError(BaseException):
    """Ends the scheduler with exit code 1, and with its words as the last on stderr.

    What is an Exception the executor's heartbeat keeps to itself, and a SystemExit Airflow takes for ^C: its
    process ends with exit code 0 (airflow/jobs/job.py, execute_job).
    """


def _words_alone(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    """``sys.excepthook``: the end that is meant needs no traceback."""
    if isinstance(error, ExecutorOrderError):
        sys.stderr.write(f"{error}\n")
    else:
        sys.__excepthook__(kind, error, frames)


class Refusal:
    """Why the executor takes no task.

    Tasks stay QUEUED for ``hold_s`` each, so that a scheduler that is started with a corrected configuration
    meanwhile adopts them. Airflow may take one back and queue it again: that does not begin anew.

    ends_scheduler: tasks of all queues would come; the scheduler ends in its first loop
    """

    def __init__(
        self,
        problems: str,
        *,
        hold_s: float,
        ends_scheduler: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ends_scheduler = ends_scheduler
        self.problems, self._hold_s, self._monotonic = problems, hold_s, monotonic
        self._since: dict[str, float] = {}
        self._held: dict[str, tuple[Any, str | None]] = {}

    @property
    def announcement(self) -> str:
        """For the scheduler's log."""
        if self._ends_scheduler:
            return f"EmrExecutor ends this scheduler:\n{self.problems}"
        return (
            "EmrExecutor refuses all tasks until this is fixed and the scheduler restarted; each stays "
            f"queued for {self._hold_s:g} s ([emr_executor] refusal_hold) and then fails:\n{self.problems}"
        )

    @property
    def failure_text(self) -> str:
        """For the log of a task that fails."""
        return (
            f"{self.problems}\nThe task stayed queued for {self._hold_s:g} s ([emr_executor] refusal_hold), "
            "in which no scheduler was started with a configuration that can be used."
        )

    def hold(self, workload_id: str, key: Any, log_path: str | None) -> None:
        """Airflow queued a task."""
        self._since.setdefault(workload_id, self._monotonic())
        self._held[workload_id] = key, log_path

    def due(self) -> list[tuple[str, Any, str | None]]:
        """(workload id, key, log path) of what waited too long, once each. May raise ExecutorOrderError."""
        if self._ends_scheduler:
            # Not from ``start``: Airflow would end executors that have not begun, each with a traceback.
            sys.excepthook = _words_alone
            raise ExecutorOrderError(self.announcement)
        now = self._monotonic()
        due = [w for w in self._held if now - self._since[w] >= self._hold_s]
        return [(workload_id, *self._held.pop(workload_id)) for workload_id in due]


def never_stored(tis: Sequence[TaskInstance]) -> list[workloads.ExecuteTask]:
    """QUEUED tries of a dead scheduler that no row holds: nobody else runs them.

    None where that cannot be known: one that is stored may be at its work, and must not be failed.
    """
    from airflow.executors import workloads

    queued = {workload_id_of(ti): ti for ti in tis if ti.state == "queued"}
    session = object_session(next(iter(queued.values()))) if queued else None
    if session is None:
        return []
    connection = session.connection()
    try:
        with session.no_autoflush, savepoint(connection):
            stored = live(connection, list(queued))
    except Exception:
        log.exception("emr_executor cannot tell which of %d tries are stored", len(queued))
        return []
    return [workloads.ExecuteTask.make(ti) for workload_id, ti in queued.items() if workload_id not in stored]


def tell_refused(log_path: str | None, text: str) -> None:
    """Append the refusal to the task's log; a log that cannot be written changes nothing."""
    from airflow.configuration import conf

    if log_path:
        now = datetime.now(tz=UTC)
        lines = [agent_line(now, line, level="error") for line in text.splitlines()]
        FileTaskLog(Path(conf.get_mandatory_value("logging", "base_log_folder"))).write(log_path, lines)

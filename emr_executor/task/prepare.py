"""The prepare child: runs a task up to its call of Spark, and parks it there.

The process ends inside that call, by ``os._exit``: user code is never unwound, so neither its
``finally`` blocks nor its ``with`` blocks run at park time (fact 1). A refusal is raised in user
code instead, and Airflow's own failure path runs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import structlog
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time import task_runner

from emr_executor import errors
from emr_executor.errors import StepTooLong, WorkloadRejected
from emr_executor.task import child, masking
from emr_executor.task.messages import Park
from emr_executor.task.translators import StepParts, translator_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emr_executor.task.child import ChildSetup

_LONGEST_ARGUMENT = 128 * 1024 - 1
"""Bytes of one argument or variable of a process (Linux, MAX_ARG_STRLEN, with the byte that ends it)."""
_LONGEST_COMMAND = 2_000_000
"""Bytes of all of them: a quarter of the stack's 8 MiB, less what the cluster's own environment takes."""

log = structlog.get_logger("task")

REJECTION = "emr_rejection"
"""Key in an error answer's detail: the name of our exception class."""


def main(setup: ChildSetup) -> None:
    """What the prepare child runs in place of Airflow's own ``task_runner.main``."""
    seam = PrepareSeam(setup)
    child.intercept(seam)
    masking.remember_origins()
    child.wrap("_execute_task", seam.execute_task)
    task_runner.main()


class PrepareSeam(child.PhaseSeam):
    """Parks the task at its call of Spark (``translators.Seam``)."""

    def __init__(self, setup: ChildSetup) -> None:
        super().__init__(setup)
        self._rendered_fields: dict[str, Any] = {}

    def execute_task(self, original: Callable[..., Any], context: Any, ti: Any, log: Any) -> Any:
        """Wraps the task runner's ``_execute_task``: refuse what cannot park, remember the rendering."""
        child.refuse_impersonation(ti.task)
        translator_of(ti.task).check(ti.task)
        self._ti = ti
        # Taken before execute: an operator may change its own fields there.
        self._rendered_fields = masking.storable_fields(ti.task)
        return original(context=context, ti=ti, log=log)

    def call(self, translate: Callable[[], StepParts], after: Callable[[], None]) -> None:
        """See ``Seam``: raises WorkloadRejected or never returns."""
        del after
        task = self._bound().task
        parts = translate()
        _refuse_long(parts)
        masking.refuse_secrets(parts)
        for warning in parts.warnings:
            log.warning(warning)
        timeout = task.execution_timeout
        park = Park(
            translator=parts.translator,
            command=list(parts.command),
            env=parts.env,
            files=list(parts.files),
            execution_timeout_s=None if timeout is None else timeout.total_seconds(),
            rendered_fields=self._rendered_fields,
        )
        with _no_alarm():
            try:
                task_runner.SUPERVISOR_COMMS.send(park)
            except AirflowRuntimeError as error:
                raise _rejection_of(error) from None
            _leave()


def _refuse_long(parts: StepParts) -> None:
    """Raises StepTooLong for what Linux would not start a process with ("Argument list too long")."""
    way_out = "put it into a file and name that in files, or write it to S3 and pass its address"
    for name, text in parts.named_values:
        # A conf entry is one argument with its key, a variable stands in the environment with its name.
        size = len(f"{name}={text}".encode(errors="replace"))
        if size > _LONGEST_ARGUMENT:
            raise StepTooLong(
                f"{name} is {size:,} bytes long, and Linux takes {_LONGEST_ARGUMENT:,} for one argument:"
                f" {way_out}"
            )
    total = sum(len(word.encode(errors="replace")) + 9 for word in (*parts.command, *parts.env.values()))
    if total > _LONGEST_COMMAND:
        raise StepTooLong(
            f"the command is {total:,} bytes long, and Linux takes about {_LONGEST_COMMAND:,} for all"
            f" arguments: {way_out}"
        )


@contextmanager
def _no_alarm() -> Iterator[None]:
    """Holds Airflow's execution_timeout (an interval timer): it may not fire between park and end."""
    remaining_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining_s)


def _rejection_of(error: AirflowRuntimeError) -> WorkloadRejected:
    detail = error.error.detail or {}
    kind = getattr(errors, str(detail.get(REJECTION)), WorkloadRejected)
    if not issubclass(kind, WorkloadRejected):
        kind = WorkloadRejected
    return kind(str(detail.get("message") or "the task could not be parked; see the agent's log"))


def _leave() -> NoReturn:
    """End the process as Airflow's own child does (supervisor._fork_main), without unwinding."""
    with suppress(Exception):
        # Listeners may still have to send what they heard when the task began to run.
        task_runner.get_listener_manager().hook.before_stopping(component=task_runner.TaskRunnerMarker())
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError, OSError):
            stream.flush()
    os._exit(0)

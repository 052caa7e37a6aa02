"""The task runner's side of a phase: the places of Airflow's task runner that are changed in a forked child.

Everything here runs in the process that runs user code, and changes that process alone. With
``supervise`` it is all that depends on private names of Airflow's Task SDK (3.3).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.sdk.execution_time import task_runner

from emr_executor.core.model import Workload
from emr_executor.errors import WorkloadRejected

_REEXECUTED = "_AIRFLOW__REEXECUTED_PROCESS"
"""Set, Airflow's task runner does not start itself again through sudo (task_runner.startup)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSetup:
    """What a phase's child knows. deploy_mode, yarn_queue: the cluster pool's defaults."""

    workload: Workload
    deploy_mode: str = "client"
    yarn_queue: str | None = None


def warm_up() -> None:
    """Build the task runner's JSON validator once, for every process forked from this one.

    It builds one for each template field of a task, which is a tenth of a prepare phase's time.
    """
    cached = functools.cache(task_runner.TypeAdapter)
    cached(task_runner.JsonValue)
    task_runner.TypeAdapter = cached


def wrap(name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a function of the task runner by ``wrapper(original, *args, **kwargs)``."""
    original = getattr(task_runner, name)

    @functools.wraps(original)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(task_runner, name, replaced)


def search_folders(ti: Any) -> tuple[str, ...]:
    """Where relative paths are looked up: beside the DAG file, in its bundle, in the working directory.

    The last is where the hook would have started spark-submit.
    """
    bundle = Path(ti.bundle_instance.path)
    dag_file = getattr(ti.task.dag, "fileloc", None)
    beside = ((bundle / dag_file).parent,) if dag_file else ()
    return tuple(str(folder) for folder in (*beside, bundle, Path.cwd()))


def hold_impersonation() -> None:
    """Keep the task runner from starting itself again as another user: its changes would be lost.

    ``refuse_impersonation`` fails such a task in prepare, where Airflow's own failure path sees it.
    """

    def parse(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        ti = original(*args, **kwargs)
        os.environ[_REEXECUTED] = "1"
        return ti

    wrap("parse", parse)


def refuse_impersonation(task: Any) -> None:
    """Raises WorkloadRejected for a task that is to run as another user (fact 16)."""
    os.environ.pop(_REEXECUTED, None)
    from getpass import getuser

    from airflow.sdk.configuration import conf

    user = getattr(task, "run_as_user", None) or conf.get("core", "default_impersonation", fallback=None)
    if user and user != getuser():
        raise WorkloadRejected(
            f"the task is to run as user {user!r} (run_as_user or [core] default_impersonation), and its step"
            " runs on an EMR cluster: remove run_as_user, or take the task out of this queue"
        )

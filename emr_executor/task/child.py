"""The task runner's side of a phase: the places of Airflow's task runner that are changed in a forked child.

Everything here runs in the process that runs user code, and changes that process alone. With
``supervise`` it is all that depends on private names of Airflow's Task SDK (3.3).
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.sdk.execution_time import task_runner

from emr_executor.config import ClusterPool
from emr_executor.core.model import Workload
from emr_executor.errors import Bug, WorkloadRejected
from emr_executor.task.translators import Seam, registry

_SPARK_SUBMIT = re.compile(r"(?:^|[\s;&|(/])spark[23]?-submit(?=\s|$)")
_REEXECUTED = "_AIRFLOW__REEXECUTED_PROCESS"
"""Set, Airflow's task runner does not start itself again through sudo (task_runner.startup)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSetup:
    """What a phase's child knows. master, deploy_mode, yarn_queue: see ``Seam``."""

    workload: Workload
    master: str | None = "yarn"
    deploy_mode: str = "client"
    yarn_queue: str | None = None

    @classmethod
    def of(cls, workload: Workload, pool: ClusterPool | None) -> ChildSetup:
        """The pool's defaults, but for what a cluster of its template says itself."""
        if pool is None:
            return cls(workload=workload)
        said: dict[str, str] = {}
        for entry in pool.template.get("Configurations") or ():
            if entry.get("Classification") == "spark-defaults":
                said |= entry.get("Properties") or {}
        return cls(
            workload=workload,
            master=None if "spark.master" in said else "yarn",
            # The same as the cluster's, said again: the wrapper follows the driver of cluster mode by it.
            deploy_mode=said.get("spark.submit.deployMode", pool.deploy_mode),
            yarn_queue=None if "spark.yarn.queue" in said else pool.yarn_queue,
        )


class PhaseSeam:
    """What the seams of both phases have in common (``translators.Seam``)."""

    def __init__(self, setup: ChildSetup) -> None:
        self.master = setup.master
        self.deploy_mode = setup.deploy_mode
        self.yarn_queue = setup.yarn_queue
        self._ti: Any = None

    def folders(self) -> tuple[str, ...]:
        """Beside the DAG file, in its bundle, in the working directory, where spark-submit would start."""
        ti = self._bound()
        bundle = Path(ti.bundle_instance.path)
        dag_file = getattr(ti.task.dag, "fileloc", None)
        beside = ((bundle / dag_file).parent,) if dag_file else ()
        return tuple(str(folder) for folder in (*beside, bundle, Path.cwd()))

    def _bound(self) -> Any:
        if self._ti is None:
            raise Bug("Spark was called outside of a task's execute")
        return self._ti


def warm_up() -> None:
    """Build the task runner's JSON validator once, for every process forked from this one.

    It builds one for each template field of a task, which is a tenth of a prepare phase's time.
    """
    cached = functools.cache(task_runner.TypeAdapter)
    cached(task_runner.JsonValue)
    task_runner.TypeAdapter = cached


def refuse_local_spark() -> None:
    """From here on this process starts no spark-submit, which would run beside the scheduler."""

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            words = args[1] if isinstance(args[1], list | tuple) else [args[1]]
        elif event in {"os.system", "os.exec", "os.posix_spawn"}:
            words = [args[0], *(args[1] if len(args) > 1 else ())]
        else:
            return
        texts = [os.fsdecode(word) for word in words]
        # The program itself, or the script that a shell is given.
        script = texts[2] if texts[1:2] == ["-c"] else texts[0] if event == "os.system" else ""
        program = Path(texts[0]).name if texts else ""
        if _SPARK_SUBMIT.fullmatch(program) or _SPARK_SUBMIT.search(script):
            raise WorkloadRejected(
                "the task starts spark-submit on Airflow's host; a task of this queue runs Spark as an"
                " EMR step: call super().execute(context), or take the task out of this queue"
            )

    sys.addaudithook(audit)


def wrap(name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a function of the task runner by ``wrapper(original, *args, **kwargs)``."""
    original = getattr(task_runner, name)

    @functools.wraps(original)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(task_runner, name, replaced)


def intercept(seam: Seam) -> None:
    """Install every translator, and refuse what would run beside the step."""
    for translator in registry():
        translator.install(seam)
    hold_impersonation()
    refuse_local_spark()


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

"""The ``airflow.policy`` plugin: gives tasks of an EMR queue to the executor, refuses what cannot run there.

Airflow loads this in each of its processes, and an error here would break every command: so the
module needs nothing but pluggy, which called it, does nothing unless the executor is configured,
and raises nothing but Airflow's own policy violation, which the UI shows as an import error.
"""

from __future__ import annotations

import difflib
import getpass
import logging
import os
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from pluggy import HookimplMarker

hookimpl = HookimplMarker("airflow.policy")

EXECUTOR_PATHS = ("emr_executor.EmrExecutor", "emr_executor.executor.EmrExecutor")
"""Module paths under which ``[core] executor`` may name the executor."""
OPERATORS = ("airflow.providers.apache.spark.operators.spark_submit.SparkSubmitOperator",)
"""Classes, with their subclasses, that the translators of this package turn into steps, by module and name:
another class of the same name is not meant."""
TRANSLATORS_GROUP = "emr_executor.translators"
DEFAULT_QUEUE = "emr"

_OUR_TRANSLATORS = "emr_executor."
_IN_TASK_RUNNER = "_AIRFLOW_PARSING_CONTEXT_TASK_ID"
"""Set while a task runner parses a DAG file (airflow.sdk.definitions._internal.dag_parsing_context)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Configured:
    """name: what ``task.executor`` must hold; is_default: tasks come without it."""

    name: str
    is_default: bool
    queues: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What a DAG's author may have written for the executor."""
        return (self.name, *EXECUTOR_PATHS, "EmrExecutor")


@hookimpl
def task_policy(task: Any) -> None:
    """Called for every task of every parsed DAG; ``task`` is an operator, mapped or not."""
    from airflow.exceptions import AirflowClusterPolicyViolation

    try:
        problem = _apply(task)
    except Exception:
        log.exception("emr_executor left task %s as it is", getattr(task, "task_id", "?"))
        return
    if problem:
        raise AirflowClusterPolicyViolation(
            f"Task {task.task_id!r}: {problem}. Until then no DAG of this file is imported"
        )


def _apply(task: Any) -> str | None:
    """Route a task that is ours; the answer is why it cannot run, or None."""
    configured = _configured()
    if configured is None:
        return None
    executor = task.executor
    if executor and executor not in configured.names:
        return None  # Its author chose another executor, whose queue happens to have this name.
    if task.queue not in configured.queues:
        return _unserved(task, configured) if executor else _similar_queue(task, configured)
    if not (configured.is_default and not executor):
        _set_executor(task, configured.name)
    if os.environ.get(_IN_TASK_RUNNER):
        return None  # It runs already; the prepare phase judges it.
    return _impersonation_problem(task) or _translation_problem(task) or _executor_config_problem(task)


def named_executors() -> list[list[str]]:
    """The executors that ``[core] executor`` names for each team, as they are written there."""
    from airflow.configuration import conf

    # Parsed here and not by ExecutorLoader, which would look teams up in the database.
    teams = conf.get("core", "executor", fallback="").split(";")
    return [[name.strip() for name in team.rpartition("=")[2].split(",") if name.strip()] for team in teams]


def _configured() -> _Configured | None:
    from airflow.configuration import conf

    entries: list[tuple[str, bool]] = []
    for executors in named_executors():
        for position, text in enumerate(executors):
            alias, _, path = text.rpartition(":")
            if path in EXECUTOR_PATHS:
                entries.append((alias or path, position == 0))
    if not entries:
        return None
    queue = conf.get("emr_executor", "queue", fallback=DEFAULT_QUEUE) or DEFAULT_QUEUE
    queues = tuple(name.strip() for name in queue.split(",") if name.strip())
    return _Configured(entries[0][0], all(first for _, first in entries), queues)


def _set_executor(task: Any, name: str) -> None:
    if getattr(task, "is_mapped", False):
        task.partial_kwargs["executor"] = name
    else:
        task.executor = name


def _unserved(task: Any, configured: _Configured) -> str:
    return (
        f"queue {task.queue!r} is served by no cluster pool; use one of {', '.join(configured.queues)},"
        " or add the queue to [emr_executor] queue"
    )


def _similar_queue(task: Any, configured: _Configured) -> str | None:
    """A Spark task whose queue is nearly one of ours would start spark-submit on a host of Airflow's."""
    from airflow.configuration import conf

    spelt = {queue.lower(): queue for queue in configured.queues}
    near = difflib.get_close_matches(str(task.queue).strip().lower(), spelt, n=1, cutoff=0.8)
    if not near or _classes(_operator(task)).isdisjoint(OPERATORS):
        return None
    problem = (
        f"no cluster pool serves queue {task.queue!r}, so its spark-submit would run on a host of Airflow's,"
        f" and not on EMR: write queue={spelt[near[0]]!r}"
    )
    if conf.get("emr_executor", "similar_queue", fallback="warn") == "refuse":
        return problem
    log.warning("task %s of DAG %s: %s, if EMR is meant", task.task_id, task.dag_id, problem)
    return None


def _operator(task: Any) -> Any:
    return task.operator_class if getattr(task, "is_mapped", False) else type(task)


def _classes(operator: Any) -> set[str]:
    return {f"{cls.__module__}.{cls.__qualname__}" for cls in operator.__mro__}


def _executor_config_problem(task: Any) -> str | None:
    """It is for another executor, such as Kubernetes' pod_override; its author would wait for an effect."""
    config = getattr(task, "executor_config", None)
    if not config:
        return None
    keys = ", ".join(sorted(map(str, config)))
    return (
        f"executor_config has {keys}, and EmrExecutor knows no key: remove it from the tasks of queue"
        f" {task.queue!r}; machines are chosen in the cluster template, Spark's resources by the operator"
    )


def _impersonation_problem(task: Any) -> str | None:
    from airflow.configuration import conf

    user = getattr(task, "run_as_user", None) or conf.get("core", "default_impersonation", fallback=None)
    if not user or user == getpass.getuser():
        return None
    return (
        f"it is to run as user {user!r} (run_as_user or [core] default_impersonation), which a step on an EMR"
        f" cluster cannot: remove it, or take the task out of queue {task.queue!r}"
    )


def _translation_problem(task: Any) -> str | None:
    operator = _operator(task)
    names = _classes(operator)
    if not names.isdisjoint(OPERATORS):
        return None
    known = sorted({*OPERATORS, *_foreign_operators()})
    if not names.isdisjoint(known):
        return None
    name = getattr(operator, "custom_operator_name", operator.__name__)
    can = ", ".join(path.rpartition(".")[2] for path in known)
    if name in can.split(", "):
        name, can = f"{name} of {operator.__module__}", ", ".join(known)
    return (
        f"{name} cannot run as an EMR step; queue {task.queue!r} takes {can} and"
        " subclasses: set queue on the Spark tasks only, not in default_args of the whole DAG"
    )


def _foreign_operators() -> tuple[str, ...]:
    """Classes of translators that other packages bring; loaded only when ours do not know a task."""
    found: list[str] = []
    for point in entry_points(group=TRANSLATORS_GROUP):
        if not point.module.startswith(_OUR_TRANSLATORS):
            found.extend(point.load()().operators)
    return tuple(found)

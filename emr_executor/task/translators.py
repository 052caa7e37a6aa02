"""Which operators can become an EMR step: the registry, entry-point group ``emr_executor.translators``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol

from emr_executor.core.model import StepOutcome
from emr_executor.errors import NotTranslatable
from emr_executor.task.messages import LocalFile

ENTRY_POINT_GROUP = "emr_executor.translators"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepParts:
    """A call of Spark as a step, before its files are staged.

    command: argv; where a local file stands, its ``LocalFile.token``
    named_values: (the user's name for it, its text) of everything that the user wrote and that would
        travel, so that a refusal can name the field
    warnings: sentences for the task's log
    """

    translator: str
    command: tuple[str, ...]
    env: dict[str, str]
    files: tuple[LocalFile, ...] = ()
    named_values: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


class Seam(Protocol):
    """What a translator's interception hands the call to, in the task runner of one phase.

    master, deploy_mode, yarn_queue: what holds when nobody says otherwise; None where the cluster's own
        spark-defaults decide
    """

    master: str | None
    deploy_mode: str
    yarn_queue: str | None

    def folders(self) -> tuple[str, ...]:
        """Where relative paths are looked up, in order."""
        ...

    def call(self, translate: Callable[[], StepParts], after: Callable[[], None]) -> None:
        """The operator calls Spark.

        In prepare it never returns unless it raises: the task is parked and the process ends. In
        finish it answers with the stored outcome: returns for success, raises otherwise, and runs
        ``after`` first (what the hook does when Spark is over).
        """
        ...


class Translator(Protocol):
    """Turns the operators of some classes into EMR steps."""

    name: str
    operators: tuple[str, ...]
    """Classes as ``name_of`` gives them; a task is matched along its class's MRO, subclasses first."""

    def install(self, seam: Seam) -> None:
        """Intercept, in this process, the place where these operators call Spark."""
        ...

    def check(self, task: Any) -> None:
        """Raises WorkloadRejected for a class that overrides what would not be called."""
        ...

    def is_replayed(self, task: Any) -> bool:
        """Whether finish runs ``execute`` again (a class that overrides it), the call answered."""
        ...

    def finish(self, task: Any, outcome: StepOutcome) -> Any:
        """What ``execute`` would have returned; raises for everything but success."""
        ...


def name_of(cls: type) -> str:
    """A class by the module and name under which it is defined: another one of the same name is not it."""
    return f"{cls.__module__}.{cls.__qualname__}"


@cache
def registry() -> tuple[Translator, ...]:
    """Every installed translator, by entry-point name."""
    found = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return tuple(point.load()() for point in found)


def translator_of(task: Any, translators: Iterable[Translator] | None = None) -> Translator:
    """The translator for a task, the one of its nearest class first. Raises NotTranslatable."""
    known = tuple(registry() if translators is None else translators)
    for name in map(name_of, type(task).__mro__):
        for translator in known:
            if name in translator.operators:
                return translator
    paths = sorted(name for translator in known for name in translator.operators)
    can = [name.rpartition(".")[2] for name in paths]
    own = type(task).__name__
    if own in can:
        own, can = f"{own} of {type(task).__module__}", paths
    raise NotTranslatable(
        f"{own} cannot run as an EMR step: use one of {', '.join(can)} or a subclass of it,"
        " or take the task out of this queue"
    )

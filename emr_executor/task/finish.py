"""The finish child: user code hears of its step's outcome, and Airflow's own code ends the try.

A stock operator's ``execute`` is replaced by its translator's ``finish``. A class with an
``execute`` of its own is replayed: the call of Spark is answered from the stored outcome, so
that the code on both sides of it runs. What prepare already did is not done again: callbacks,
listener event and metric of the start, rendered fields, asset checks, XCom clearing (fact 14).
"""

from __future__ import annotations

import copy
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from airflow.sdk import BaseOperator
from airflow.sdk.definitions._internal.templater import Templater
from airflow.sdk.execution_time import task_runner

from emr_executor.core.model import StepOutcome, StepPlan
from emr_executor.core.states import Verdict
from emr_executor.errors import Bug, NotTranslatable, WorkloadRejected
from emr_executor.task import child
from emr_executor.task.messages import FinishBegan
from emr_executor.task.step_errors import ENDS_OF_STEPS, raise_unless_succeeded
from emr_executor.task.translators import StepParts, Translator, translator_of

if TYPE_CHECKING:
    from emr_executor.task.child import ChildSetup

_EXIT_HELD = 75
XCOM_KEY = "emr_step"
_STAGED = re.compile(r"s3://[^\s,#]*?/files/(?:[0-9-]{10}/)?[0-9a-f]{64}/([^\s,#]+)")

log = structlog.get_logger("task")


def main(setup: ChildSetup) -> None:
    """What the finish child runs in place of Airflow's own ``task_runner.main``."""
    seam = FinishSeam(setup)
    child.intercept(seam)
    child.wrap("run", seam.run)
    child.wrap("_prepare", _prepare_once)
    child.wrap("_execute_task", seam.execute_task)
    _reuse_rendering(setup, seam)
    task_runner.main()


class FinishSeam(child.PhaseSeam):
    """Answers the task's call of Spark from the stored outcome (``translators.Seam``)."""

    def __init__(self, setup: ChildSetup) -> None:
        if setup.workload.outcome is None or setup.workload.step is None:
            raise Bug(f"workload {setup.workload.workload_id} has no outcome to finish with")
        super().__init__(setup)
        self._outcome: StepOutcome = setup.workload.outcome
        self._step: StepPlan = setup.workload.step
        self._calls = 0

    def run(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Wraps the task runner's ``run``: the DAG is parsed, from here on user code decides."""
        task_runner.SUPERVISOR_COMMS.send(FinishBegan())
        task_runner.stats = _StatsWithoutStart(task_runner.stats)
        ti, context, its_log = args
        return original(ti, context, _CausesInOneLine(its_log), **kwargs)

    def execute_task(self, original: Callable[..., Any], context: Any, ti: Any, log: Any) -> Any:
        """Wraps the task runner's ``_execute_task``."""
        self._ti = ti
        task = ti.task
        translator = self._translator_of(task)
        _set(task, "_pre_execute_hook", None)
        _set(task, "on_execute_callback", [])
        with self.held("the step's ids could not be pushed to XCom"):
            self._push_step(ti)
        if translator is not None and translator.is_replayed(task):
            log.info("Running execute again; its call of Spark is answered with the step's outcome.")
            result = original(context=context, ti=ti, log=log)
            if not self._calls:
                log.warning("This time execute did not call Spark; its step's outcome was not used.")
            return result
        # `pre_execute` of a class that is replayed may set what its `execute` needs; here nothing needs it.
        _set(task, "pre_execute", types.MethodType(BaseOperator.pre_execute, task))
        finish = raise_unless_succeeded if translator is None else partial(translator.finish, task)

        def execute(context: Any) -> Any:  # noqa: ARG001 - Airflow names the argument
            with self.held("what follows the step failed"):
                return finish(self._outcome)

        _set(task, "execute", execute)
        ti._ti_context_from_server.next_method = None
        return original(context=context, ti=ti, log=log)

    def call(self, translate: Callable[[], StepParts], after: Callable[[], None]) -> None:
        """See ``Seam``: returns for success, raises the outcome otherwise."""
        self._calls += 1
        if self._calls > 1:
            raise WorkloadRejected(
                "execute called Spark a second time; one call for each task is supported:"
                " put the second call into a task of its own"
            )
        self._compare(translate)
        after()
        raise_unless_succeeded(self._outcome)

    @contextmanager
    def held(self, what: str) -> Iterator[None]:
        """A step that succeeded is not run again because code of ours failed after it.

        The process ends without a word, so that finish is run again, and after ``finish_attempts`` the try
        fails without a retry (``agent.phases``). What user code raises is Airflow's to judge.
        """
        try:
            yield
        except Exception:
            if self._outcome.verdict is not Verdict.SUCCEEDED:
                raise
            log.exception(
                "The step succeeded; the task is finished again, its step is not run again.", why=what
            )
            os._exit(_EXIT_HELD)

    @staticmethod
    def _translator_of(task: Any) -> Translator | None:
        try:
            return translator_of(task)
        except NotTranslatable:
            # Its DAG file changed while the step ran; the outcome stands.
            log.warning(
                "The task's operator is another one than the one that ran.", operator=type(task).__name__
            )
            return None

    def _compare(self, translate: Callable[[], StepParts]) -> None:
        """Warns when execute asks for another step than the one that ran."""
        try:
            parts = translate()
        except Exception:
            log.warning("The step cannot be built again, to compare it with the one that ran.", exc_info=True)
            return
        names = {file.token: Path(file.path).name for file in parts.files}
        now = [_with_names(word, names) for word in parts.command]
        then = [_STAGED.sub(r"\1", word) for word in self._step.command]
        if now != then:
            log.warning("execute now asks Spark for something else than what ran; its outcome stands.")

    def _push_step(self, ti: Any) -> None:
        outcome = self._outcome
        value = {
            "cluster_id": outcome.cluster_id,
            "step_id": outcome.step_id,
            "submissions": outcome.submissions,
            "started_at": outcome.started_at.isoformat() if outcome.started_at else None,
            "ended_at": outcome.ended_at.isoformat() if outcome.ended_at else None,
        }
        try:
            ti.xcom_push(key=XCOM_KEY, value=value)
        except Exception:
            log.warning("The XCom of the step's ids could not be written.", key=XCOM_KEY, exc_info=True)


class _Changed:
    """An object of Airflow's, but for the methods that a subclass has of its own."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class _CausesInOneLine(_Changed):
    """The task's log, in which the end of a step is one line: the frames below it are Airflow's and ours."""

    def exception(self, event: str, *args: Any, **kwargs: Any) -> Any:
        error = sys.exception()
        if isinstance(error, ENDS_OF_STEPS):
            return self._original.error(str(error))
        return self._original.exception(event, *args, **kwargs)


class _StatsWithoutStart(_Changed):
    """Airflow's metrics, without counting the start of the try a second time."""

    def incr(self, stat: str, *args: Any, **kwargs: Any) -> Any:
        return None if stat == "ti.start" else self._original.incr(stat, *args, **kwargs)


class _SilentListeners:
    """A listener manager whose hooks do nothing."""

    @property
    def hook(self) -> _SilentListeners:
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda **_kwargs: None


def _prepare_once(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Wraps the task runner's ``_prepare``: render, but tell nobody again."""
    silenced = {
        "_serialize_rendered_fields": lambda _task: {},
        "_validate_task_inlets_and_outlets": lambda **_kwargs: None,
        "get_listener_manager": _SilentListeners,
    }
    kept = {name: getattr(task_runner, name) for name in silenced}
    vars(task_runner).update(silenced)
    try:
        return original(*args, **kwargs)
    finally:
        vars(task_runner).update(kept)


def _reuse_rendering(setup: ChildSetup, seam: FinishSeam) -> None:
    """Template fields get the values that prepare rendered; what was not stored is rendered again."""
    stored = setup.workload.step.rendered_fields if setup.workload.step else {}
    task_id = setup.workload.key.task_id
    original = Templater._do_render_template_fields

    def render(  # noqa: PLR0917 - Airflow's signature
        self: Any, parent: Any, template_fields: Any, context: Any, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        if parent is not self or not isinstance(self, BaseOperator) or self.task_id != task_id:
            original(self, parent, template_fields, context, jinja_env, seen_oids)
            return
        translator = FinishSeam._translator_of(self)
        tolerant = translator is None or not translator.is_replayed(self)
        for name in template_fields:
            if name in stored:
                _set(self, name, copy.deepcopy(stored[name]))
                continue
            try:
                with nullcontext() if tolerant else seam.held(f"{name} cannot be rendered again"):
                    original(self, parent, (name,), context, jinja_env, seen_oids)
            except Exception:
                if not tolerant:
                    raise
                log.warning(
                    "A template field cannot be rendered again; the step has its first value.", field=name
                )

    Templater._do_render_template_fields = render


def _set(task: Any, name: str, value: Any) -> None:
    # Past BaseOperator.__setattr__, which may copy operators' arguments about.
    object.__setattr__(task, name, value)


def _with_names(word: str, names: dict[str, str]) -> str:
    for token, name in names.items():
        word = word.replace(token, name)
    return word

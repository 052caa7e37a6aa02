"""``SparkSubmitOperator`` and its subclasses as EMR steps.

The official hook is changed in the task runner's process alone, so that every way through
``SparkSubmitOperator.execute`` ends at ``hook.submit`` (fact 20): the branches that follow a driver
from outside are off, and ``submit`` hands the command over (``spark_call``). What a subclass
overrides is called as the provider's own code would call it, or refused by the method's name.
Kerberos is refused: a keytab or ticket would have to travel to the cluster (fact 21).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from emr_executor.core.model import StepOutcome
from emr_executor.errors import WorkloadRejected
from emr_executor.task import spark_call
from emr_executor.task.spark_call import NAME, kerberos_text
from emr_executor.task.translators import Seam, name_of

OPERATORS = ("airflow.providers.apache.spark.operators.spark_submit.SparkSubmitOperator",)
HOOK = "airflow.providers.apache.spark.hooks.spark_submit.SparkSubmitHook"

_NOT_CALLED = frozenset(
    {
        # Of the hook: they read the output of, follow or end a process or driver that is not here.
        "_process_spark_submit_log",
        "_process_spark_status_log",
        "_start_driver_status_tracking",
        "_start_yarn_application_status_tracking",
        "_query_yarn_application_status",
        "_poll_k8s_driver_via_api",
        "_build_track_driver_status_command",
        "_build_spark_driver_kill_command",
        "_should_track_driver_via_k8s_api",
        # Of the operator.
        "execute_resumable",
        "submit_job",
        "get_job_status",
        "is_job_active",
        "is_job_succeeded",
        "poll_until_complete",
        "get_job_result",
    }
)
"""Methods of the provider's classes that are not called when Spark runs as a step."""


class SparkSubmitTranslator:
    """The translator of ``SparkSubmitOperator`` and its subclasses."""

    name = NAME
    operators = OPERATORS

    def install(self, seam: Seam) -> None:
        """See ``Translator``."""
        from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
        from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

        _replace(SparkSubmitHook, "__init__", _init)
        _replace(SparkSubmitHook, "_resolve_connection", _resolve_connection)
        _replace(SparkSubmitHook, "_create_keytab_path_from_base64_keytab", _refuse_keytab)
        _replace(SparkSubmitHook, "_validate_track_driver_via_k8s_api_config", _nothing)
        _replace(SparkSubmitHook, "submit", functools.partial(_submit, seam))
        # What there is to kill runs on a cluster and is the control plane's to cancel.
        _replace(SparkSubmitOperator, "on_kill", _nothing)

    def check(self, task: Any) -> None:
        """See ``Translator``."""
        _refuse_overrides(type(task), OPERATORS[0])

    def is_replayed(self, task: Any) -> bool:
        """See ``Translator``: replayed if a subclass brings an ``execute`` or a hook of its own."""
        return any(_owner(type(task), method, OPERATORS[0]) for method in ("execute", "_get_hook"))

    def finish(self, task: Any, outcome: StepOutcome) -> None:
        """See ``Translator``: None, as the operator itself returns."""
        from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook

        from emr_executor.task.step_errors import raise_unless_succeeded

        # Not built through __init__: its connection need not be looked up again for this.
        hook = SparkSubmitHook.__new__(SparkSubmitHook)
        hook._post_submit_commands = list(task.post_submit_commands or ())
        hook._post_submit_commands_done = False
        hook._run_post_submit_commands()
        raise_unless_succeeded(outcome)


def _replace(cls: type, name: str, wrapper: Callable[..., Any]) -> None:
    original = getattr(cls, name)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(original, self, *args, **kwargs)

    setattr(cls, name, method)


def _nothing(_original: Callable[..., Any], _hook: Any, *_args: Any, **_kwargs: Any) -> None:
    """Replaces a method that must not act here."""


def _refuse_keytab(_original: Callable[..., Any], _hook: Any, *_args: Any, **_kwargs: Any) -> str:
    raise WorkloadRejected(kerberos_text("the connection's keytab"))


def _owner(cls: type, method: str, provider: str) -> type | None:
    """The class nearer than the provider's that brings ``method``, or None."""
    for nearer in cls.__mro__:
        if name_of(nearer) == provider:
            return None
        if method in vars(nearer):
            return nearer
    return None


def _refuse_overrides(cls: type, provider: str) -> None:
    for method in sorted(_NOT_CALLED):
        if owner := _owner(cls, method, provider):
            raise WorkloadRejected(
                f"{owner.__name__} overrides {method}, which is not called when Spark runs as an EMR step:"
                " remove the override, or take the task out of this queue"
            )


def _init(original: Callable[..., Any], hook: Any, *args: Any, **kwargs: Any) -> None:
    if kwargs.get("use_krb5ccache"):
        raise WorkloadRejected(kerberos_text("use_krb5ccache"))
    original(hook, *args, **kwargs)
    # With the branches that track a driver off, `execute` always ends at `hook.submit`.
    hook._is_yarn = True
    hook._is_yarn_cluster_mode = False
    hook._is_kubernetes = False
    hook._should_track_driver_status = False
    hook._track_driver_via_k8s_api = False
    hook._yarn_track_via_rm_api = False
    if owner := _owner(type(hook), "submit", HOOK):
        hook.submit = functools.partial(_own_submit, hook, owner, hook.submit)


def _resolve_connection(original: Callable[..., dict[str, Any]], hook: Any) -> dict[str, Any]:
    connection = original(hook)
    for field in ("keytab", "principal"):
        if connection.get(field):
            raise WorkloadRejected(kerberos_text(field))
    # A Kubernetes master asks for libraries already when the hook is made.
    return connection | {"master": "yarn", "namespace": None, "rest_endpoint": None}


def _own_submit(hook: Any, owner: type, submit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A subclass's ``submit``: it may act before and after the provider's, and not instead of it."""
    method = f"{owner.__name__}.submit"
    way_out = "call super().submit(application), or take the task out of this queue"
    code = getattr(inspect.unwrap(vars(owner)["submit"]), "__code__", None)
    names = set(code.co_names) if code else set()
    if "submit" not in names or names.isdisjoint({"super", "SparkSubmitHook"}):
        raise WorkloadRejected(
            f"{method} does not call SparkSubmitHook.submit; whatever it starts would run on Airflow's host,"
            f" and not as an EMR step: {way_out}"
        )
    hook._emr_called = False
    result = submit(*args, **kwargs)
    if not hook._emr_called:
        raise WorkloadRejected(
            f"{method} returned without a call of SparkSubmitHook.submit, so no step ran: {way_out}"
        )
    return result


def _submit(
    seam: Seam, _original: Callable[..., Any], hook: Any, application: str = "", **popen: Any
) -> None:
    hook._emr_called = True
    _refuse_overrides(type(hook), HOOK)
    seam.call(
        functools.partial(spark_call.parts_of, seam, hook, application, popen),
        hook._run_post_submit_commands,
    )

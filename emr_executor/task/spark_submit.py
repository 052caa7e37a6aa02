"""``SparkSubmitOperator`` and its subclasses as EMR steps.

The official hook is changed in the task runner's process alone, so that every way through
``SparkSubmitOperator.execute`` ends at ``hook.submit`` (fact 20): the master is YARN, the
branches that follow a driver from outside are off, and ``submit`` hands the command over.
The command itself is built by the hook's own code. Kerberos is refused: a keytab or ticket
would have to travel to the cluster (fact 21).
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from emr_executor.core.model import StepOutcome
from emr_executor.errors import WorkloadRejected
from emr_executor.task.local_files import LocalFiles
from emr_executor.task.properties import properties_of
from emr_executor.task.translators import Seam, StepParts

NAME = "spark_submit"
OPERATORS = ("SparkSubmitOperator",)
CONTEXT_PREFIX = "AIRFLOW_CTX_"

_WAIT = "spark.yarn.submit.waitAppCompletion"
_DEPLOY_MODE = "spark.submit.deployMode"
_YARN_QUEUE = "spark.yarn.queue"
_FILE_CONF = (
    "spark.jars",
    "spark.files",
    "spark.archives",
    "spark.submit.pyFiles",
    "spark.yarn.dist.files",
    "spark.yarn.dist.archives",
    "spark.yarn.dist.jars",
    "spark.yarn.dist.pyFiles",
)
"""Spark properties that hold comma lists of files."""
_NO_FILE = frozenset({"", "spark-internal", "spark-shell", "pyspark-shell", "sparkr-shell"})
"""Names in the application's place that are no file (Spark's SparkSubmit)."""
_KERBEROS_CONF = (
    "spark.kerberos.keytab",
    "spark.kerberos.principal",
    "spark.yarn.keytab",
    "spark.yarn.principal",
)


class SparkSubmitTranslator:
    """The translator of ``SparkSubmitOperator`` and its subclasses."""

    name = NAME
    operators = OPERATORS

    def install(self, seam: Seam) -> None:
        """See ``Translator``."""
        from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
        from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

        _replace(SparkSubmitHook, "__init__", functools.partial(_init, seam))
        _replace(SparkSubmitHook, "_resolve_connection", functools.partial(_resolve_connection, seam))
        _replace(SparkSubmitHook, "_create_keytab_path_from_base64_keytab", _refuse_keytab)
        _replace(SparkSubmitHook, "_validate_track_driver_via_k8s_api_config", _nothing)
        _replace(SparkSubmitHook, "submit", functools.partial(_submit, seam))
        # What there is to kill runs on a cluster and is the control plane's to cancel.
        _replace(SparkSubmitOperator, "on_kill", _nothing)

    def is_replayed(self, task: Any) -> bool:
        """See ``Translator``: replayed if a subclass brings an ``execute`` of its own."""
        owner = next(cls for cls in type(task).__mro__ if "execute" in vars(cls))
        return owner.__name__ not in OPERATORS

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
    raise WorkloadRejected(_kerberos_text("the connection's keytab"))


def _init(seam: Seam, original: Callable[..., Any], hook: Any, *args: Any, **kwargs: Any) -> None:
    del seam
    if kwargs.get("use_krb5ccache"):
        raise WorkloadRejected(_kerberos_text("use_krb5ccache"))
    original(hook, *args, **kwargs)
    # With the branches that track a driver off, `execute` always ends at `hook.submit`.
    hook._is_yarn_cluster_mode = False
    hook._is_kubernetes = False
    hook._should_track_driver_status = False
    hook._track_driver_via_k8s_api = False
    hook._yarn_track_via_rm_api = False


def _resolve_connection(seam: Seam, original: Callable[..., dict[str, Any]], hook: Any) -> dict[str, Any]:
    connection = original(hook)
    for field in ("keytab", "principal"):
        if connection.get(field):
            raise WorkloadRejected(_kerberos_text(field))
    conf = hook._conf
    return connection | {
        "master": "yarn",
        # An operator's value is lost by the hook where its connection does not exist.
        "deploy_mode": hook._deploy_mode
        or connection.get("deploy_mode")
        or conf.get(_DEPLOY_MODE)
        or seam.deploy_mode,
        "queue": hook._yarn_queue or connection.get("queue") or conf.get(_YARN_QUEUE) or seam.yarn_queue,
        "namespace": None,
        "rest_endpoint": None,
    }


def _kerberos_text(what: str) -> str:
    return (
        f"{what}: Kerberos credentials cannot travel with an EMR step; remove keytab, principal and"
        " use_krb5ccache from the operator and its connection, and give the cluster itself a"
        " security configuration"
    )


def _submit(
    seam: Seam, _original: Callable[..., Any], hook: Any, application: str = "", **_kwargs: Any
) -> None:
    seam.call(
        functools.partial(parts_of, hook, application, seam.folders()),
        hook._run_post_submit_commands,
    )


def parts_of(hook: Any, application: str, folders: tuple[str, ...]) -> StepParts:
    """The spark-submit call of a hook, its local files replaced by tokens. Raises WorkloadRejected."""
    files = LocalFiles(folders)
    given, hook = hook, copy.copy(hook)
    conf = _conf_of(hook, files)
    _localize(hook, conf, files)
    target = application if application in _NO_FILE else files.one("application", application)
    arguments = [str(argument) for argument in hook._application_args or ()]
    # The pieces of `_build_spark_submit_command`, without its log line: the command stands in the
    # log once its files have their places.
    command = [*hook._get_spark_binary_path(), *hook._build_spark_common_args(), target, *arguments]
    env = {str(key): str(value) for key, value in (hook._env_vars or {}).items()}
    context = {key: value for key, value in os.environ.items() if key.startswith(CONTEXT_PREFIX)}
    return StepParts(
        translator=NAME,
        command=tuple(str(word) for word in command),
        env=context | env,
        files=tuple(files.files),
        named_values=tuple(_named_values(given, application, conf, arguments)),
    )


def _conf_of(hook: Any, files: LocalFiles) -> dict[str, str]:
    """The hook's conf over its properties file, free of what does not fit a step."""
    conf: dict[str, str] = {}
    if hook._properties_file:
        text = files.read("properties_file", hook._properties_file)
        if text is not None:
            # spark-submit reads --properties-file from the local disk alone, so its content travels as conf.
            conf |= {key: value for key, value in properties_of(text).items() if key.startswith("spark.")}
            hook._properties_file = None
    conf |= {str(key): str(value) for key, value in hook._conf.items()}
    for key in _KERBEROS_CONF:
        if conf.get(key):
            raise WorkloadRejected(_kerberos_text(f"conf {key}"))
    if conf.get(_WAIT, "").strip().lower() == "false":
        # A step would be COMPLETED while its application still runs.
        del conf[_WAIT]
    return conf


def _localize(hook: Any, conf: dict[str, str], files: LocalFiles) -> None:
    """Put tokens in the place of local files in the hook's arguments and conf."""
    for argument in ("files", "py_files", "archives", "jars"):
        value = getattr(hook, f"_{argument}")
        if value:
            setattr(hook, f"_{argument}", files.many(argument, value))
    if hook._driver_class_path:
        _localize_class_path(hook, files)
    hook._conf = {
        key: files.many(f"conf {key}", value) if key in _FILE_CONF and value else value
        for key, value in conf.items()
    }


def _localize_class_path(hook: Any, files: LocalFiles) -> None:
    """Local jars of the class path travel as ``--jars``; the class path keeps their names.

    A class path cannot hold s3:// locations; YARN puts each jar beside the driver by its name.
    Entries that are no file here are taken for paths on the cluster.
    """
    entries, jars = [], [hook._jars] if hook._jars else []
    for entry in hook._driver_class_path.split(":"):
        token = files.existing("driver_class_path", entry)
        entries.append(entry if token is None else Path(entry).name)
        if token is not None and token not in jars:
            jars.append(token)
    hook._driver_class_path = ":".join(entries)
    hook._jars = ",".join(jars) or None


def _named_values(
    hook: Any, application: str, conf: dict[str, str], arguments: list[str]
) -> Iterator[tuple[str, str]]:
    yield "application", application
    for index, argument in enumerate(arguments):
        yield f"application_args[{index}]", argument
    for key, value in conf.items():
        yield f"conf {key}", value
    for key, value in (hook._env_vars or {}).items():
        yield f"env_vars {key}", str(value)
    for name in ("name", "java_class", "packages", "repositories", "proxy_user", "files", "py_files", "jars"):
        value = getattr(hook, f"_{name}")
        if value:
            yield name, str(value)

"""One call of Spark, as a user wrote it, turned into the parts of a step. Runs in the task runner.

Precedence is spark-submit's own: option (the operator's or its connection's), ``conf``, properties file, the
cluster's spark-defaults, and only then the pool's default; so nothing is added that one of them says. The
command is built by the hook's own code, a subclass's included.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from emr_executor.errors import WorkloadRejected
from emr_executor.task.local_files import LocalFiles
from emr_executor.task.properties import properties_of
from emr_executor.task.translators import Seam, StepParts

NAME = "spark_submit"
CONTEXT_PREFIX = "AIRFLOW_CTX_"

_CLUSTERS_OWN = "local:"
_EMR_BINARIES = ("/usr/lib/spark/", "/usr/bin/")
_BINARY = "spark-submit"
_MASTER = "spark.master"
_WAIT = "spark.yarn.submit.waitAppCompletion"
_DEPLOY_MODE = "spark.submit.deployMode"
_YARN_QUEUE = "spark.yarn.queue"
_LISTS = ("files", "py_files", "archives", "jars", "packages", "exclude_packages", "repositories")
"""The hook's arguments that are comma lists; those of files come first."""
_FILE_LISTS = _LISTS[:4]
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
_NO_FILE = frozenset({"spark-internal", "spark-shell", "pyspark-shell", "sparkr-shell"})
"""Names in the application's place that are no file (Spark's SparkSubmit)."""
_KERBEROS_CONF = (
    "spark.kerberos.keytab",
    "spark.kerberos.principal",
    "spark.yarn.keytab",
    "spark.yarn.principal",
)
_PROVIDER = "airflow.providers.apache.spark.hooks.spark_submit"
_silent = logging.Logger("silent", level=logging.CRITICAL + 1)  # noqa: LOG001 - no configuration enables it


def kerberos_text(what: str) -> str:
    """Why Kerberos credentials are refused, and what to do."""
    return (
        f"{what}: Kerberos credentials cannot travel with an EMR step; remove keytab, principal and"
        " use_krb5ccache from the operator and its connection, and give the cluster itself a"
        " security configuration"
    )


def parts_of(seam: Seam, hook: Any, application: object, popen: Mapping[str, Any]) -> StepParts:
    """The spark-submit call of a hook, its local files replaced by tokens. Raises WorkloadRejected.

    popen: what the call of ``submit`` gave for ``subprocess.Popen``
    """
    files = LocalFiles(seam.folders())
    hook = copy.copy(hook)
    # It logs the command before the files have their places; the supervisor does after.
    hook._log = _silent
    _join_lists(hook)
    env = _environment(hook, popen)
    arguments = _arguments(hook._application_args)
    application = _text("application", application)
    if not application:
        raise WorkloadRejected(
            "application is empty: name the .py or .jar to run, as a path beside the DAG file or as s3://"
        )
    conf = _conf_of(hook, files)
    named = tuple(_named_values(hook, application, conf, arguments, env))
    _leave_open(seam, hook, conf)
    _localize(hook, conf, files)
    hook._application_args = arguments
    target = application if application in _NO_FILE else files.one("application", application)
    command = _command(seam, hook, target, conf)
    if type(hook)._build_spark_submit_command.__module__ != _PROVIDER:
        named += tuple((f"_build_spark_submit_command()[{n}]", word) for n, word in enumerate(command))
    context = {key: value for key, value in os.environ.items() if key.startswith(CONTEXT_PREFIX)}
    return StepParts(
        translator=NAME,
        command=tuple(command),
        env=context | env,
        files=tuple(files.files),
        named_values=named,
        warnings=tuple(_files_of_this_host(hook, arguments, seam.folders())),
    )


def _text(field: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    raise WorkloadRejected(f"{field} is a {type(value).__name__}: write one text")


def _join_lists(hook: Any) -> None:
    """Lists become the comma lists that Spark takes."""
    for field in _LISTS:
        setattr(hook, f"_{field}", _joined(field, getattr(hook, f"_{field}"), ","))
    hook._driver_class_path = _joined("driver_class_path", hook._driver_class_path, ":")
    for field in ("conf", "env_vars"):
        value = getattr(hook, f"_{field}")
        if value is not None and not isinstance(value, Mapping):
            raise WorkloadRejected(
                f'{field} is a {type(value).__name__}: write a mapping, such as {{"NAME": "value"}}'
            )


def _joined(field: str, value: object, separator: str) -> str | None:
    if isinstance(value, list | tuple):
        return separator.join(_text(f"{field}[{index}]", entry) for index, entry in enumerate(value)) or None
    return _text(field, value) or None


def _arguments(given: object) -> list[str]:
    example = 'write a list with one entry for each, such as ["--day", "{{ ds }}"]'
    if given is None:
        return []
    if not isinstance(given, list | tuple):
        raise WorkloadRejected(
            f"application_args is a {type(given).__name__}, of which Spark would make other arguments than"
            f" meant: {example}"
        )
    for index, argument in enumerate(given):
        if argument is None or isinstance(argument, list | tuple | dict | set):
            raise WorkloadRejected(
                f"application_args[{index}] is a {type(argument).__name__}, and an argument is one text:"
                f" {example}"
            )
    return [str(argument) for argument in given]


def _environment(hook: Any, popen: Mapping[str, Any]) -> dict[str, str]:
    """The step's own variables: ``env_vars``, and what a call of ``submit`` adds to this process's."""
    if others := sorted(set(popen) - {"env"}):
        raise WorkloadRejected(
            f"submit was called with {', '.join(others)}, for a process on Airflow's host; Spark runs on an"
            " EMR cluster, where only env means something: call submit without them"
        )
    added = {key: value for key, value in (popen.get("env") or {}).items() if os.environ.get(key) != value}
    return {str(key): str(value) for key, value in {**added, **(hook._env_vars or {})}.items()}


def _conf_of(hook: Any, files: LocalFiles) -> dict[str, str]:
    """The hook's conf over its properties file, free of what does not fit a step."""
    conf: dict[str, str] = {}
    place = _text("properties_file", hook._properties_file)
    if place.startswith(_CLUSTERS_OWN):
        hook._properties_file = place.removeprefix(_CLUSTERS_OWN)
    elif place:
        text = files.read("properties_file", place)
        if text is None:
            raise WorkloadRejected(
                f"properties_file: spark-submit reads {place} from no place but its own disk; name a file"
                " beside the DAG (its content travels with the step), local:/path for a file of the cluster's"
                " own, or write its entries as conf"
            )
        # spark-submit reads --properties-file from the local disk alone, so its content travels as conf.
        conf |= {key: value for key, value in properties_of(text).items() if key.startswith("spark.")}
        hook._properties_file = None
    conf |= {str(key): str(value) for key, value in (hook._conf or {}).items()}
    for key in _KERBEROS_CONF:
        if conf.get(key):
            raise WorkloadRejected(kerberos_text(f"conf {key}"))
    if conf.get(_WAIT, "").strip().lower() == "false":
        # A step would be COMPLETED while its application still runs.
        del conf[_WAIT]
    return conf


def _leave_open(seam: Seam, hook: Any, conf: Mapping[str, str]) -> None:
    """Our defaults, where neither option, conf, properties file nor cluster says anything."""
    connection = dict(hook._connection)
    for field in ("keytab", "principal"):
        if connection.get(field):
            raise WorkloadRejected(kerberos_text(field))
    # A properties file on the cluster cannot be read here and may say any of them.
    is_open = not hook._properties_file
    # An operator's value is lost by the hook where its connection does not exist.
    mode = hook._deploy_mode or connection.get("deploy_mode")
    queue = hook._yarn_queue or connection.get("queue")
    if is_open and _DEPLOY_MODE not in conf:
        mode = mode or seam.deploy_mode
    if is_open and _YARN_QUEUE not in conf:
        queue = queue or seam.yarn_queue
    hook._connection = connection | {"master": "yarn", "deploy_mode": mode, "queue": queue, "namespace": None}


def _localize(hook: Any, conf: dict[str, str], files: LocalFiles) -> None:
    """Put tokens in the place of local files in the hook's arguments and conf."""
    for argument in _FILE_LISTS:
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


def _command(seam: Seam, hook: Any, target: str, conf: Mapping[str, str]) -> list[str]:
    command = [str(word) for word in hook._build_spark_submit_command(target)]
    if not command:
        raise WorkloadRejected(f"{type(hook).__name__}._build_spark_submit_command built no command")
    command[0] = _binary(command[0])
    says_master = hook._properties_file or _MASTER in conf or seam.master is None
    if says_master and command[1:3] == ["--master", "yarn"]:
        del command[1:3]
    return command


def _binary(given: str) -> str:
    """The program to start on the cluster; a path of this host's would not exist there."""
    if given.startswith(_CLUSTERS_OWN):
        return given.removeprefix(_CLUSTERS_OWN)
    if "/" in given and not given.startswith(_EMR_BINARIES):
        raise WorkloadRejected(
            f"spark_binary: {given} is a path of Airflow's host, and Spark starts on an EMR cluster: leave"
            f" it out, write {_BINARY}, or local:{given} if the cluster has that file"
        )
    return given


def _files_of_this_host(hook: Any, arguments: list[str], folders: tuple[str, ...]) -> Iterator[str]:
    """A sentence for each argument that names a file which only this host has."""
    shipped = {
        alias or Path(location).name
        for entry in f"{hook._files or ''},{hook._archives or ''}".split(",")
        for location, _, alias in [entry.partition("#")]
    }
    for index, argument in enumerate(arguments):
        name = argument.partition("=")[2] if argument.startswith("-") else argument
        if not name or "://" in name or len(name) > os.pathconf("/", "PC_PATH_MAX") or "\0" in name:
            continue
        is_path = "/" in name or Path(name).suffix
        path = next(
            (Path(folder) / name for folder in folders if is_path and _is_file(Path(folder) / name)), None
        )
        if path is not None and name not in shipped:
            yield (
                f"application_args[{index}] names {path}, a file of Airflow's host that the job does not find"
                f' on the cluster: write files="{name}" and the argument "{path.name}", or an s3:// address'
            )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _named_values(
    hook: Any, application: str, conf: Mapping[str, str], arguments: list[str], env: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """What the user wrote, by the name under which it was written."""
    yield "application", application
    for index, argument in enumerate(arguments):
        yield f"application_args[{index}]", argument
    for key, value in conf.items():
        yield f"conf {key}", value
    for key, value in env.items():
        yield f"env_vars {key}", value
    for name in ("name", "java_class", "proxy_user", "driver_class_path", *_LISTS):
        value = getattr(hook, f"_{name}")
        if value:
            yield name, str(value)

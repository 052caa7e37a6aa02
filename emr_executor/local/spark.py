"""The Spark and Hadoop commands that steps of emr-local find on their PATH, and the files that they read.

Whatever starts Spark in a step (spark-submit, spark-sql, pyspark, a plain ``python3 job.py``) reads one
``spark-defaults.conf`` and one ``spark-env.sh``, in the step's SPARK_CONF_DIR: emr-local's own defaults
(small, quick, on loopback, ``spark.master local[k]``, s3:// mapped), over them the cluster's Configurations.

The commands here run PySpark's real ones. What only a cluster can do is rewritten: ``--master yarn`` and
``--deploy-mode cluster`` run as the defaults say, ``--queue`` is dropped; programs and files given as
``s3://`` are copied first (YARN does that on a cluster). Everything else is passed on as it stands.

``s3://bucket/key`` inside of jobs is Hadoop's own ViewFileSystemOverloadScheme over the directory that
holds the endpoint's buckets, so jobs read and write the objects unchanged. RawLocalFileSystem below it
writes no ``.crc`` files, which would be objects of their own and go stale when the S3 API overwrites a
file. ``hadoop fs`` and ``hdfs dfs`` are Hadoop's own shell over the same; there is no HDFS.

Standard library only, and nothing of this package: it is started by its path, in a step's clean environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

S3_SCHEMES = ("s3://", "s3a://", "s3n://")
SPARK_COMMANDS = ("spark-submit", "spark-sql", "spark-shell", "pyspark")
HADOOP_COMMANDS = {"hadoop": "fs", "hdfs": "dfs"}
ABSENT_COMMANDS = ("s3-dist-cp", "run-example", "spark-example")
# Options of spark-submit without a value (Spark 4.2, SparkSubmitOptionParser).
_FLAGS = frozenset(
    {"--verbose", "-v", "--supervise", "--help", "-h", "--version", "--usage-error", "--load-spark-defaults"}
    | {"-S", "--silent"}  # of spark-sql
)
# Not --properties-file: spark-submit reads it from the disk alone, on EMR as here.
_FILE_OPTIONS = frozenset({"--files", "--jars", "--py-files", "--archives"})
_FILE_CONF = frozenset(
    {"spark.files", "spark.jars", "spark.submit.pyFiles", "spark.archives"}
    | {"spark.yarn.dist.files", "spark.yarn.dist.jars", "spark.yarn.dist.archives"}
)
# Decided here, whatever a cluster's Configurations or a call says: nothing listens beyond loopback.
_OURS = frozenset(
    {"spark.submit.deployMode", "spark.yarn.queue", "spark.driver.host", "spark.driver.bindAddress"}
)
# Programs and addresses of a cluster's nodes, which are others here.
_OUR_EXPORTS = frozenset(
    {"JAVA_HOME", "SPARK_HOME", "SPARK_CONF_DIR", "SPARK_LOCAL_IP", "SPARK_PUBLIC_DNS", "HADOOP_CONF_DIR"}
    | {"YARN_CONF_DIR", "PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"}
)
_FROM_LOCAL = frozenset({"-put", "-copyFromLocal", "-moveFromLocal", "-appendToFile"})
_TO_LOCAL = frozenset({"-get", "-copyToLocal", "-moveToLocal", "-getmerge"})
_EXPORT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PROPERTY = re.compile(r"\s*(?![#!])((?:\\.|[^\s:=\\])+)\s*[:=\s]?\s*(.*)")
# A scheme of its own: ``file:`` itself must stay LocalFileSystem, which Hadoop casts to.
_RAW_SCHEME = "emrlocal"
_QUICK_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
EX_CONFIG = 78


class SubmitRefused(Exception):
    """The call cannot be run here; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimConfig:
    """What emr-local tells its shim through a JSON file.

    s3_root: the directory with one directory for each bucket
    """

    s3_root: str
    java_home: str | None = None
    java_problem: str = ""
    cores: int = 1
    driver_memory: str = "512m"


@dataclass(slots=True)
class Submit:
    """One spark-submit call, taken apart: options in order, then the program and its arguments."""

    options: list[tuple[str, str | None]] = field(default_factory=list)
    program: list[str] = field(default_factory=list)

    def value(self, option: str) -> str | None:
        """The last value of an option."""
        return dict(self.options).get(option)


def parse(arguments: Sequence[str]) -> Submit:
    """Take a call apart as spark-submit does: the first word that is no option is the program."""
    submit = Submit()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            submit.program = [word, *rest]
            break
        name, has_value, value = word.partition("=")
        if has_value and name.startswith("--"):
            submit.options.append((name, value))
        elif word in _FLAGS:
            submit.options.append((word, None))
        elif rest:
            submit.options.append((word, rest.pop(0)))
        else:
            raise SubmitRefused(f"spark-submit: the option {word} has no value.")
    return submit


class Localizer:
    """Copies ``s3://`` files of a call into the step's own directory."""

    def __init__(self, s3_root: Path, target: Path) -> None:
        self._s3_root = s3_root.resolve()
        self._target = target
        self._count = 0

    def one(self, uri: str) -> str:
        """A local path for one file; what is not on S3 stays as it is. ``#alias`` is kept."""
        if not uri.startswith(S3_SCHEMES):
            return uri
        location, sharp, alias = uri.partition("#")
        source = (self._s3_root / location.partition("://")[2]).resolve()
        if not source.is_relative_to(self._s3_root) or not source.exists():
            raise SubmitRefused(f"{location} does not exist.")
        self._count += 1
        copy = self._target / str(self._count) / source.name
        copy.parent.mkdir(parents=True)
        if source.is_dir():
            shutil.copytree(source, copy)
        else:
            shutil.copyfile(source, copy)
        return f"{copy}{sharp}{alias}"

    def many(self, uris: str) -> str:
        """A comma-separated list, each as ``one``."""
        return ",".join(self.one(uri.strip()) for uri in uris.split(",") if uri.strip())


def rewrite(submit: Submit, defaults: str, localizer: Localizer, target: Path) -> list[str]:
    """The arguments for the real command.

    defaults: the text of the step's spark-defaults.conf
    target: a directory for a properties file, which stands over the defaults (Spark reads either of the two)
    """
    kept: list[str] = []
    for name, value in submit.options:
        kept += _rewrite_option(name, value, localizer)
    if (named := submit.value("--properties-file")) is not None:
        kept += ["--properties-file", _over_defaults(named, defaults, target)]
    program = list(submit.program)
    if program:
        program[0] = localizer.one(program[0])
    return [*kept, *program]


def _rewrite_option(name: str, value: str | None, localizer: Localizer) -> list[str]:
    if value is None:
        return [name]
    if name in ("--deploy-mode", "--queue", "--properties-file") or (name == "--master" and _is_yarn(value)):
        return []
    if name in _FILE_OPTIONS:
        return [name, localizer.many(value)]
    if name in ("--conf", "-c"):
        key, _, text = value.partition("=")
        if not _is_kept(key, text):
            return []
        if key in _FILE_CONF:
            return [name, f"{key}={localizer.many(text)}"]
    return [name, value]


def _over_defaults(named: str, defaults: str, target: Path) -> str:
    """A properties file with the user's settings after the defaults: the last one of a key counts."""
    try:
        lines = Path(named.removeprefix("file://")).read_text().splitlines()
    except (OSError, ValueError):
        return named  # Spark says what is wrong with it; it reads none from S3.
    matches = [(line, _PROPERTY.fullmatch(line)) for line in lines]
    kept = [line for line, match in matches if match is None or _is_kept(match[1], match[2])]
    target.mkdir(parents=True, exist_ok=True)
    merged = target / "properties.conf"
    merged.write_text("\n".join([defaults, *kept, ""]))
    return str(merged)


def _is_kept(key: str, value: str) -> bool:
    return key not in _OURS and not (key == "spark.master" and _is_yarn(value))


def _is_yarn(master: str) -> bool:
    return master.strip() == "yarn" or master.startswith("yarn-")


def default_conf(config: ShimConfig, temporary: str) -> dict[str, str]:
    """What every job gets unless it says otherwise: small, quick, bound to loopback, with s3:// mapped."""
    conf = {
        "spark.master": f"local[{config.cores}]",
        "spark.driver.memory": config.driver_memory,
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": f"{temporary}/spark",
        "spark.sql.shuffle.partitions": str(max(config.cores, 1)),
        "spark.driver.defaultJavaOptions": f"{_QUICK_JVM} -Djava.io.tmpdir={temporary}",
    }
    return conf | {f"spark.hadoop.{key}": value for key, value in hadoop_conf(config).items()}


def hadoop_conf(config: ShimConfig) -> dict[str, str]:
    """Hadoop's settings by which every bucket there is now is a directory."""
    conf = {f"fs.{_RAW_SCHEME}.impl": "org.apache.hadoop.fs.RawLocalFileSystem"}
    for scheme in ("s3", "s3a", "s3n"):
        conf[f"fs.{scheme}.impl"] = "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme"
    # Hadoop's defaults name a committer for s3a that lives in hadoop-aws, which PySpark does not bring.
    committer = "org.apache.hadoop.mapreduce.lib.output.FileOutputCommitterFactory"
    conf["mapreduce.outputcommitter.factory.scheme.s3a"] = committer
    root = Path(config.s3_root)
    for bucket in sorted(path.name for path in root.iterdir() if path.is_dir()):
        conf[f"fs.viewfs.mounttable.{bucket}.linkFallback"] = f"{_RAW_SCHEME}://{root / bucket}"
    return conf


def write_conf(
    folder: Path, config: ShimConfig, configurations: Sequence[Mapping[str, Any]], temporary: str
) -> None:
    """Write ``spark-defaults.conf`` and ``spark-env.sh``, which everything that starts Spark reads.

    configurations: the cluster's, of which ``spark-defaults`` and the exports of ``spark-env`` count
    """
    conf, exports = default_conf(config, temporary), dict[str, str]()
    for each in configurations:
        properties = each.get("Properties") or {}
        if each.get("Classification") == "spark-defaults":
            conf |= {key: value for key, value in properties.items() if _is_kept(key, value)}
        elif each.get("Classification") == "spark-env":
            for inner in each.get("Configurations") or ():
                exports |= inner.get("Properties") or {}
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{_escaped(key)} {_escaped(value)}\n" for key, value in conf.items()]
    (folder / "spark-defaults.conf").write_text("".join(lines))
    kept = {key: value for key, value in exports.items() if _EXPORT_NAME.fullmatch(key)}
    lines = [f"export {key}={value}\n" for key, value in kept.items() if key not in _OUR_EXPORTS]
    (folder / "spark-env.sh").write_text("".join([*lines, "export SPARK_LOCAL_IP=127.0.0.1\n"]))


def _escaped(text: str) -> str:
    """One key or value as java.util.Properties reads it."""
    return re.sub(r"([\\:=#! \t])", r"\\\1", text).replace("\n", "\\n").replace("\r", "\\r")


def spark_home() -> Path:
    """The directory of an installed PySpark with its jars; pyspark-client alone has none."""
    spec = find_spec("pyspark")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "jars").is_dir() and (Path(place) / "bin" / "spark-submit").exists():
            return Path(place)
    raise SubmitRefused("Spark is not installed beside emr-local: pip install 'emr-executor[local]'.")


def environment(config: ShimConfig, conf_dir: Path) -> dict[str, str]:
    """What a step's environment holds for Spark, however it is started; nothing without Spark or Java."""
    try:
        home = spark_home()
    except SubmitRefused:
        return {}
    if config.java_home is None:
        return {}
    return {
        "SPARK_HOME": str(home),
        "SPARK_CONF_DIR": str(conf_dir),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LAUNCHER_OPTS": _QUICK_JVM,
        "JAVA_HOME": config.java_home,
        "PYSPARK_PYTHON": sys.executable,
    }


def main(arguments: Sequence[str]) -> int:
    """Become the real command; returns when it cannot be run.

    arguments: the file of a ShimConfig, the command, its arguments
    """
    config = ShimConfig(**json.loads(Path(arguments[0]).read_text()))
    command, words = arguments[1], arguments[2:]
    target = Path(tempfile.gettempdir()) / "spark-files" / str(os.getpid())
    make = hadoop_argv if command in HADOOP_COMMANDS else _spark_argv
    try:
        if command in ABSENT_COMMANDS:
            raise SubmitRefused(_absent(command))
        home = spark_home()
        if config.java_home is None:
            raise SubmitRefused(config.java_problem or "Spark needs Java and none was found.")
        argv = make(command, words, config, home, target)
    except SubmitRefused as refused:
        sys.stderr.write(f"emr-local {command}: {refused}\n")
        return EX_CONFIG
    # A variable that a step's script dropped is set again: without these Spark would leave loopback.
    env = os.environ | {"SPARK_HOME": str(home), "JAVA_HOME": config.java_home, "SPARK_LOCAL_IP": "127.0.0.1"}
    os.execve(argv[0], argv, env)  # noqa: S606  (becomes the command)
    return EX_CONFIG


def _absent(command: str) -> str:
    others = "aws s3 cp --recursive, or hadoop fs -cp" if command == "s3-dist-cp" else "spark-submit"
    return (
        f"emr-local has no {command}. It has {', '.join((*SPARK_COMMANDS, 'hadoop fs', 'hdfs dfs', 'aws'))}: "
        f"use {others} here, or run the step on EMR."
    )


def _spark_argv(
    command: str, words: Sequence[str], config: ShimConfig, home: Path, target: Path
) -> list[str]:
    bash = shutil.which("bash")
    if bash is None:
        raise SubmitRefused("Spark's scripts need bash.")
    conf_dir = os.environ.get("SPARK_CONF_DIR")
    if conf_dir is None:
        raise SubmitRefused("the step's environment lost SPARK_CONF_DIR, which Spark needs here.")
    defaults = (Path(conf_dir) / "spark-defaults.conf").read_text()
    rewritten = rewrite(parse(words), defaults, Localizer(Path(config.s3_root), target), target)
    return [bash, str(home / "bin" / command), *rewritten]


def hadoop_argv(
    command: str, words: Sequence[str], config: ShimConfig, home: Path, target: Path
) -> list[str]:
    """Hadoop's own shell. Paths of HDFS are refused: they would be those of this machine.

    target: a directory for its settings
    """
    tool = HADOOP_COMMANDS[command]
    if not words or words[0] not in ("fs", "dfs"):
        raise SubmitRefused(
            f"emr-local has '{command} {tool}' of it, over s3:// and file:// paths, and no more."
        )
    paths = words[2:]
    if words[1:2] and words[1] in _FROM_LOCAL:
        paths = words[-1:]
    elif words[1:2] and words[1] in _TO_LOCAL:
        paths = words[2:-1]
    for word in paths:
        if word.startswith(("hdfs:", "/")):
            raise SubmitRefused(
                f"emr-local has no HDFS, so no {word}: name s3://, or file:// for a local file."
            )
    java = str(Path(config.java_home or "") / "bin" / "java")
    # Hadoop's shell insists on a core-site.xml.
    settings = "".join(
        f"<property><name>{escape(key)}</name><value>{escape(value)}</value></property>\n"
        for key, value in hadoop_conf(config).items()
    )
    target.mkdir(parents=True, exist_ok=True)
    (target / "core-site.xml").write_text(f"<configuration>\n{settings}</configuration>\n")
    options = [*_QUICK_JVM.split(), "-Xmx256m", "-cp", f"{target}:{home}/jars/*"]
    return [java, *options, "org.apache.hadoop.fs.FsShell", *words[1:]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

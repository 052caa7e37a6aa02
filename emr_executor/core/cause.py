"""The one line that a person wants to read of a failed step.

The end of a Spark driver's output repeats one failure in many voices: the user's exception, Py4J around it,
Spark around that, YARN's report, shutdown noise. Each line is weighed by what kind of voice it is; among the
strongest the last one speaks, which is the innermost ``Caused by`` and the traceback that ended the program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

CAUSE_CHARACTERS = 400

_USER, _SPECIFIC, _HINT, _WRAPPING = 4, 3, 2, 1

_LOG_PREFIX = re.compile(
    r"^\[?\d{2,4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?\s+"
    r"(?P<level>TRACE|DEBUG|INFO|WARN|WARNING|ERROR|FATAL)\s+(?P<logger>[\w.$]+):\s*"
)
_AT = r"[\[(]?\d{2,4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?[\])]?"
_WORD = r"(?P<level>TRACE|DEBUG|INFO|WARN|WARNING|ERROR|FATAL|SEVERE|CRITICAL)"
_LEVELLED = (
    # log4j as Spark, Hadoop and people set it; Python's logging with its usual formats; Spark's JSON
    re.compile(rf"^{_AT}\s+(?:\S+\s+)?(?:-\s+)?(?:\S+\s+-\s+)?[\[(]?{_WORD}\b"),
    re.compile(rf"^[\[(]?{_WORD}[\])]?(?::|\s+-|\s+{_AT})"),
    re.compile(rf'^\{{.*"level"\s*:\s*"{_WORD}"'),
)
_LEVELS = {
    "TRACE": "debug",
    "DEBUG": "debug",
    "WARN": "warning",
    "WARNING": "warning",
    "ERROR": "error",
    "SEVERE": "error",
    "FATAL": "critical",
    "CRITICAL": "critical",
}
_FRAME = re.compile(
    r"^\s*(at [\w.$/<>@]+\(.*\)|\.\.\. \d+ (more|common frames omitted)|Driver stacktrace:)\s*$"
)
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\s*$")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Failure|Timeout)\b(?::\s.*|:|$)")
_NOISE = re.compile(r"^Command exiting with ret|^\s*$|^End of LogType|^\*{5,}")

_WRAPPERS = re.compile(
    r"Py4J(Java|Network)?Error|SparkUserAppException|finished with (failed|killed) status|SystemExit|"
    r"KeyboardInterrupt|ConnectionRefusedError.*Errno 111|Traceback \(most recent call last\):$|"
    r"Job aborted\.?$|User application exited with"
)
_VOICES: Sequence[tuple[int, re.Pattern[str]]] = (
    (_USER, re.compile(r"^Caused by: (?P<said>.+)")),
    (_SPECIFIC, re.compile(r"^: (?P<said>(?:[a-z_]\w*\.)+[A-Z]\w*.*)")),  # Py4J's Java half
    (_SPECIFIC, re.compile(r'^Exception in thread "main" (?P<said>.+)')),
    (_SPECIFIC, re.compile(r"(?P<said>User class threw exception: .+)")),
    (_SPECIFIC, re.compile(r"(?P<said>Container killed by YARN for exceeding .+)")),
    (_SPECIFIC, re.compile(r"(?P<said>Container \S+ is running (?:beyond|\d+B beyond) .+)")),
    (_SPECIFIC, re.compile(r"(?P<said>java\.lang\.OutOfMemoryError.*)")),
    (_SPECIFIC, re.compile(r"(?P<said>Job aborted due to stage failure: .+)")),
    (_HINT, re.compile(r"(?P<said>(?:Container|Executor|ExecutorLostFailure)\b.*\blost\b.? node.*)")),
    (_HINT, re.compile(r"(?P<said>.*\bExit status: -100\b.*)")),
    (_HINT, re.compile(r"^\s*diagnostics: (?!N/A|AM container is launched)(?P<said>.+)")),
    (_HINT, re.compile(r"^(?P<said>Application application_\d+_\d+ failed \d+ times .+)")),
    (_HINT, re.compile(r"(?P<said>.*\bKilled\s*$)")),
    (_HINT, re.compile(r"^(?P<said>(?:Error|error|fatal): .+)")),
    (_HINT, re.compile(r"^(?P<said>\S*sh: .+)")),
    (_HINT, re.compile(r"(?P<said>emr_step_wrapper: .+)")),
)
_MEANINGS = {
    126: "the command is not executable",
    127: "the command was not found",
    134: "the process aborted (SIGABRT), as a JVM does that runs out of memory",
    137: "killed (SIGKILL); most often the primary node ran out of memory",
    139: "the process crashed (SIGSEGV)",
    143: "terminated (SIGTERM)",
}


def cause_of(output_tail: str, exit_code: int | None) -> str:
    """One line, at most CAUSE_CHARACTERS long, on why a step failed; never empty.

    output_tail: the last lines of the driver's merged output, possibly cut at their beginning
    exit_code: the command's; None when it is not known
    """
    lines = [_LOG_PREFIX.sub("", line.rstrip()) for line in _telling(output_tail)]
    strength, said = max(_voices(lines), key=lambda voice: voice[0], default=(0, ""))
    if strength > _WRAPPING:
        return _short(_with_meaning(said, exit_code) if strength == _HINT else said)
    said = said or next((line.strip() for line in reversed(lines) if not _NOISE.match(line)), "")
    return _short(_with_meaning(said, exit_code))


def driver_level(line: str, before: str) -> str:
    """The log level of a line of a driver's output, in Airflow's words.

    before: the level of the line before, which a stack trace shares
    """
    for pattern in _LEVELLED:
        if found := pattern.match(line):
            return _LEVELS.get(found["level"], "info")
    if _TRACEBACK.search(line) or line.startswith(("Exception in thread", "Caused by:")):
        return "error"
    return before if line[:1].isspace() or _EXCEPTION.match(line) else "info"


def _telling(output_tail: str) -> Iterator[str]:
    """The lines without stack frames and without what Spark logs at INFO and below."""
    for line in output_tail.splitlines():
        logged = _LOG_PREFIX.match(line)
        if _FRAME.match(line) or (logged and logged["level"] in {"TRACE", "DEBUG", "INFO"}):
            # YARN's client reports its diagnostics, and the final state, at INFO.
            if logged and "diagnostics:" in line:
                yield line
            continue
        yield line


def _voices(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(strength, text) of every line that says something, the last first."""
    python = _python_ends(lines)
    for i in range(len(lines) - 1, -1, -1):
        line = lines[i]
        if i in python:
            yield _weighed(_USER, _joined(lines, i, line))
            continue
        for strength, pattern in _VOICES:
            found = pattern.search(line)
            if found:
                yield _weighed(strength, _joined(lines, i, found["said"].strip()))
                break
        else:
            if _EXCEPTION.match(line):
                yield _weighed(_SPECIFIC, _joined(lines, i, line))


def _python_ends(lines: Sequence[str]) -> set[int]:
    """Where tracebacks end: the first line after one that is not indented."""
    ends: set[int] = set()
    inside = False
    for i, line in enumerate(lines):
        if _TRACEBACK.search(line):
            inside = True
        elif inside and line and not line[0].isspace():
            inside = False
            ends.add(i)
    return ends


def _joined(lines: Sequence[str], i: int, said: str) -> str:
    """An exception whose message begins on the next line, with that line."""
    if said.endswith(":") and not _TRACEBACK.search(said):
        return f"{said} {next((line.strip() for line in lines[i + 1 :] if line.strip()), '')}".strip()
    return said


def _weighed(strength: int, said: str) -> tuple[int, str]:
    return (_WRAPPING if _WRAPPERS.search(said) else strength), said


def _with_meaning(said: str, exit_code: int | None) -> str:
    code = "no exit code" if exit_code is None else f"exit code {exit_code}"
    meaning = _MEANINGS.get(exit_code) if exit_code is not None else None
    if not said:
        return f"{meaning} ({code})" if meaning else f"the command ended without output ({code})"
    if exit_code is not None and code in said.lower():
        return f"{said} ({meaning})" if meaning else said
    return f"{said} ({code}: {meaning})" if meaning else f"{said} ({code})"


def _short(text: str) -> str:
    return text if len(text) <= CAUSE_CHARACTERS else f"{text[: CAUSE_CHARACTERS - 3]}..."

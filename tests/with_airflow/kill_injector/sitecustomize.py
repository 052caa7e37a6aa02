"""Kills a process of the stack at one exact point of its work. Production code knows nothing of it.

Python imports this file by its name in every process that has its folder on PYTHONPATH. It does nothing
without EMR_TEST_SABOTAGE, a folder with

    plan     the points that are armed, one a line: ``<who> before|after <event>``
    fired/   one empty file for each point that was used: it kills once, the restarted process goes on
    reached  every event that happened since the triggers were made, one a line: ``<who> <event>``

*who* is scheduler, agent, host (of task runners), supervisor (of one phase) or runner (of user code).
An *event* is a row of ``killpoints.log``, which triggers of PostgreSQL write (tests/with_airflow/arena.py):
so a point is exactly before or after the COMMIT of that change, whichever statement made it; or it is an act
(``act <name>``), once it has returned and before its result can have been written.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = os.environ.get("EMR_TEST_SABOTAGE")
_EVENTS = "select event from killpoints.log where xid = txid_current_if_assigned() order by id"
_LINEAGES = {
    "airflow scheduler": ("scheduler",),
    "airflow emr agent": ("agent",),
    "emr_executor.agent.main --child": ("agent",),
    "emr_executor.task.host": ("host", "supervisor", "runner"),
}
"""Command line to what the process is, what its fork is, and what the fork of that is."""
_OWN_WORD = {
    ("agent", "workload PREPARING>ACCEPTED"): "fell_silent",
    ("agent", "workload FINISHING>FINISHABLE"): "fell_silent",
    ("supervisor", "workload PREPARING>ACCEPTED"): "to_repeat",
    ("supervisor", "workload FINISHING>FINISHABLE"): "to_repeat",
}
"""Observations that a statement of SQL makes, not the tables' own functions: who writes tells which."""

_seen: dict[str, str] = {}
_forks = 0


def who() -> str:
    """What this process is, or nothing that is ever killed."""
    words = " ".join(sys.orig_argv)
    lineage = next((found for known, found in _LINEAGES.items() if known in words), ())
    return lineage[_forks] if _forks < len(lineage) else ""


def hit(when: str, event: str) -> None:
    """Die here if this point is armed and was not used before."""
    point = f"{who()} {when} {event}"
    folder = Path(FOLDER or "")
    if point not in (folder / "plan").read_text().splitlines():
        return
    with suppress(FileExistsError):
        os.close(os.open(folder / "fired" / name_of(point), os.O_CREAT | os.O_EXCL))
        _die()


def name_of(point: str) -> str:
    """The file that says that a point was used."""
    return sha256(point.encode()).hexdigest()[:16]


def _die() -> None:
    # A scheduler dies with the workers of its LocalExecutor, as with its container.
    for entry in Path("/proc").iterdir() if who() == "scheduler" else ():
        with suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"LocalExecutor" in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_armed() -> bool:
    return bool(who()) and (Path(FOLDER or "") / "plan").exists()


def _reached(event: str) -> None:
    descriptor = os.open(Path(FOLDER or "") / "reached", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{who()} {event}\n".encode())
    os.close(descriptor)


# -- commits ------------------------------------------------------------------------------------------


def _sabotage_commits(module: Any) -> None:
    original = module.DefaultDialect.do_commit

    def do_commit(self: Any, dbapi_connection: Any) -> None:
        events = _events(dbapi_connection) if _is_armed() else []
        for event in events:
            hit("before", event)
        original(self, dbapi_connection)
        for event in events:
            _reached(event)
        for event in events:
            hit("after", event)

    module.DefaultDialect.do_commit = do_commit


def _events(dbapi_connection: Any) -> list[str]:
    with suppress(Exception):
        cursor = dbapi_connection.cursor()
        try:
            cursor.execute(_EVENTS)
            return [_with_event(row[0]) for row in cursor.fetchall()]
        finally:
            cursor.close()
    return []


def _with_event(event: str) -> str:
    if ">" not in event:
        return event
    from emr_executor.core import transitions

    entity, _, move = event.partition(" ")
    start, _, end = move.partition(">")
    edges = getattr(transitions, f"{entity.upper()}_EDGES")
    possible = [e.event for e in edges if (e.start or "nothing", e.end) == (start, end)]
    only = possible[0] if len(possible) == 1 else None
    # Several moves of one tick are written as one: then the last of them that came to this end.
    heard = [_OWN_WORD.get((who(), event)), _seen.get(event), _seen.get(f"{entity} >{end}")]
    return f"{event} {only or next((one for one in heard if one in possible), None)}"


def _listen_to_tables(module: Any) -> None:
    original = module.StateMachine.end_of

    def end_of(self: Any, start: Any, event: Any) -> Any:
        end = original(self, start, event)
        for move in (f"{start or 'nothing'}>{end}", f">{end}"):
            _seen[f"{self.entity} {move}"] = event
        return end

    module.StateMachine.end_of = end_of


# -- acts ---------------------------------------------------------------------------------------------


def _act(name: str) -> None:
    if _is_armed():
        _reached(f"act {name}")
        hit("after", f"act {name}")


def _sabotage(owner: Any, *names: str) -> None:
    for name in names:
        setattr(owner, name, _then_act(getattr(owner, name), name))


def _then_act(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def acted(*args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        _act(name)
        return answer

    @functools.wraps(original)
    async def acted_async(*args: Any, **kwargs: Any) -> Any:
        answer = await original(*args, **kwargs)
        _act(name)
        return answer

    is_async = original.__code__.co_flags & 0x80  # inspect.CO_COROUTINE, without importing inspect
    return acted_async if is_async else acted


def _sabotage_words(module: Any) -> None:
    original = module.CommsDecoder.send

    def send(self: Any, msg: Any) -> Any:
        answer = original(self, msg)
        _act(f"say {type(msg).__name__}")
        return answer

    module.CommsDecoder.send = send


_PATCHES: dict[str, Callable[[Any], None]] = {
    "sqlalchemy.engine.default": _sabotage_commits,
    "emr_executor.core.transitions": _listen_to_tables,
    "emr_executor.aws.emr": lambda m: _sabotage(
        m.EmrClient, "run_job_flow", "add_steps", "cancel_steps", "terminate_clusters"
    ),
    "emr_executor.aws.records": lambda m: _sabotage(m.S3StepRecords, "consume"),
    "emr_executor.task.task_api": lambda m: _sabotage(m.HttpTaskApi, "fail_terminally"),
    "emr_executor.task.api": lambda m: _sabotage(
        m._StoredIdentity, "start", "succeed", "retry", "defer", "reschedule", "finish"
    ),
    "emr_executor.task.staging": lambda m: _sabotage(m.Staging, "complete"),
    "airflow.sdk.execution_time.comms": _sabotage_words,
}


class _Patching(MetaPathFinder, Loader):
    """Changes a module once it is loaded; nothing is imported for it."""

    def __init__(self) -> None:
        self._real: dict[str, Loader] = {}
        self._asking: set[str] = set()

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in _PATCHES or name in self._asking:
            return None
        self._asking.add(name)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if finder is not self else None
            if spec is not None and spec.loader is not None:
                self._real[name], spec.loader = spec.loader, self
                return spec
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real[spec.name].create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real[module.__name__].exec_module(module)
        _PATCHES[module.__name__](module)


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - what a process is changes with its fork, for the whole process
    _forks += 1


if FOLDER and who():
    sys.meta_path.insert(0, _Patching())
    os.register_at_fork(after_in_child=_count_fork, after_in_parent=lambda: _act("fork"))

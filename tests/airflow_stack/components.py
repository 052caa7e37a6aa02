"""One process of a local stack: started in a clean environment, watched, ended with its group."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from emr_executor.errors import EmrExecutorError

MARK = "EMR_EXECUTOR_STACK"
"""Environment variable that every process of a stack inherits: how leftovers are found again."""
_DROPPED = ("AWS_", "AIRFLOW", "EMR_", "SPARK_", "PYSPARK_", "HADOOP_", "PYTHON", "YARN_")
_LOG_TAIL_LINES = 25
_POLL_S = 0.1
_KILLED_WITHIN_S = 5.0


class StackError(EmrExecutorError):
    """The local stack could not do what it was asked; the message tells what to change."""


def clean_env(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would lead to AWS or to another Airflow, plus ``extra``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED)}
    local = "127.0.0.1,localhost"
    return {**kept, "NO_PROXY": local, "no_proxy": local, "PYTHONUNBUFFERED": "1", **extra}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(
    condition: Callable[[], bool], *, timeout_s: float, what: str, poll_s: float = _POLL_S
) -> None:
    """Return once the condition holds. Raises StackError after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(poll_s)


class Component:
    """A command with a log file, in a session (and so a process group) of its own.

    created: start time of the process as psutil tells it, which with the pid names it for good
    """

    def __init__(
        self, name: str, command: Sequence[str], *, env: Mapping[str, str], log: Path, cwd: Path
    ) -> None:
        self.name, self.command, self.env, self.log, self.cwd = name, tuple(command), dict(env), log, cwd
        self.process: subprocess.Popen[bytes] | None = None
        self.created = 0.0

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the command; its output is appended to the log file."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with suppress(psutil.NoSuchProcess):
            self.created = psutil.Process(self.process.pid).create_time()

    def check(self) -> None:
        """Raises StackError with the log's last lines when the process has ended."""
        if self.process is not None and (code := self.process.poll()) is not None:
            raise StackError(f"{self.name} ended with exit code {code}.\n{self.tail()}")

    def tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """The last lines of the log, with its path above them."""
        text = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([f"Last lines of {self.log}:", *(f"  {line}" for line in text[-lines:])])

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a signal to the process alone, as a crash would hit it; reaps it when the signal ends it."""
        if self.process is not None and self.is_running:
            self.process.send_signal(sig)
            if sig == signal.SIGKILL:
                self.process.wait()

    def descendants(self) -> list[psutil.Process]:
        """The processes below this one, whatever session they are in."""
        try:
            return [] if self.pid is None else psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def stop_all(components: Sequence[Component], *, grace_s: float) -> None:
    """SIGTERM to all, and after ``grace_s`` SIGKILL to what is left of them and below them."""
    below = [process for component in components for process in component.descendants()]
    for component in components:
        component.kill(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    for component in components:
        if component.process is not None:
            with suppress(subprocess.TimeoutExpired):
                component.process.wait(max(0.0, deadline - time.monotonic()))
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(component.process.pid, signal.SIGKILL)
            component.process.wait()
    _each([process for process in below if process.is_running()], lambda process: process.kill())
    psutil.wait_procs(below, timeout=_KILLED_WITHIN_S)


def marked_processes(mark: str) -> list[psutil.Process]:
    """Every process of this user that inherited the stack's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def end_marked(mark: str, *, known: Iterable[tuple[int, float]] = (), grace_s: float = 5.0) -> None:
    """End every process with the mark but this one: SIGTERM, and SIGKILL to those that stay.

    known: (pid, start time) of processes that had the mark; they and their children are found even
        where one of them overwrote its environment with a title
    """
    found = set(marked_processes(mark))
    for pid, created in known:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.create_time() == created:
                found |= {process, *process.children(recursive=True)}
    leftovers = [process for process in found if process.pid != os.getpid()]
    _each(leftovers, lambda process: process.terminate())
    _, alive = psutil.wait_procs(leftovers, timeout=grace_s)
    _each(alive, lambda process: process.kill())
    psutil.wait_procs(alive, timeout=grace_s)


def _each(processes: Iterable[psutil.Process], act: Callable[[psutil.Process], Any]) -> None:
    for process in processes:
        try:
            act(process)
        except psutil.NoSuchProcess:
            continue

"""The task host: a small process with Airflow's SDK imported once, which forks a supervisor for each phase.

``python -m emr_executor.task.host``, started by the agent, with the protocol of ``wire`` on
stdin and stdout. It has one thread and no event loop, so that it may fork: each phase gets a
process of its own, never a thread (fact 27). When its control channel closes, the agent is
gone: it takes no more work, lets the running phases end (they write their results themselves)
and exits. How many phases run at once is the agent's to bound.

A phase tells the agent itself how it ended, by a pipe that the agent made: the end
arrives whether or not this process still lives; the host only says which phases it began, and
that their processes are gone.
"""

from __future__ import annotations

import argparse
import gc
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from emr_executor.task.phase_result import EXIT_BROKEN
from emr_executor.task.wire import PhaseReply, begun_line, phase_id_of, phase_of, reply_line, report_lines
from emr_executor.tolerant_streams import have_a_temporary_folder, make_standard_streams_lossy

if TYPE_CHECKING:
    from emr_executor.task.wire import Phase

DEFAULT_RESULTS = "emr_executor.task.results:PhaseResults"
TITLE = "airflow emr task-host"
EXIT_REFUSED = 64
"""Reply to a line that is no phase."""
_READ_BYTES = 1024 * 1024
_PRELOADED = (
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.execution_time.cache",
    "airflow.sdk.definitions.connection",
    "airflow.sdk.definitions.asset.metadata",
    "airflow.sdk.bases.sensor",
    "airflow.sdk._shared.logging.factory",
    "airflow.dag_processing.dagbag",
    "airflow.dag_processing.bundles.local",
    "airflow.dag_processing.bundles.manager",
    "airflow.executors.base_executor",
    "airflow.api_fastapi.auth.tokens",
    "airflow.providers.apache.spark.hooks.spark_submit",
    "airflow.providers.apache.spark.operators.spark_submit",
    # What most DAG files import besides.
    "airflow.providers.standard.operators.bash",
    "airflow.providers.standard.operators.empty",
    "airflow.providers.standard.operators.python",
    "boto3.s3.inject",
    "jinja2.ext",
    "emr_executor.store.phase_store",
    "emr_executor.store.runner",
    "emr_executor.task.spark_submit",
    "emr_executor.task.step_errors",
    "emr_executor.task.supervise",
)
"""What every phase needs, imported before the first fork."""


def main(argv: list[str] | None = None) -> int:
    """Serve phases until the control channel closes."""
    parser = argparse.ArgumentParser(prog="python -m emr_executor.task.host")
    parser.add_argument(
        "--results", default=DEFAULT_RESULTS, help="module:callable that opens a row's results"
    )
    parser.add_argument("--reports", type=int, metavar="FD", help="where ends are told; stdout if not given")
    options = parser.parse_args(argv)
    make_standard_streams_lossy()
    have_a_temporary_folder()
    control_in, control_out = _take_control_channel()
    reports = control_out if options.reports is None else options.reports
    os.set_inheritable(reports, False)
    _set_title(TITLE)
    for name in _PRELOADED:
        import_module(name)
    _warm_up()
    module, _, attribute = options.results.partition(":")
    host = TaskHost(control_in, control_out, reports, getattr(import_module(module), attribute))
    return host.serve()


class TaskHost:
    """Forks phases, reports their ends. open_results: see ``results.ResultsFactory``."""

    def __init__(
        self, control_in: int, control_out: int, reports: int, open_results: Callable[..., Any]
    ) -> None:
        self._control_in = control_in
        self._control_out = control_out
        self._reports = reports
        self._open_results = open_results
        self._selector = selectors.DefaultSelector()
        self._running: dict[int, int] = {}
        self._unread = bytearray()
        self._taking_work = True
        self._wake_read, self._wake_write = socket.socketpair()

    def serve(self) -> int:
        """Run until no work can come and none runs. Returns the exit code."""
        self._watch_children()
        os.set_blocking(self._control_in, False)
        self._selector.register(self._control_in, selectors.EVENT_READ, self._read_control)
        self._send(self._control_out, b'{"ready":true}\n')
        # Objects that exist now stay shared with every fork: no collection touches their headers.
        gc.collect()
        gc.freeze()
        while self._taking_work or self._running:
            for key, _ in self._selector.select():
                key.data()
        return 0

    def _watch_children(self) -> None:
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # Only its byte on the wake-up socket counts.
        signal.signal(signal.SIGTERM, lambda *_: self._stop_taking_work())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._reap)

    def _read_control(self) -> None:
        try:
            block = os.read(self._control_in, _READ_BYTES)
        except BlockingIOError:
            return
        if not block:
            self._stop_taking_work()
            return
        self._unread += block
        *lines, rest = self._unread.split(b"\n")
        self._unread = bytearray(rest)
        for line in lines:
            self._take(bytes(line))

    def _stop_taking_work(self) -> None:
        if self._taking_work:
            self._taking_work = False
            self._selector.unregister(self._control_in)

    def _take(self, line: bytes) -> None:
        try:
            phase = phase_of(line)
        except ValueError:
            traceback.print_exc()
            if (number := phase_id_of(line)) is not None:
                self._send(self._reports, reply_line(PhaseReply(id=number, exit_code=EXIT_REFUSED)))
            return
        self._fork(phase)

    def _fork(self, phase: Phase) -> None:
        # Before the fork: a phase of which this was not said has certainly not begun.
        self._send(self._control_out, begun_line(phase.id))
        pid = os.fork()
        if pid == 0:
            # No frame of the host may be left by this process: it ends here.
            code = EXIT_BROKEN
            try:
                self._become_supervisor()
                code = _run(phase, self._open_results, self._reports)
            except BaseException:  # noqa: BLE001 - as above
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        self._running[pid] = phase.id

    def _become_supervisor(self) -> None:
        """Let go of everything of the host's in a fresh fork."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()
        for fd in {self._control_in, self._control_out} - {self._reports}:
            os.close(fd)

    def _reap(self) -> None:
        try:
            while self._wake_read.recv(4096):
                pass
        except BlockingIOError:
            pass
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                reply = PhaseReply(id=self._running.pop(pid), exit_code=os.waitstatus_to_exitcode(status))
                self._send(self._reports, reply_line(reply))

    def _send(self, fd: int, line: bytes) -> None:
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            # The agent is gone; the phases' results are in the store.
            self._stop_taking_work()


def _run(phase: Phase, open_results: Callable[..., Any], reports: int) -> int:
    from emr_executor.task.supervise import run_phase

    _set_title(f"airflow emr {phase.workload.state.lower()} -- {phase.workload_id}")
    reply = run_phase(phase, open_results)
    with suppress(OSError):  # The agent is gone; the result is in the store.
        for line in report_lines(reply):
            os.write(reports, line)
    return 0


def _take_control_channel() -> tuple[int, int]:
    """Keep stdin and stdout for the protocol; whatever else prints goes to stderr."""
    control_in, control_out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return control_in, control_out


def _warm_up() -> None:
    """What imports alone do not do, and each phase would do again."""
    from emr_executor.task import api, child, staging, translators

    translators.registry()
    staging.warm_up()
    api.warm_up()
    child.warm_up()


def _set_title(title: str) -> None:
    if sys.platform != "darwin":  # there it crashes forks (setproctitle's issue with Objective-C)
        from setproctitle import setproctitle

        setproctitle(title)


if __name__ == "__main__":
    raise SystemExit(main())

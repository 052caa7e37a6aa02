"""``ForkingTaskHost``: the agent's end of the task host, on the agent's event loop."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import structlog

from emr_executor.config import Settings
from emr_executor.errors import TryAgain
from emr_executor.ports import PhaseEnded, PhaseJob
from emr_executor.task.wire import Phase, PhaseReply, Replies, phase_line

log = structlog.get_logger(__name__)

_LINE_BYTES = 64 * 1024 * 1024
_RESTART_PAUSE_S = 2.0
_EXIT_UNHEARD = -1
"""Of a phase whose process and whose host are gone without a word."""


@dataclass(slots=True)
class _Sent:
    """A phase that a host was given. has_begun: the host said that it forks it."""

    process: Process
    reply: asyncio.Future[PhaseReply]
    has_begun: bool = False


class ForkingTaskHost:
    """Runs phases in a task-host process that is started when first needed and again when it died.

    settings: handed to each phase; this object never reads the configuration
    results: import path of the ``ResultsFactory`` that the phases write through
    env: added to this process's environment for the host
    """

    def __init__(
        self,
        settings: Settings,
        *,
        results: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._capacity = settings.task_runner_parallelism
        self._arguments = ("-m", "emr_executor.task.host", *(("--results", results) if results else ()))
        self._env = {**os.environ, **(env or {})}
        self._slots = asyncio.Semaphore(self._capacity)
        self._starting = asyncio.Lock()
        self._ids = count(1)
        self._waiting: dict[int, _Sent] = {}
        self._process: Process | None = None
        # Of hosts that are gone too: their phases go on, and the event loop keeps no task alive.
        self._readers: set[asyncio.Task[None]] = set()
        self._started_at: float | None = None
        self._is_ready = False

    @property
    def is_ready(self) -> bool:
        """Whether the host has done its imports and takes phases."""
        return self._is_ready

    @property
    def capacity(self) -> int:
        """How many phases may run at once."""
        return self._capacity

    @property
    def pid(self) -> int | None:
        """The host's process id while it runs."""
        return None if self._process is None else self._process.pid

    async def run(self, job: PhaseJob) -> PhaseEnded:
        """Run one phase to its end. Raises TryAgain when it never began.

        A phase whose host died goes on, writes its result, and is waited for as ever.
        """
        async with self._slots:
            process = await self._running_host()
            number = next(self._ids)
            phase = Phase(
                id=number, workload=job.workload, claim_token=job.claim_token, settings=self._settings
            )
            sent = _Sent(process, asyncio.get_running_loop().create_future())
            self._waiting[number] = sent
            try:
                await _send(process, phase_line(phase))
                reply = await sent.reply
            finally:
                self._waiting.pop(number, None)
        return PhaseEnded(
            workload_id=job.workload_id,
            claim_token=job.claim_token,
            exit_code=reply.exit_code,
            masks=reply.masks,
        )

    async def start(self) -> None:
        """Start the host ahead of the first phase, which then need not wait for imports. Raises TryAgain."""
        await self._running_host()

    async def close(self, *, wait: bool = False) -> None:
        """Give the host no more work. It ends when its phases do; ``wait`` waits for all of them."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        if wait:
            await asyncio.gather(*self._readers)

    async def _running_host(self) -> Process:
        async with self._starting:
            if self._process is None:
                await self._start()
            if self._process is None:
                raise TryAgain("the task host ended while it started; see its messages in the agent's log")
            return self._process

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._started_at is not None and now - self._started_at < _RESTART_PAUSE_S:
            raise TryAgain(f"the task host has just died; it is started again within {_RESTART_PAUSE_S:g} s")
        self._started_at = now
        read_end, write_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                "--reports",
                str(write_end),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._env,
                limit=_LINE_BYTES,
                pass_fds=(write_end,),
                # Not in the terminal's process group: Ctrl-C ends the agent, and phases end by themselves.
                start_new_session=True,
            )
        except OSError as error:
            os.close(read_end)
            raise TryAgain(f"the task host cannot be started: {error}") from error
        finally:
            os.close(write_end)
        self._process = process
        reader = asyncio.create_task(self._read(process, read_end), name="task-host-reader")
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        log.info("task_host_started", pid=process.pid)

    async def _read(self, process: Process, read_end: int) -> None:
        stdout = process.stdout
        if stdout is None:
            raise TryAgain("the task host has no stdout")
        reports = asyncio.create_task(self._read_reports(read_end), name="task-host-reports")
        while line := await stdout.readline():
            said = json.loads(line)
            self._is_ready |= "ready" in said
            if sent := self._waiting.get(said.get("begun")):
                sent.has_begun = True
        exit_code = await process.wait()
        if self._process is process:
            self._process, self._is_ready = None, False
        log.info("task_host_ended", pid=process.pid, exit_code=exit_code)
        waiting = [(number, sent) for number, sent in self._waiting.items() if sent.process is process]
        for _, sent in waiting:
            if not sent.has_begun and not sent.reply.done():
                sent.reply.set_exception(TryAgain(f"the task host ended, exit code {exit_code}"))
        await reports
        for number, sent in waiting:
            if not sent.reply.done():
                sent.reply.set_result(PhaseReply(id=number, exit_code=_EXIT_UNHEARD))

    async def _read_reports(self, read_end: int) -> None:
        """The ends of the phases of one host, until it and they are gone."""
        stream, replies = asyncio.StreamReader(limit=_LINE_BYTES), Replies()
        with os.fdopen(read_end, "rb") as pipe:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(stream), pipe
            )
            while line := await stream.readline():
                reply = replies.take(line)
                sent = self._waiting.get(reply.id) if reply else None
                if reply and sent and not sent.reply.done():
                    sent.reply.set_result(reply)
            transport.close()


async def _send(process: Process, line: bytes) -> None:
    stdin = process.stdin
    if stdin is None:
        raise TryAgain("the task host takes no work")
    try:
        stdin.write(line)
        await stdin.drain()
    except (BrokenPipeError, ConnectionResetError) as error:
        raise TryAgain("the task host has just died") from error

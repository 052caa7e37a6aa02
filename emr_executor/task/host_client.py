"""``ForkingTaskHost``: the agent's end of the task host, on the agent's event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from itertools import count

import structlog

from emr_executor.config import Settings
from emr_executor.errors import TryAgain
from emr_executor.ports import PhaseEnded, PhaseJob
from emr_executor.task.wire import Phase, PhaseReply, phase_line, reply_of

log = structlog.get_logger(__name__)

_LINE_BYTES = 64 * 1024 * 1024
_RESTART_PAUSE_S = 2.0


class ForkingTaskHost:
    """Runs phases in a task-host process that is started when first needed and again when it died.

    settings: handed to each phase; this object never reads the configuration
    capacity: phases at once; ``task_runner_parallelism`` unless given
    results: import path of the ``ResultsFactory`` that the phases write through
    env: added to this process's environment for the host
    """

    def __init__(
        self,
        settings: Settings,
        *,
        capacity: int | None = None,
        results: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._capacity = capacity or settings.task_runner_parallelism
        self._arguments = ("-m", "emr_executor.task.host", *(("--results", results) if results else ()))
        self._env = {**os.environ, **(env or {})}
        self._slots = asyncio.Semaphore(self._capacity)
        self._starting = asyncio.Lock()
        self._ids = count(1)
        self._waiting: dict[int, asyncio.Future[PhaseReply]] = {}
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
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
        """Run one phase to the end of its process. Raises TryAgain when the host is away.

        A phase whose host died may go on alone and write its result: the row's claim tells.
        """
        async with self._slots:
            process = await self._running_host()
            number = next(self._ids)
            phase = Phase(
                id=number, workload=job.workload, claim_token=job.claim_token, settings=self._settings
            )
            future: asyncio.Future[PhaseReply] = asyncio.get_running_loop().create_future()
            self._waiting[number] = future
            try:
                await _send(process, phase_line(phase))
                reply = await future
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
        """Give the host no more work. It ends when its phases do; ``wait`` waits for that."""
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        if wait:
            await reader

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
            raise TryAgain("the task host has just died; it is started again in a moment")
        self._started_at = now
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._env,
                limit=_LINE_BYTES,
                # Not in the terminal's process group: Ctrl-C ends the agent, and phases end by themselves.
                start_new_session=True,
            )
        except OSError as error:
            raise TryAgain(f"the task host cannot be started: {error}") from error
        self._process = process
        self._reader = asyncio.create_task(self._read(process), name="task-host-reader")
        log.info("task_host_started", pid=process.pid)

    async def _read(self, process: Process) -> None:
        stdout = process.stdout
        if stdout is None:
            raise TryAgain("the task host has no stdout")
        while line := await stdout.readline():
            if line.startswith(b'{"ready"'):
                self._is_ready = True
                continue
            reply = reply_of(line)
            future = self._waiting.get(reply.id)
            if future is not None and not future.done():
                future.set_result(reply)
        exit_code = await process.wait()
        if self._process is process:
            self._process, self._is_ready = None, False
        log.info("task_host_ended", pid=process.pid, exit_code=exit_code)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(TryAgain(f"the task host ended, exit code {exit_code}"))


async def _send(process: Process, line: bytes) -> None:
    stdin = process.stdin
    if stdin is None:
        raise TryAgain("the task host takes no work")
    try:
        stdin.write(line)
        await stdin.drain()
    except (BrokenPipeError, ConnectionResetError) as error:
        raise TryAgain("the task host has just died") from error

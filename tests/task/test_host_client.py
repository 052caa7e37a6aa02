"""The task host as the agent sees it: bounded, restarted, and outlived by its phases."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from emr_executor.config import Settings
from emr_executor.core.model import Workload
from emr_executor.core.states import WorkloadState
from emr_executor.errors import TryAgain
from emr_executor.ports import PhaseJob, TaskHost
from emr_executor.task.host import EXIT_REFUSED
from emr_executor.task.host_client import ForkingTaskHost
from emr_executor.task.wire import Phase, Replies, phase_line
from tests.task.conftest import Bench, host_env
from tests.task.fake_api import ApiServer, FakeApi

pytestmark = pytest.mark.processes


class Station:
    """A host of this test's own, with the API that its phases talk to."""

    def __init__(self, home: Path, server: ApiServer, settings: Settings, host: ForkingTaskHost) -> None:
        self.home, self.server, self.settings, self.host = home, server, settings, host

    def job(self, dag: str, task_id: str) -> PhaseJob:
        bench = Bench(self.home, self.server, None, self.settings)  # type: ignore[arg-type]
        workload: Workload = bench.workload(dag, task_id, WorkloadState.PREPARING)
        return PhaseJob(workload=workload, claim_token="claim")

    def events(self, job: PhaseJob) -> str:
        path = self.home / "results" / job.workload_id
        return path.read_text() if path.exists() else ""

    async def until(self, happened: Any) -> None:
        end = time.monotonic() + 20
        while not happened():
            assert time.monotonic() < end, "it did not happen in time"
            await asyncio.sleep(0.02)


class OpenApi(FakeApi):
    """Serves several tries at once: any of them may start and beat."""

    def _run(self, request: Any, parts: list[str]) -> tuple[int, Any]:
        self.state = "queued"
        return super()._run(request, parts)


@pytest_asyncio.fixture
async def station(tmp_path: Path, settings: Settings) -> AsyncIterator[Station]:
    (tmp_path / "results").mkdir()
    server = ApiServer()
    server.api = OpenApi(dag_id="own_execute")
    host = ForkingTaskHost(
        settings.model_copy(update={"task_runner_parallelism": 2}),
        results="tests.task.file_results:FileResults",
        env=host_env(tmp_path, server.url),
    )
    yield Station(tmp_path, server, settings, host)
    await host.close(wait=True)
    server.close()


async def test_phases_run_side_by_side_up_to_the_capacity(station: Station) -> None:
    port: TaskHost = station.host
    jobs = [station.job("own_execute", "slow") for _ in range(3)]
    runs = [asyncio.create_task(port.run(job)) for job in jobs]
    marks = station.home / "marks"
    await station.until(lambda: marks.exists() and marks.read_text().count("slow") == 2)
    done, _ = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
    assert marks.read_text().count("slow") <= 2 + len(done)
    ended = await asyncio.gather(*runs)
    assert [(end.workload_id, end.exit_code) for end in ended] == [(job.workload_id, 0) for job in jobs]
    assert all('"parked"' in station.events(job) for job in jobs)


async def test_a_host_that_dies_is_started_again_and_its_phase_ends_by_itself(station: Station) -> None:
    job = station.job("own_execute", "slow")
    run = asyncio.create_task(station.host.run(job))
    marks = station.home / "marks"
    await station.until(marks.exists)
    assert station.host.pid
    os.kill(station.host.pid, signal.SIGKILL)
    await station.until(lambda: not station.host.is_ready)
    await station.host.start()
    gc.collect()  # what follows the phases of the host that died is kept by the client alone
    other = station.job("own_execute", "never")
    assert (await station.host.run(other)).exit_code == 0
    assert (await run).exit_code == 0
    assert '"parked"' in station.events(job)


async def test_masks_of_a_phase_survive_its_host(station: Station) -> None:
    station.server.api.connections["db"] = {"conn_type": "mysql", "password": "canary-7f3a9c"}
    station.server.api.dag_id = "secret"
    job = station.job("secret", "slow_and_logged")
    run = asyncio.create_task(station.host.run(job))
    await station.until((station.home / "marks").exists)
    assert station.host.pid
    os.kill(station.host.pid, signal.SIGKILL)
    assert (await run).masks == ("canary-7f3a9c",)


async def test_a_phase_that_was_sent_and_never_forked_is_told_as_such(station: Station) -> None:
    await station.host.start()
    assert station.host.pid
    os.kill(station.host.pid, signal.SIGSTOP)  # It reads nothing any more.
    job = station.job("own_execute", "slow")
    run = asyncio.create_task(station.host.run(job))
    await asyncio.sleep(0)
    os.kill(station.host.pid, signal.SIGKILL)
    with pytest.raises(TryAgain, match="ended"):
        await run
    assert station.events(job) == ""


ENDS_BEFORE_THE_HOST_RUNS = """
import json, os, selectors, sys
from emr_executor.task import host
from emr_executor.task.wire import PhaseReply, report_lines

class WakeUpFirst(selectors.DefaultSelector):
    def select(self, timeout=None):
        for pid in serving._running:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return sorted(super().select(timeout), key=lambda ready: ready[0].data != serving._reap)

def run(phase, open_results, reports):
    if phase.id % 2:
        for line in report_lines(PhaseReply(id=phase.id, exit_code=7, masks=("m",))):
            os.write(reports, line)
    return 3

host._run = run
selectors.DefaultSelector = WakeUpFirst
serving = host.TaskHost(0, 1, 1, None)
sys.exit(serving.serve())
"""


def test_phases_that_end_before_the_host_runs_again_are_all_reported(station: Station) -> None:
    """Their ends, their last words and the host's wake-up are there in one select, the wake-up first."""
    phases = [
        Phase(
            id=n, workload=station.job("plain", "simple").workload, claim_token="c", settings=station.settings
        )
        for n in range(1, 5)
    ]
    done = subprocess.run(
        [sys.executable, "-c", ENDS_BEFORE_THE_HOST_RUNS],
        input=b"".join(map(phase_line, phases)),
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    replies, took = Replies(), {}
    for line in done.stdout.splitlines():
        reply = None if b'"begun"' in line or b'"ready"' in line else replies.take(line)
        if reply:
            took.setdefault(reply.id, (reply.exit_code, reply.masks))
    assert took == {1: (7, ("m",)), 2: (3, ()), 3: (7, ("m",)), 4: (3, ())}


async def test_a_host_is_ready_when_it_takes_phases_and_as_long_as_it_lives(station: Station) -> None:
    port: TaskHost = station.host
    assert not port.is_ready
    await port.start()
    assert not port.is_ready, "it imports first"
    await station.until(lambda: port.is_ready)
    assert station.host.pid
    os.kill(station.host.pid, signal.SIGKILL)
    await station.until(lambda: not port.is_ready)


def test_a_host_comes_up_on_a_full_disk(tmp_path: Path) -> None:
    """Of no file anywhere can a byte be written; its protocol goes through pipes."""
    argv = [sys.executable, "-m", "emr_executor.task.host"]
    code = "import os, resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); os.execv(argv[0], argv)"
    with subprocess.Popen(
        [sys.executable, "-c", f"argv = {argv}; {code}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **host_env(tmp_path, "http://127.0.0.1:9")},
    ) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b'{"ready":true}\n'


async def test_a_host_whose_agent_is_gone_lets_phases_end_and_exits(station: Station) -> None:
    job = station.job("own_execute", "slow")
    run = asyncio.create_task(station.host.run(job))
    await station.until((station.home / "marks").exists)
    pid = station.host.pid
    await station.host.close(wait=True)
    assert '"parked"' in station.events(job)
    assert (await run).exit_code == 0
    assert pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_line_that_is_no_phase_is_answered(bench: Bench) -> None:
    assert bench.process.stdin
    assert bench.process.stdout
    bench.process.stdin.write(b'{"id": 77}\n')
    bench.process.stdin.flush()
    assert bench.reply(77).exit_code == EXIT_REFUSED

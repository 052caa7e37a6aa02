"""The agent process: the composition root, the only file of ``agent`` that names concrete edges.

Started by the executor as its child (``python -m emr_executor.agent.main --child``: ends when its
standard input closes, that is when the scheduler dies) or as a service (``airflow emr agent``). A
database that is away when it starts is waited for.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

import structlog

from emr_executor import __version__
from emr_executor.agent.agent_row import AgentRow
from emr_executor.agent.clock import SystemClock
from emr_executor.agent.compose import compose
from emr_executor.agent.dependencies import Dependencies
from emr_executor.agent.health_probe import HealthProbe
from emr_executor.agent.loop_watchdog import Watchdog, pulse
from emr_executor.agent.loops import Agent
from emr_executor.agent.retention_s3 import S3Retention, StoredNeeds
from emr_executor.agent.schema_check import check_tables, until_other_tables
from emr_executor.agent.surroundings import Surroundings
from emr_executor.agent.tasklog import FileTaskLog
from emr_executor.aws.objects import S3StagedObjects
from emr_executor.aws.records import S3StepRecords
from emr_executor.aws.session import open_aws
from emr_executor.config import Settings
from emr_executor.config_load import load_settings
from emr_executor.core.health import Dependency
from emr_executor.core.model import Identity
from emr_executor.errors import ConfigError, StoreBusy, TryAgain
from emr_executor.store.agent_store import AgentStore
from emr_executor.store.dialect import engine_for
from emr_executor.store.health_store import HealthStore
from emr_executor.store.runner import ThreadRunner
from emr_executor.task.host_client import ForkingTaskHost
from emr_executor.task.task_api import HttpTaskApi
from emr_executor.task.tokens import token_mint
from emr_executor.tolerant_streams import make_standard_streams_lossy

EXIT_CONFIG = 3
START_PAUSE_S = 3.0
"""Between two looks for a database that is away when the agent starts."""
LOG_FLUSH_S = 5.0
PROBE_API_S, PROBE_S3_S = 10.0, 60.0
"""What was not used for so long is asked whether it is there."""

_T = TypeVar("_T")

log = structlog.get_logger("emr_executor.agent")


async def run_agent(
    settings: Settings,
    *,
    name: str | None = None,
    parent_pipe: int | None = None,
    life_fd: int | None = None,
) -> None:
    """Compose the agent, run it until SIGTERM, SIGINT or the parent's death, and end in order.

    name: ends the name under which it holds the lease, by which its parent knows it; None: a new one
    life_fd: where the event loop's signs of life go, for the executor
    Raises ConfigError where the database's tables are, or become, those of another release.
    """
    running: list[Agent] = []
    watchdog = Watchdog(settings.agent_hang_s)
    watchdog.start()
    signs = asyncio.create_task(
        pulse(watchdog, life_fd, lambda: max((agent.longest_round_s for agent in running), default=0.0))
    )
    work = asyncio.create_task(_run_agent(settings, running, name or uuid.uuid4().hex[:12]))

    def stop() -> None:
        for agent in running:
            agent.stop()
        if not running:
            work.cancel()

    _stop_on_signals(stop, parent_pipe)
    try:
        await work
    except asyncio.CancelledError:
        log.info("agent_stopped_before_it_began")
    finally:
        signs.cancel()


async def _run_agent(settings: Settings, running: list[Agent], name: str) -> None:
    from airflow.configuration import conf
    from airflow.utils.net import get_hostname

    clock = SystemClock()
    identity = Identity(hostname=get_hostname(), unixname=getpass.getuser(), pid=os.getpid())
    holder = f"{identity.hostname}/{identity.pid}/{name}"
    runner = ThreadRunner(engine_for(conf.get_mandatory_value("database", "sql_alchemy_conn")))
    store, dependencies = AgentStore(runner), Dependencies(clock)
    async with AsyncExitStack() as stack:
        stack.callback(runner.close)
        # The task host is started first: it forks, so it must not inherit this process's loop.
        host = ForkingTaskHost(settings)
        stack.push_async_callback(host.close)
        await host.start()
        api = HttpTaskApi(_execution_api_url(), token_mint())
        stack.push_async_callback(api.close)
        await api.look_at_clock()
        await _once_reachable(dependencies, clock, lambda: check_tables(runner))
        aws = await stack.enter_async_context(open_aws(settings.aws, clock))
        deployment_id = await _once_reachable(dependencies, clock, store.deployment_id)
        records = S3StepRecords(aws.objects, settings.staging_uri, deployment_id)
        expiry = S3Retention(
            staged=S3StagedObjects(aws.objects, settings.staging_uri),
            needs=StoredNeeds(runner),
            clock=clock,
            deployment_id=deployment_id,
            keep_s=settings.keep_staging_s,
        )
        task_log = _task_log(Path(conf.get_mandatory_value("logging", "base_log_folder")), dependencies)
        agent = compose(
            Surroundings(
                settings=settings,
                clock=clock,
                store=store,
                host=host,
                api=api,
                emr=aws.emr,
                records=records,
                records_uri=records.records_uri,
                region=aws.region,
                task_log=task_log,
                identity=identity,
                holder=holder,
                deployment_id=deployment_id,
                new_id=lambda: str(uuid.uuid4()),
                expiry=expiry,
                dependencies=dependencies,
            )
        )
        reporting = AgentRow(
            store=HealthStore(runner),
            dependencies=dependencies,
            clock=clock,
            holder=holder,
            host=identity.hostname,
            pid=identity.pid,
            version=__version__,
            is_steering=lambda: agent.is_steering,
            holds=lambda: agent.holds,
        )
        probing = HealthProbe(
            dependencies,
            {
                Dependency.API: (api.probe, PROBE_API_S),
                Dependency.S3: (lambda: records.changed({}), PROBE_S3_S),
            },
            lambda: agent.is_steering,
        )
        running.append(agent)
        log.info(
            "agent_started", holder=holder, deployment_id=deployment_id, endpoint=settings.aws.endpoint_url
        )
        other_tables = asyncio.create_task(until_other_tables(runner, clock))
        other_tables.add_done_callback(lambda _: agent.stop())
        report_s = settings.lease_s / 4
        await agent.run(
            also=((reporting.step, report_s), (probing.step, report_s), (task_log.flush, LOG_FLUSH_S))
        )
        await agent.close()
        with suppress(StoreBusy):
            await reporting.close()
        if other_tables.done():
            raise other_tables.result()
        other_tables.cancel()


async def _once_reachable(
    dependencies: Dependencies, clock: SystemClock, ask: Callable[[], Awaitable[_T]]
) -> _T:
    """The answer, once the database gives one."""
    while True:
        try:
            answer = await ask()
        except StoreBusy as error:
            dependencies.note(Dependency.DATABASE, "start", error)
            await clock.sleep(START_PAUSE_S)
        else:
            dependencies.note(Dependency.DATABASE, "start", None)
            return answer


def _task_log(folder: Path, dependencies: Dependencies) -> FileTaskLog:
    loop = asyncio.get_running_loop()

    def on_write(error: OSError | None) -> None:
        # Called in the thread that wrote.
        fault = None if error is None else TryAgain(str(error))
        loop.call_soon_threadsafe(dependencies.note, Dependency.TASK_LOGS, "write", fault)

    return FileTaskLog(folder, on_write=on_write)


def _execution_api_url() -> str:
    from airflow.executors.base_executor import get_execution_api_server_url

    return get_execution_api_server_url()


def _stop_on_signals(stop: Callable[[], None], parent_pipe: int | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if parent_pipe is not None:

        def parent_spoke() -> None:
            if not os.read(parent_pipe, 4096):
                loop.remove_reader(parent_pipe)
                log.warning("parent_died")
                stop()

        loop.add_reader(parent_pipe, parent_spoke)


def run(*, child: bool = False, name: str | None = None, life_fd: int | None = None) -> int:
    """Run an agent to its end; the process's exit code."""
    make_standard_streams_lossy()
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    try:
        from setproctitle import setproctitle

        setproctitle("airflow emr agent")
        settings = load_settings()
        parent_pipe = sys.stdin.fileno() if child else None
        asyncio.run(run_agent(settings, name=name, parent_pipe=parent_pipe, life_fd=life_fd))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    return 0


def main() -> None:
    """The entry point of the executor's child."""
    parser = argparse.ArgumentParser(prog="emr_executor.agent.main")
    parser.add_argument("--child", action="store_true", help="end when standard input closes")
    parser.add_argument("--name", help="ends the name under which it holds the lease")
    parser.add_argument("--life-fd", type=int, help="where signs of life go, for the executor")
    options = parser.parse_args()
    sys.exit(run(child=options.child, name=options.name, life_fd=options.life_fd))


if __name__ == "__main__":
    main()

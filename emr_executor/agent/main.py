"""The agent process: the composition root, the only file of ``agent`` that names concrete edges.

Started by the executor as its child (``python -m emr_executor.agent.main --child``: ends when its
standard input closes, that is when the scheduler dies) or as a service (``airflow emr agent``).
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import signal
import sys
import uuid
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from emr_executor.agent.clock import SystemClock
from emr_executor.agent.compose import Surroundings, compose
from emr_executor.agent.expiry import Expiry, StoredNeeds
from emr_executor.agent.loops import Agent
from emr_executor.agent.tables_watch import check_tables, until_other_tables
from emr_executor.agent.tasklog import FileTaskLog
from emr_executor.aws.session import open_aws
from emr_executor.config import Settings
from emr_executor.config_load import load_settings
from emr_executor.core.model import Identity
from emr_executor.errors import ConfigError
from emr_executor.store.agent_store import AgentStore
from emr_executor.store.dialect import engine_for
from emr_executor.store.runner import ThreadRunner
from emr_executor.task.host_client import ForkingTaskHost
from emr_executor.task.task_api import HttpTaskApi
from emr_executor.task.tokens import token_mint

EXIT_CONFIG = 3

log = structlog.get_logger("emr_executor.agent")


async def run_agent(settings: Settings, *, parent_pipe: int | None = None) -> None:
    """Compose the agent, run it until SIGTERM, SIGINT or the parent's death, and end in order.

    Raises ConfigError where the database's tables are, or become, those of another release.
    """
    from airflow.configuration import conf
    from airflow.utils.net import get_hostname

    clock = SystemClock()
    identity = Identity(hostname=get_hostname(), unixname=getpass.getuser(), pid=os.getpid())
    holder = f"{identity.hostname}/{identity.pid}/{uuid.uuid4().hex[:8]}"
    runner = ThreadRunner(engine_for(conf.get_mandatory_value("database", "sql_alchemy_conn")))
    store = AgentStore(runner)
    async with AsyncExitStack() as stack:
        stack.callback(runner.close)
        # The task host is started first: it forks, so it must not inherit this process's loop.
        host = ForkingTaskHost(settings)
        stack.push_async_callback(host.close)
        await host.start()
        api = HttpTaskApi(_execution_api_url(), token_mint())
        stack.push_async_callback(api.close)
        await check_tables(runner)
        aws = await stack.enter_async_context(open_aws(settings.aws, clock))
        deployment_id = await store.deployment_id()
        records = aws.records_for(deployment_id, settings.staging_uri)
        expiry = Expiry(
            staged=aws.staged_in(settings.staging_uri),
            needs=StoredNeeds(runner),
            clock=clock,
            deployment_id=deployment_id,
            keep_s=settings.keep_staging_s,
        )
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
                task_log=FileTaskLog(Path(conf.get_mandatory_value("logging", "base_log_folder"))),
                identity=identity,
                holder=holder,
                deployment_id=deployment_id,
                new_id=lambda: str(uuid.uuid4()),
                expiry=expiry,
            )
        )
        _stop_on_signals(agent, parent_pipe)
        log.info(
            "agent_started", holder=holder, deployment_id=deployment_id, endpoint=settings.aws.endpoint_url
        )
        other_tables = asyncio.create_task(until_other_tables(runner, clock))
        other_tables.add_done_callback(lambda _: agent.stop())
        await agent.run()
        await agent.close()
        if other_tables.done():
            raise other_tables.result()
        other_tables.cancel()


def _execution_api_url() -> str:
    from airflow.executors.base_executor import get_execution_api_server_url

    return get_execution_api_server_url()


def _stop_on_signals(agent: Agent, parent_pipe: int | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    if parent_pipe is not None:

        def parent_spoke() -> None:
            if not os.read(parent_pipe, 4096):
                loop.remove_reader(parent_pipe)
                log.warning("parent_died")
                agent.stop()

        loop.add_reader(parent_pipe, parent_spoke)


def run(*, child: bool = False) -> int:
    """Run an agent to its end; the process's exit code."""
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    try:
        from setproctitle import setproctitle

        setproctitle("airflow emr agent")
        settings = load_settings()
        asyncio.run(run_agent(settings, parent_pipe=sys.stdin.fileno() if child else None))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    return 0


def main() -> None:
    """The entry point of the executor's child."""
    parser = argparse.ArgumentParser(prog="emr_executor.agent.main")
    parser.add_argument("--child", action="store_true", help="end when standard input closes")
    sys.exit(run(child=parser.parse_args().child))


if __name__ == "__main__":
    main()

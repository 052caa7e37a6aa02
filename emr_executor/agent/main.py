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
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import structlog

from emr_executor.agent.acts import Acts
from emr_executor.agent.clock import SystemClock
from emr_executor.agent.heartbeats import Heartbeats
from emr_executor.agent.launching import LaunchHolds
from emr_executor.agent.lease import LeaseKeeper
from emr_executor.agent.phases import Phases
from emr_executor.agent.settling import Settling
from emr_executor.agent.steering import Steering, limits_of
from emr_executor.agent.tasklog import TaskLog
from emr_executor.agent.tracker import Tracker
from emr_executor.aws.session import Aws, open_aws
from emr_executor.config import Settings
from emr_executor.config_load import load_settings
from emr_executor.core.model import ClusterUuid, Identity
from emr_executor.errors import ConfigError, EmrExecutorError, StaleWriter, TryAgain
from emr_executor.store.agent_store import AgentStore
from emr_executor.store.dialect import engine_for
from emr_executor.store.runner import ThreadRunner
from emr_executor.task.host_client import ForkingTaskHost
from emr_executor.task.task_api import HttpTaskApi
from emr_executor.task.tokens import token_mint

EXIT_CONFIG = 3
UNWANTED_INTERVAL_S = 5.0
IDLE_TICKS = 5
"""With nothing alive the tick is this many times slower."""
ERROR_PAUSE_S = 2.0

log = structlog.get_logger("emr_executor.agent")


class Agent:
    """The loops of one agent, each guarded: an error is told and the loop goes on."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: SystemClock,
        lease: LeaseKeeper,
        steering: Steering,
        phases: Phases,
        heartbeats: Heartbeats,
        wake_steering: asyncio.Event,
        wake_phases: asyncio.Event,
    ) -> None:
        self._settings, self._clock, self._lease = settings, clock, lease
        self._steering, self._phases, self._heartbeats = steering, phases, heartbeats
        self._wake_steering, self._wake_phases = wake_steering, wake_phases
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin the orderly end: loops stop, running phases end, the lease is handed back."""
        self._stopping.set()
        self._wake_steering.set()
        self._wake_phases.set()

    async def run(self) -> None:
        """Run every loop until ``stop``."""
        settings = self._settings
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._every(self._lease.step, self._lease.beat_interval_s))
            loops.create_task(self._steer())
            loops.create_task(self._fill_phases())
            loops.create_task(self._every(self._beat, settings.task_heartbeat_interval_s))
            loops.create_task(self._every(self._look, UNWANTED_INTERVAL_S))
            loops.create_task(self._every(self._free_silent, settings.claim_s / 6))

    async def _steer(self) -> None:
        interval_s = self._settings.tick_interval_s
        while not self._stopping.is_set():
            token = self._lease.token
            alive = True
            if token is not None:
                try:
                    alive = await self._steering.tick(token)
                except StaleWriter as stale:
                    log.info("tick_dropped", why=str(stale))
                except TryAgain as error:
                    log.warning("tick_failed", error=str(error))
                    await self._clock.sleep(ERROR_PAUSE_S)
                except EmrExecutorError as error:
                    log.error("tick_failed", error=str(error), kind=type(error).__name__)
                    await self._clock.sleep(ERROR_PAUSE_S)
                except Exception:
                    log.exception("tick_failed_unexpectedly")
                    await self._clock.sleep(ERROR_PAUSE_S)
                self._wake_phases.set()
            await self._pause(self._wake_steering, interval_s if alive else interval_s * IDLE_TICKS)

    async def _fill_phases(self) -> None:
        while not self._stopping.is_set():
            await self._guarded(self._phases.fill)
            await self._pause(self._wake_phases, self._settings.tick_interval_s)

    async def _beat(self) -> None:
        if self._lease.token is not None:
            await self._heartbeats.beat()

    async def _look(self) -> None:
        if self._lease.token is not None:
            await self._heartbeats.look()

    async def _free_silent(self) -> None:
        if self._lease.token is not None:
            await self._phases.free_silent()

    async def _every(self, work: Callable[[], Awaitable[None]], interval_s: float) -> None:
        while not self._stopping.is_set():
            await self._guarded(work)
            await self._pause(self._stopping, interval_s, clear=False)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except TryAgain as error:
            log.warning("loop_failed", work=getattr(work, "__name__", ""), error=str(error))
        except Exception:
            log.exception("loop_failed_unexpectedly", work=getattr(work, "__name__", ""))

    async def _pause(self, wake: asyncio.Event, delay_s: float, *, clear: bool = True) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(wake.wait(), delay_s)
        if clear:
            wake.clear()


async def run_agent(settings: Settings, *, parent_pipe: int | None = None) -> None:
    """Compose the agent, run it until SIGTERM, SIGINT or the parent's death, and end in order."""
    from airflow.configuration import conf
    from airflow.utils.net import get_hostname

    clock = SystemClock()
    identity = Identity(hostname=get_hostname(), unixname=getpass.getuser(), pid=os.getpid())
    holder = f"{identity.hostname}/{identity.pid}/{uuid.uuid4().hex[:8]}"
    runner = ThreadRunner(engine_for(conf.get_mandatory_value("database", "sql_alchemy_conn")))
    store = AgentStore(runner)
    task_log = TaskLog(Path(conf.get_mandatory_value("logging", "base_log_folder")))
    async with AsyncExitStack() as stack:
        stack.callback(runner.close)
        # The task host is started first: it forks, so it must not inherit this process's loop.
        host = ForkingTaskHost(settings)
        stack.push_async_callback(host.close)
        await host.start()
        api = HttpTaskApi(_execution_api_url(), token_mint())
        stack.push_async_callback(api.close)
        aws = await stack.enter_async_context(open_aws(settings.aws, clock))
        deployment_id = await store.deployment_id()
        wake_steering, wake_phases = asyncio.Event(), asyncio.Event()

        def wake_all() -> None:
            wake_steering.set()
            wake_phases.set()

        lease = LeaseKeeper(store, clock, holder=holder, lease_s=settings.lease_s)
        phases = Phases(
            store=store,
            host=host,
            api=api,
            task_log=task_log,
            clock=clock,
            settings=settings,
            identity=identity,
            new_token=lambda: uuid.uuid4().hex,
            on_ended=wake_all,
        )
        steering, acts = _steering(
            settings=settings,
            clock=clock,
            store=store,
            aws=aws,
            task_log=task_log,
            phases=phases,
            deployment_id=deployment_id,
            wake=wake_steering.set,
        )
        agent = Agent(
            settings=settings,
            clock=clock,
            lease=lease,
            steering=steering,
            phases=phases,
            heartbeats=Heartbeats(store, api, clock, wake=wake_steering.set),
            wake_steering=wake_steering,
            wake_phases=wake_phases,
        )
        _stop_on_signals(agent, parent_pipe)
        log.info(
            "agent_started", holder=holder, deployment_id=deployment_id, endpoint=settings.aws.endpoint_url
        )
        await agent.run()
        log.info("agent_stopping", running_phases=phases.running)
        await acts.settle()
        await lease.release()


def _steering(
    *,
    settings: Settings,
    clock: SystemClock,
    store: AgentStore,
    aws: Aws,
    task_log: TaskLog,
    phases: Phases,
    deployment_id: str,
    wake: Callable[[], None],
) -> tuple[Steering, Acts]:
    holds = LaunchHolds(clock)
    records = aws.records_for(deployment_id, settings.staging_uri)
    settling = Settling(
        loss_hold_s=settings.loss_hold_s,
        max_submissions={pool.name: pool.max_submissions for pool in settings.cluster_pools},
        on_cluster_over=holds.cluster_over,
        on_cluster_ready=holds.cluster_ready,
    )
    acts = Acts(
        emr=aws.emr,
        store=store,
        task_log=task_log,
        clock=clock,
        settings=settings,
        holds=holds,
        deployment_id=deployment_id,
        records_uri=records.records_uri,
        region=aws.region,
        wake=wake,
    )
    tracker = Tracker(
        emr=aws.emr,
        records=records,
        settling=settling,
        clock=clock,
        settings=settings,
        deployment_id=deployment_id,
        masks=phases.masks,
    )
    steering = Steering(
        store=store,
        tracker=tracker,
        settling=settling,
        acts=acts,
        holds=holds,
        records=records,
        task_log=task_log,
        clock=clock,
        limits=limits_of(settings),
        deployment_id=deployment_id,
        new_cluster_uuid=lambda: ClusterUuid(str(uuid.uuid4())),
    )
    return steering, acts


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

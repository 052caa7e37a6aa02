"""A model of Airflow with a store behind it, schedulers and task hosts, for tests in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from emr_executor.core.model import Identity, StepOutcome, TaskKey, Workload, WorkloadId
from emr_executor.core.states import Verdict, WorkloadState
from emr_executor.errors import StoreBusy
from emr_executor.ports import PhaseEnded, PhaseJob
from emr_executor.store.change_store import Change
from tests.simulator.airflow import AirflowModel
from tests.simulator.airflow_api import ApiFaults, ExecutionApi
from tests.simulator.airflow_entities import SimTaskInstance, TaskScript, TaskState, Token, TryScript, mint
from tests.simulator.airflow_session import SchedulerSession, SessionFaults
from tests.simulator.clock import EPOCH
from tests.simulator.host import PhaseFaults, SimTaskHost
from tests.simulator.scheduler import ModelScheduler
from tests.simulator.stores import StoreFunctions
from tests.simulator.supervisor import PhaseSurroundings
from tests.store.whole_store import Store, store_in_memory

HERE = Identity(hostname="host-a", unixname="airflow", pid=7)
ELSEWHERE = Identity(hostname="host-b", unixname="airflow", pid=7)
START_S = EPOCH.timestamp()


class HandClock:
    """Time that a test moves, and that sleeping moves; one host's clock, ``skew_s`` off."""

    def __init__(self, skew_s: float = 0.0) -> None:
        self.passed_s, self.skew_s = 0.0, skew_s

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.epoch_s(), tz=EPOCH.tzinfo)

    def epoch_s(self) -> float:
        return START_S + self.passed_s + self.skew_s

    def monotonic(self) -> float:
        return self.passed_s

    async def sleep(self, delay_s: float) -> None:
        self.passed_s += delay_s
        await asyncio.sleep(0)


@dataclass
class Mirror:
    """What the store would read."""

    rows: dict[str, tuple[TaskKey, str | None]] = field(default_factory=dict)

    def put(self, ti_id: str, key: TaskKey, state: str | None) -> None:
        for old in [i for i, (k, _) in self.rows.items() if k.without_try == key.without_try]:
            del self.rows[old]
        self.rows[ti_id] = (key, state)


@dataclass
class Rows:
    """Airflow alone: its rows moved by hand."""

    clock: HandClock = field(default_factory=HandClock)
    mirror: Mirror = field(default_factory=Mirror)
    seed: int = 1

    def __post_init__(self) -> None:
        self.airflow = AirflowModel(
            now_s=self.clock.epoch_s, rng=random.Random(self.seed), mirror=self.mirror
        )
        self.scheduling = self.airflow.scheduling
        self.job_id = self.scheduling.begin_job(self.clock.epoch_s())
        self._numbers = itertools.count(1)

    def a_ti(self, state: TaskState | None = TaskState.RUNNING, **script: Any) -> SimTaskInstance:
        """A task instance on its way to a state, as far as it gets without trouble."""
        ti = self.airflow.add(a_key(next(self._numbers)), TaskScript(**script))
        if state is None:
            return ti
        self.scheduling.schedule(self.clock.epoch_s())
        if state is TaskState.SCHEDULED:
            return ti
        self.scheduling.queue(ti, self.job_id, self.clock.epoch_s())
        if state is TaskState.QUEUED:
            return ti
        self.airflow.run(ti.ti_id, self.token(ti), HERE)
        if state is TaskState.RESTARTING:
            self.airflow.clear(ti)
        elif state is not TaskState.RUNNING:
            self.airflow.finish(ti.ti_id, self.token(ti), state, by="finish")
        assert ti.state is state
        return ti

    def token(self, ti: SimTaskInstance | str) -> Token:
        """A fresh token of its present id, or of an older one."""
        return mint(ti if isinstance(ti, str) else ti.ti_id, self.clock.epoch_s())

    def events(self) -> list[str]:
        return [entry.event for entry in self.airflow.ledger]


def a_key(number: int) -> TaskKey:
    return TaskKey(dag_id="d", task_id=f"t{number}", run_id="r", try_number=1)


async def until(condition: Callable[[], object]) -> None:
    """Let others run until something holds."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


@dataclass
class World:
    """Airflow, a store, schedulers driven loop by loop, and a task host."""

    store: Store = field(default_factory=store_in_memory)
    clock: HandClock = field(default_factory=HandClock)
    session_faults: SessionFaults = field(default_factory=SessionFaults)
    api_faults: ApiFaults = field(default_factory=ApiFaults)
    phase_faults: PhaseFaults = field(default_factory=PhaseFaults)

    def __post_init__(self) -> None:
        self.rng = random.Random(5)
        self.airflow = AirflowModel(now_s=self.clock.epoch_s, rng=self.rng, mirror=self.store.task_instances)
        self.processes: set[asyncio.Task[None]] = set()
        self.killed: list[Callable[[], None]] = []
        self._tokens = itertools.count(1)

    def add(self, number: int = 1, *tries: TryScript, **script: Any) -> SimTaskInstance:
        return self.airflow.add(a_key(number), TaskScript(tries=tries or (TryScript(),), **script))

    async def scheduler(self) -> ModelScheduler:
        """A scheduler that has begun."""
        session = SchedulerSession(
            self.airflow, self.store.scheduler, rng=self.rng, faults=self.session_faults
        )
        made = ModelScheduler(session, self.clock)
        made.executor.job_id = await session.begin_job(self.clock.now())
        await session.adopt_or_reset(made.job_id, made.executor, self.clock.now())
        return made

    async def loops(self, scheduler: ModelScheduler, count: int = 1) -> None:
        for _ in range(count):
            await scheduler.loop()
            await self.clock.sleep(2.0)

    def host(self, store: Any = None) -> SimTaskHost:
        def enter(job: PhaseJob, died: Callable[[], None]) -> PhaseSurroundings:
            del job
            self.killed.append(died)
            return PhaseSurroundings(store=store or self.store.phase, api=self.api(), clock=self.clock)

        def spawn(process: Any) -> None:
            task = asyncio.ensure_future(process)
            self.processes.add(task)
            task.add_done_callback(self.processes.discard)

        return SimTaskHost(
            capacity=4,
            script_of=self.airflow.script_of,
            enter=enter,
            spawn=spawn,
            rng=self.rng,
            faults=self.phase_faults,
        )

    def api(self) -> ExecutionApi:
        return ExecutionApi(self.airflow, clock=self.clock, rng=self.rng, faults=self.api_faults)

    async def claim(self, kind: WorkloadState) -> tuple[Workload, ...]:
        return await self.store.agent.claim(
            kind, 10, HERE, now=self.clock.now(), new_token=lambda: f"token-{next(self._tokens)}"
        )

    async def phases(self, kind: WorkloadState, host: SimTaskHost | None = None) -> list[PhaseEnded]:
        """Claim and run what waits, as agents do."""
        host = host or self.host()
        jobs = [PhaseJob(workload=w, claim_token=w.claim_token or "") for w in await self.claim(kind)]
        return list(await asyncio.gather(*(host.run(job) for job in jobs)))

    def workload(self, ti_id: str) -> Workload:
        found = self.store.workload(WorkloadId(ti_id))
        assert found is not None
        return found

    async def end_step(self, ti_id: str, verdict: Verdict) -> None:
        """What steering does to a workload whose step ended so."""
        lease = await self.store.steer()
        for changes in (
            {"state": WorkloadState.SUBMITTED, "submissions": 1},
            {
                "state": WorkloadState.FINISHABLE,
                "outcome": StepOutcome(verdict=verdict, submissions=1),
                "phase_attempts": 0,
            },
        ):
            old = replace(self.workload(ti_id), workload={}, executor_config={})
            await self.store.agent.apply(lease, [Change(old=old, new=replace(old, **changes))])

    async def cancel_step(self, ti_id: str) -> None:
        """What steering does to a parked workload with target CANCEL and nothing alive."""
        lease = await self.store.steer()
        old = replace(self.workload(ti_id), workload={}, executor_config={})
        new = replace(old, state=WorkloadState.CANCELLED, finished_at=self.clock.now())
        await self.store.agent.apply(lease, [Change(old=old, new=new)])

    def events(self) -> list[str]:
        return [entry.event for entry in self.airflow.ledger]


@dataclass
class Faulty:
    """A phase's store: before the n-th call of a method, or after its effect, something happens."""

    store: StoreFunctions
    busy: dict[str, int] = field(default_factory=dict)
    lose: dict[str, int] = field(default_factory=dict)
    before: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.store, name)

        async def guarded(*args: Any, **kwargs: Any) -> None:
            self.calls.append(name)
            if name in self.before:
                await self.before.pop(name)()
            if self.busy.get(name, 0):
                self.busy[name] -= 1
                raise StoreBusy(name)
            await call(*args, **kwargs)
            if self.lose.get(name, 0):
                self.lose[name] -= 1
                raise StoreBusy(name)

        return guarded


async def a_queued(world: World, *tries: TryScript, **script: Any) -> SimTaskInstance:
    scheduler = await world.scheduler()
    ti = world.add(1, *tries, **script)
    await world.loops(scheduler)
    return ti


async def an_ended(world: World, verdict: Verdict, *tries: TryScript, **script: Any) -> SimTaskInstance:
    ti = await a_queued(world, *tries, **script)
    await world.phases(WorkloadState.PREPARING)
    await world.end_step(ti.ti_id, verdict)
    return ti

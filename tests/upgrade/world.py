"""One deployment around the production agent: Airflow, EMR and S3 in memory, step wrappers as processes.

Time is virtual. A step wrapper is the script that its step names, run as EMR runs it; while one runs, no
virtual time passes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from emr_executor.agent.compose import compose
from emr_executor.agent.surroundings import Surroundings
from emr_executor.aws.records import S3StepRecords
from emr_executor.aws.step import submission_of_step_name
from emr_executor.config import ClusterPool, Settings
from emr_executor.core.model import (
    ClusterId,
    Identity,
    StepId,
    StepPage,
    SubmissionId,
    TaskKey,
    Workload,
    WorkloadId,
    submission_id_of,
)
from emr_executor.core.states import ClusterState, StepState, Verdict, WorkloadState
from emr_executor.errors import OutcomeUnknown
from emr_executor.ports import NewStep, PhaseEnded, PhaseJob
from emr_executor.store import phase_store, scheduler_store
from emr_executor.store.agent_store import AgentStore
from emr_executor.store.rows import workload_from
from emr_executor.store.schema import TASK_INSTANCE, WORKLOAD
from emr_executor.task.messages import Park
from emr_executor.task.staging import Staging
from tests.agent.fakes import FakeEmr
from tests.inline_runner import InlineRunner
from tests.simulator.clock import VirtualClock
from tests.upgrade.bucket import Bucket
from tests.wrapper.s3_server import SmallS3

SETTINGS = Settings(
    staging_uri="s3://bucket/af/",
    cluster_pools=(
        ClusterPool(
            template={"ReleaseLabel": "emr-7.10.0", "StepConcurrencyLevel": 2},
            max_clusters=8,
            prefetch=0,
            launch_unknown_s=60.0,
        ),
    ),
    output_interval_s=0.1,
    task_runner_parallelism=2,
)
JOB = 7
SLOTS = 2
STARTS_S, RUNS_S = 60.0, 5.0
CLAIMED_CODE = 123
"""Of a wrapper whose submission another step has claimed: it did nothing."""


def id_of(name: str) -> WorkloadId:
    return WorkloadId(str(uuid.uuid5(uuid.NAMESPACE_DNS, name)))


def first_of(name: str) -> SubmissionId:
    return submission_id_of(id_of(name), 1)


class Emr(FakeEmr):
    """EMR that remembers the arguments of its steps.

    cancels: whether CancelSteps has an effect
    unanswered: submissions whose AddJobFlowSteps gets no answer, and whether EMR gets the first one
    unshown: steps that ListSteps does not show for now, as those whose answer got lost
    """

    def __init__(self) -> None:
        super().__init__()
        self.args: dict[StepId, tuple[str, ...]] = {}
        self.cancels = True
        self.unanswered: dict[SubmissionId | None, bool] = {}
        self.unshown: set[StepId] = set()
        self.most_clusters = 0

    async def run_job_flow(self, request: Mapping[str, Any], *, within_s: float) -> ClusterId:
        try:
            return await super().run_job_flow(request, within_s=within_s)
        finally:
            over = {ClusterState.TERMINATING, ClusterState.TERMINATED}
            self.most_clusters = max(
                self.most_clusters, sum(one.state not in over for one in self.clusters.values())
            )

    async def add_steps(
        self, cluster_id: ClusterId, steps: Sequence[NewStep], *, within_s: float
    ) -> tuple[StepId, ...]:
        lost = {one for step in steps if (one := submission_of_step_name(step.name)) in self.unanswered}
        shown = self.submissions()
        if any(self.unanswered[one] and one not in shown for one in lost) or not lost:
            before = {step.step_id for step in self.steps[cluster_id]}
            await super().add_steps(cluster_id, steps, within_s=within_s)
            added = [one.step_id for one in reversed(self.steps[cluster_id]) if one.step_id not in before]
            self.args |= {key: step.args for key, step in zip(added, steps, strict=True)}
            if not lost:
                return tuple(added)
            self.unshown.update(added)
        else:
            self.calls.append("add_steps")
        raise OutcomeUnknown("AddJobFlowSteps: the connection was lost")

    async def list_steps(self, cluster_id: ClusterId, **asked: Any) -> StepPage:
        page = await super().list_steps(cluster_id, **asked)
        return replace(page, steps=tuple(step for step in page.steps if step.step_id not in self.unshown))

    async def cancel_steps(self, cluster_id: ClusterId, step_ids: Sequence[StepId]) -> None:
        if self.cancels:
            await super().cancel_steps(cluster_id, step_ids)

    def move(self, step_id: StepId, state: StepState, now: datetime) -> None:
        """A step goes on, and its timeline says when."""
        for steps in self.steps.values():
            for n, step in enumerate(steps):
                if step.step_id == step_id:
                    is_start = state is StepState.RUNNING
                    at = {"started_at": now} if is_start else {"ended_at": now}
                    steps[n] = replace(step, state=state, **at)


class Host:
    """Phases as their processes do them; those of tasks in ``hang`` never end."""

    def __init__(self, world: World, capacity: int) -> None:
        self.world, self.capacity, self.is_ready = world, capacity, True
        self.hang: set[str] = set()

    async def start(self) -> None:
        """It is up."""

    async def run(self, job: PhaseJob) -> PhaseEnded:
        world, workload = self.world, job.workload
        name, key, token = workload.key.task_id, job.workload_id, job.claim_token
        if name in self.hang:
            await asyncio.Event().wait()
        now = world.clock.now()
        with world.engine.begin() as connection:
            if workload.state is WorkloadState.PREPARING:
                phase_store.record_parked(connection, key, token, world.prepare(name), now)
            else:
                well = workload.outcome is not None and workload.outcome.verdict is Verdict.SUCCEEDED
                state = "success" if well else "failed"
                phase_store.record_intent(connection, key, token, state)
                world.set_task(connection, key, state)
                phase_store.record_over(connection, key, token, state, now)
        return PhaseEnded(workload_id=key, claim_token=token, exit_code=0)


class Api:
    """An Execution API that hears every heartbeat."""

    def __init__(self) -> None:
        self.heard: set[WorkloadId] = set()

    async def heartbeat(self, workload_id: WorkloadId, identity: Identity) -> None:
        del identity
        self.heard.add(workload_id)

    async def fail_terminally(self, workload_id: WorkloadId, *, ended_at: datetime) -> None:
        raise AssertionError(f"{workload_id} was given up at {ended_at}")


@dataclass
class Wrappers:
    """Step wrappers as processes, each in a folder of its own. ``began``: how often each submission's ran."""

    s3: SmallS3
    folder: Path
    began: list[SubmissionId] = field(default_factory=list)
    running: dict[SubmissionId, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, args: Sequence[str], *, may_end: bool) -> SubmissionId:
        """What script-runner does with a step's arguments: fetch the script, and run it."""
        submission_id = SubmissionId(args[args.index("--submission") + 1])
        cwd = self.folder / f"{submission_id}-{len(self.began)}"
        cwd.mkdir()
        script = cwd / "wrapper.py"
        script.write_bytes(self.s3.objects[args[0].removeprefix("s3:/")])
        if may_end:
            (cwd / "go").touch()
        env = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")} | {
            "AWS_ACCESS_KEY_ID": "AKIATEST",
            "AWS_SECRET_ACCESS_KEY": self.s3.secret,
            "AWS_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL_S3": self.s3.url,
            "EMR_STEP_WRAPPER_BUSY_MARKER": str(cwd / "busy"),
        }
        command = [sys.executable, "-S", str(script), *args[1:]]
        self.running[submission_id] = subprocess.Popen(
            command, env=env, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.began.append(submission_id)
        return submission_id

    def end(self, submission_id: SubmissionId) -> int:
        """Let the command end by itself; the wrapper's exit code."""
        for cwd in self.folder.glob(f"{submission_id}-*"):
            (cwd / "go").touch()
        code = self.running.pop(submission_id).wait(30)
        if code == CLAIMED_CODE:
            self.began.remove(submission_id)
        return code

    def kill_all(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


class Log:
    """Task logs by their path."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}

    async def append(self, lines: Mapping[str | None, Sequence[dict[str, Any]]]) -> None:
        for log_path, batch in lines.items():
            self.lines.setdefault(log_path or "", []).extend(str(line["event"]) for line in batch)


class World:
    """The deployment. ``agent`` starts one more agent, whose predecessor is gone as by kill -9."""

    def __init__(self, engine: Engine, s3: SmallS3, folder: Path, *, began_at: datetime) -> None:
        loop = asyncio.get_running_loop()
        epoch = VirtualClock(loop).now()
        self.clock = VirtualClock(loop, skew_s=(began_at - epoch).total_seconds())
        self.engine, self.s3, self.bucket = engine, s3, Bucket(s3.objects)
        self.emr, self.log, self.api, self.wrappers = Emr(), Log(), Api(), Wrappers(s3, folder)
        self.agents: list[asyncio.Task[None]] = []

    def agent(self, deployment_id: str, *, capacity: int = 2) -> Host:
        """Start an agent; its task host."""
        records = S3StepRecords(self.bucket, SETTINGS.staging_uri, deployment_id)  # type: ignore[arg-type]
        host = Host(self, capacity)
        around = Surroundings(
            settings=SETTINGS,
            clock=self.clock,
            store=AgentStore(InlineRunner(self.engine)),
            host=host,
            api=self.api,
            emr=self.emr,
            records=records,
            records_uri=records.records_uri,
            region="eu-west-1",
            task_log=self.log,
            identity=Identity(hostname="host", unixname="airflow", pid=len(self.agents) + 1),
            holder=f"host/{len(self.agents) + 1}/agent",
            deployment_id=deployment_id,
            new_id=lambda: str(uuid.uuid4()),
        )
        self.agents.append(asyncio.ensure_future(compose(around).run()))
        return host

    async def kill_agent(self) -> None:
        """Nothing of it is left but rows, clusters, steps and objects."""
        self.agents[-1].cancel()
        await asyncio.wait([self.agents[-1]])

    async def until(self, condition: Callable[[], bool], what: str, *, within_s: float = 600.0) -> None:
        """Let virtual time pass until the condition holds."""
        deadline = self.clock.monotonic() + within_s
        while not condition():
            assert self.clock.monotonic() < deadline, f"{what}: not within {within_s:g} s"
            await asyncio.sleep(0.5)

    # -- tasks

    def accept(self, *names: str) -> None:
        """The scheduler hands tasks over, and they are running from then on."""
        now = self.clock.now()
        with self.engine.begin() as connection:
            for name in names:
                key = TaskKey(dag_id="d", task_id=name, run_id="r", try_number=1)
                workload = Workload(
                    workload_id=id_of(name),
                    key=key,
                    cluster_pool="default",
                    queue="emr",
                    priority_weight=1,
                    accepted_at=now,
                    scheduler_job_id=JOB,
                    workload={"ti": {"id": id_of(name)}},
                    log_path=f"{name}.log",
                    state=WorkloadState.ACCEPTED,
                )
                scheduler_store.accept(connection, [workload])
                self.add_task(connection, name, "running")

    @staticmethod
    def add_task(connection: Connection, name: str, state: str) -> None:
        """Airflow's own row of a task."""
        row = {"id": uuid.UUID(id_of(name)), "dag_id": "d", "task_id": name, "run_id": "r"}
        row |= {"map_index": -1, "try_number": 1, "state": state}
        connection.execute(insert(TASK_INSTANCE).values(row))

    @staticmethod
    def set_task(connection: Connection, key: WorkloadId, state: str) -> None:
        """Airflow's own state of a task."""
        its_own = TASK_INSTANCE.c.id == uuid.UUID(key)
        connection.execute(update(TASK_INSTANCE).where(its_own).values(state=state))

    def prepare(self, name: str) -> Any:
        """The plan of a task whose command waits for ``go``, says two lines, and fails if it is to.

        It ends with its folder too: its wrapper may have been killed.
        """
        exit_code = 3 if name.startswith("fails") else 0
        waits = 'while [ -d "$PWD" ] && ! [ -e go ]; do sleep 0.02; done'
        script = f"echo one of {name}; {waits}; echo two; exit {exit_code}"
        park = Park(
            translator="spark_submit",
            command=["bash", "-c", script],
            env={"NAME": name},
            files=[],
            execution_timeout_s=None,
            rendered_fields={"application": f"{name}.py"},
        )
        return Staging(SETTINGS, self.bucket, now=self.clock.now).complete(park)

    def workloads(self) -> dict[str, Workload]:
        """By the name of their task."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(WORKLOAD)).mappings()
            return {one.key.task_id: one for one in map(workload_from, rows)}

    def name_of(self, submission_id: SubmissionId) -> str:
        """The task of a submission."""
        return next(name for name in self.workloads() if submission_id.startswith(id_of(name)))

    def step_of(self, name: str) -> StepId:
        """The step of a task's first submission."""
        return next(key for key, args in self.emr.args.items() if first_of(name) in args)

    # -- EMR

    def cluster_of(self, step_id: StepId) -> ClusterId:
        """Where EMR shows a step."""
        shown = {step.step_id: key for key, steps in self.emr.steps.items() for step in steps}
        return shown[step_id]

    def begin(self, step_id: StepId, *, may_end: bool = False) -> SubmissionId:
        """EMR starts a step."""
        self.emr.move(step_id, StepState.RUNNING, self.clock.now())
        return self.wrappers.start(self.emr.args[step_id], may_end=may_end)

    async def emr_goes_on(self) -> None:
        """Clusters come up and go, steps that wait begin where a slot is free, run for a while and end."""
        up_at: dict[ClusterId, float] = {}
        while True:
            await asyncio.sleep(1.0)
            now = self.clock.monotonic()
            for cluster_id, cluster in list(self.emr.clusters.items()):
                if cluster.state in (ClusterState.STARTING, ClusterState.BOOTSTRAPPING):
                    if now >= up_at.setdefault(cluster_id, now + STARTS_S):
                        self.emr.set_cluster(cluster_id, ClusterState.WAITING)
                elif cluster.state is ClusterState.TERMINATING:
                    for step in self.emr.steps[cluster_id]:
                        if step.state in (StepState.PENDING, StepState.RUNNING):
                            self.emr.move(step.step_id, StepState.CANCELLED, self.clock.now())
                    self.emr.set_cluster(cluster_id, ClusterState.TERMINATED_WITH_ERRORS, "INSTANCE_FAILURE")
                elif cluster.state in (ClusterState.WAITING, ClusterState.RUNNING):
                    self._fill(cluster_id)

    def _fill(self, cluster_id: ClusterId) -> None:
        steps = self.emr.steps[cluster_id]
        free = SLOTS - sum(step.state is StepState.RUNNING for step in steps)
        waiting = [step.step_id for step in reversed(steps) if step.state is StepState.PENDING]
        for step_id in waiting[:free]:
            submission_id = self.begin(step_id, may_end=True)
            code = self.wrappers.end(submission_id)
            state = StepState.COMPLETED if code == 0 else StepState.FAILED
            asyncio.get_running_loop().call_later(RUNS_S, self._end, step_id, state)

    def _end(self, step_id: StepId, state: StepState) -> None:
        self.emr.move(step_id, state, self.clock.now())

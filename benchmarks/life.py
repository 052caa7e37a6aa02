"""The whole life of tasks in the store, in the transactions that scheduler, agent and phases make of it.

Scheduler and agent have a connection each and take turns, the phases of one host write side by side. What
other parts would do (user code, Airflow, EMR, S3) takes no time here, and connections are open beforehand.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count, islice
from typing import Any

import psutil
from sqlalchemy import Connection, Engine

from emr_executor.agent.steering import READY_LIMIT
from emr_executor.core.model import (
    Cluster,
    ClusterId,
    ClusterUuid,
    HistoryEntry,
    Identity,
    Snapshot,
    StepId,
    StepPlan,
    Submission,
    TaskKey,
    Workload,
    WorkloadId,
    submission_id_of,
)
from emr_executor.core.states import ClusterState, StepState, SubmissionState, WorkloadState
from emr_executor.core.workload import after_submission, placed
from emr_executor.store import phase_store, scheduler_store
from emr_executor.store.agent_store import AgentStore
from emr_executor.store.change_store import Change
from emr_executor.store.runner import ThreadRunner, transact
from emr_executor.store.schema import STEERING
from tests.inline_runner import InlineRunner
from tests.simulator.stores import StoreFunctions

ACCEPTED_A_LOOP = 16
"""Airflow's ``[scheduler] max_tis_per_query``: so many tries are queued in one transaction."""
PHASES = 4
"""``task_runner_parallelism``: so many are claimed and run at once."""
SLOTS = 45
SCHEDULER = 7
FIRST_ID = 0x99999999 << 96
"""Airflow's ids grow with time: new ones come behind all that were filled in."""
ME = Identity(hostname="agent.example", unixname="airflow", pid=4711)
TRY = {
    "ti": {"dag_id": "delays", "task_id": "by_month", "run_id": "scheduled__2031-05-06", "queue": "emr"},
    "dag_rel_path": "delays_by_month.py",
    "bundle_info": {"name": "dags-folder", "version": None},
    "log_path": "dag_id=delays/run_id=scheduled__2031-05-06/task_id=by_month/attempt=1.log",
    "sentry_integration": "",
}
STEP = StepPlan(
    command=(
        "spark-submit",
        *("--master", "yarn", "--deploy-mode", "client", "--name", "delays_by_month"),
        *("--conf", "spark.executor.memory=4g", "--conf", "spark.dynamicAllocation.maxExecutors=20"),
        *("s3://bucket/files/0123456789abcdef/delays.py", "--month", "2031-05"),
    ),
    env={"AIRFLOW_CTX_DAG_ID": "delays", "AIRFLOW_CTX_TASK_ID": "by_month", "AIRFLOW_CTX_TRY_NUMBER": "1"},
    spec_uri=f"s3://bucket/specs/{'0123456789abcdef' * 4}.json",
    wrapper_uri=f"s3://bucket/wrapper/{'0123456789abcdef' * 4}/emr_step_wrapper.py",
    translator="spark_submit",
    rendered_fields={"application": "s3://bucket/delays.py", "application_args": ["--month", "2031-05"]},
)


def now() -> datetime:
    return datetime.now(tz=UTC)


def cpu_s() -> float:
    """CPU seconds of this process and of all that it started, a database server among them."""
    total = time.process_time()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


Phase = tuple[WorkloadId, str]
"""A claimed workload and its token."""


@dataclass(frozen=True)
class Ride:
    """A workload and its submission."""

    workload: Workload
    submission: Submission


class Life:
    """Takes tasks through the store of one database, and notes what each part of their life costs.

    spent_s: seconds by part, of what was done since it was last emptied
    worked_s: CPU seconds of the looks at everything, this process and the server's together
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._phases = ThreadRunner(engine, threads=PHASES)
        self.agent, self.phase = AgentStore(InlineRunner(engine)), StoreFunctions(self._phases, phase_store)
        self.spent_s: dict[str, float] = defaultdict(float)
        self.worked_s: dict[str, float] = defaultdict(float)
        self._ids = count(FIRST_ID)
        self._lease = 0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent_s[name] += time.perf_counter() - began

    @contextmanager
    def look_part(self, name: str) -> Iterator[None]:
        began = cpu_s()
        with self.part(name):
            yield
        self.worked_s[name] += cpu_s() - began

    def close(self) -> None:
        self._phases.close()

    async def steer(self) -> None:
        """Become the agent that steers."""
        token = await self.agent.take_lease(STEERING, "bench", await self.agent.read_lease(STEERING))
        if token is None:
            raise RuntimeError("somebody else steers this database")
        self._lease = token

    async def launch(self, how_many: int) -> list[Cluster]:
        """New clusters that run."""
        made = [_cluster(uuid.UUID(int=next(self._ids))) for _ in range(how_many)]
        await self.apply([Change(old=None, new=cluster) for cluster in made])
        return made

    async def whole(self, how_many: int, clusters: Sequence[Cluster]) -> tuple[WorkloadId, ...]:
        """So many tasks, from the scheduler's hand to its ear, with one tick's look at everything."""
        accepted = self.accept(how_many, priority=2)
        await self.prepare(how_many)
        seen = await self.look()
        rides = await self.place(_ours(seen, accepted), clusters)
        await self.settle(await self.run(rides))
        await self.finish(how_many)
        with self.part("outcomes"):
            told = transact(self.engine, scheduler_store.take_outcomes, SCHEDULER, 1000)
        if {one.workload_id for one in told} != set(accepted):
            raise RuntimeError(f"{how_many} tasks went in and {len(told)} came out")
        return accepted

    def accept(self, how_many: int, *, priority: int) -> tuple[WorkloadId, ...]:
        """The scheduler's loops: each try a savepoint in a transaction of several."""
        made = [_workload(uuid.UUID(int=next(self._ids)), priority) for _ in range(how_many)]
        rest = iter(made)
        while batch := list(islice(rest, ACCEPTED_A_LOOP)):
            with self.part("accept"):
                transact(self.engine, _accept_one_by_one, batch)
        return tuple(workload.workload_id for workload in made)

    async def prepare(self, how_many: int) -> None:
        """Claims as slots of the task host come free, and what each phase's process writes."""
        async for phases in self._claimed(WorkloadState.PREPARING, how_many):
            await self._side_by_side("renew", [self.phase.renew_claim(*phase) for phase in phases])
            await self._side_by_side(
                "parked", [self.phase.record_parked(*phase, STEP, now()) for phase in phases]
            )

    async def look(self) -> Snapshot:
        """What a tick reads."""
        with self.look_part("tick"):
            return await self.agent.snapshot(now(), READY_LIMIT)

    async def heartbeat(self) -> None:
        """What the loop of heartbeats reads."""
        with self.look_part("heartbeats"):
            await self.agent.heartbeat_targets()
            await self.agent.unwanted()

    async def place(self, ready: Sequence[Workload], clusters: Sequence[Cluster]) -> list[Ride]:
        """The intents, and then the answers of AddJobFlowSteps, a write for each cluster."""
        rides = []
        changes: list[Change] = []
        lines = []
        for n, workload in enumerate(ready):
            cluster = clusters[n // SLOTS]
            after = placed(workload)
            submission = _submission(after, cluster)
            rides.append(Ride(after, submission))
            changes += [Change(old=workload, new=after), Change(old=None, new=submission)]
            lines.append(_line("workload", after.workload_id, "placed", f"on {cluster.cluster_id}"))
        with self.part("place"):
            stored = await self.apply(changes, lines)
        rides = [Ride(stored[n], stored[n + 1]) for n in range(0, len(stored), 2)]
        return [
            ride
            for cluster in clusters
            for ride in await self._submissions(
                "added",
                [one for one in rides if one.submission.cluster_uuid == cluster.cluster_uuid],
                lambda s: replace(
                    s,
                    state=SubmissionState.PENDING,
                    step_id=StepId(f"s-{s.submission_id[-14:]}"),
                    step_state=StepState.PENDING,
                    submitted_at=now(),
                ),
            )
        ]

    async def run(self, rides: Sequence[Ride]) -> list[Ride]:
        """The wrapper's first records."""
        return await self._submissions(
            "running",
            rides,
            lambda s: replace(s, state=SubmissionState.RUNNING, started_at=now(), record_mark='"mark"'),
        )

    async def settle(self, rides: Sequence[Ride]) -> None:
        """The wrapper's last words, and what they mean for the workloads."""
        changes: list[Change] = []
        lines = []
        for ride in rides:
            over = replace(
                ride.submission,
                state=SubmissionState.COMPLETED,
                wrapper_ended=True,
                exit_code=0,
                ended_at=now(),
                output_chunks=3,
                record_mark='"last"',
            )
            move = after_submission(
                ride.workload, over, cluster_id=ClusterId("j-BENCH"), max_submissions=3, now=now()
            )
            changes += [
                Change(old=ride.submission, new=over),
                Change(old=ride.workload, new=move.workload),
            ]
            lines += [
                _line("submission", over.submission_id, "completed", "completed"),
                _line("workload", move.workload.workload_id, move.event, move.text),
            ]
        with self.part("settle"):
            await self.apply(changes, lines)

    async def finish(self, how_many: int) -> None:
        """The finish phases, up to Airflow's own state of the try."""
        async for phases in self._claimed(WorkloadState.FINISHING, how_many):
            await self._side_by_side("renew", [self.phase.renew_claim(*phase) for phase in phases])
            await self._side_by_side(
                "intent", [self.phase.record_intent(*phase, "success") for phase in phases]
            )
            await self._side_by_side(
                "over", [self.phase.record_over(*phase, "success", now()) for phase in phases]
            )

    async def apply(self, changes: Sequence[Change], lines: Sequence[HistoryEntry] = ()) -> tuple[Any, ...]:
        return await self.agent.apply(self._lease, changes, lines)

    async def _side_by_side(self, part: str, writes: Sequence[Awaitable[None]]) -> None:
        with self.part(part):
            await asyncio.gather(*writes)

    async def _claimed(self, kind: WorkloadState, how_many: int) -> AsyncIterator[list[Phase]]:
        done = 0
        while done < how_many:
            with self.part("claim"):
                claimed = await self.agent.claim(
                    kind, PHASES, ME, now=now(), new_token=lambda: uuid.uuid4().hex
                )
            if not claimed:
                raise RuntimeError(f"nothing to claim for {kind} after {done} of {how_many}")
            yield [(workload.workload_id, workload.claim_token or "") for workload in claimed]
            # The agent looks whether a process that ended left its claim behind.
            with self.part("claim"):
                for _ in claimed:
                    await self.agent.claims()
            done += len(claimed)

    async def _submissions(
        self, part: str, rides: Sequence[Ride], change: Callable[[Submission], Submission]
    ) -> list[Ride]:
        after = [change(ride.submission) for ride in rides]
        changes = [Change(old=ride.submission, new=new) for ride, new in zip(rides, after, strict=True)]
        lines = [
            _line("submission", s.submission_id, str(s.state).lower(), f"{s.state} as {s.step_id}")
            for s in after
            if s.state is SubmissionState.RUNNING
        ]
        with self.part(part):
            stored = await self.apply(changes, lines)
        return [Ride(ride.workload, submission) for ride, submission in zip(rides, stored, strict=True)]


def _ours(seen: Snapshot, ids: Sequence[WorkloadId]) -> list[Workload]:
    wanted = set(ids)
    ready = [w for w in seen.workloads if w.workload_id in wanted]
    if len(ready) != len(wanted):
        raise RuntimeError(f"a tick sees {len(ready)} of {len(wanted)} tasks that are ready")
    return ready


def _accept_one_by_one(conn: Connection, batch: Sequence[Workload]) -> None:
    for workload in batch:
        with conn.begin_nested():
            scheduler_store.accept(conn, [workload])


def _workload(ti_id: uuid.UUID, priority: int) -> Workload:
    return Workload(
        workload_id=WorkloadId(str(ti_id)),
        key=TaskKey(dag_id="delays", task_id="by_month", run_id=f"run-{ti_id.hex}", try_number=1),
        cluster_pool="default",
        queue="emr",
        priority_weight=priority,
        accepted_at=now(),
        scheduler_job_id=SCHEDULER,
        workload=TRY,
        log_path=str(TRY["log_path"]),
    )


def _submission(workload: Workload, cluster: Cluster) -> Submission:
    return Submission(
        submission_id=submission_id_of(workload.workload_id, workload.submissions),
        workload_id=workload.workload_id,
        n=workload.submissions,
        cluster_uuid=cluster.cluster_uuid,
        state=SubmissionState.INTENDED,
        intended_at=now(),
    )


def _cluster(cluster_uuid: uuid.UUID) -> Cluster:
    return Cluster(
        cluster_uuid=ClusterUuid(str(cluster_uuid)),
        cluster_pool="default",
        name=f"airflow-emr/deployment/default/{cluster_uuid}",
        template_hash="0123456789abcdef",
        slots=SLOTS,
        state=ClusterState.INTENDED,
        intended_at=now(),
        cluster_id=ClusterId(f"j-{cluster_uuid.hex[-12:].upper()}"),
    )


def _line(subject: str, subject_id: str, event: str, text: str) -> HistoryEntry:
    return HistoryEntry(at=now(), subject=subject, subject_id=subject_id, event=event, text=text)

"""Ports in memory for the agent: an EMR whose answers can be lost, records, a task host, a clock."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Engine, select

from emr_executor.agent.compose import compose
from emr_executor.agent.surroundings import Surroundings
from emr_executor.agent.tasklog import FileTaskLog
from emr_executor.aws.step import STEP_NAME_PREFIX, submission_of_step_name
from emr_executor.config import ClusterPool, Settings
from emr_executor.core.model import (
    ClusterId,
    Identity,
    ObservedCluster,
    ObservedStep,
    StepId,
    StepPage,
    Submission,
    SubmissionId,
    Workload,
)
from emr_executor.core.states import OVER_CLUSTER_STATES, ClusterState, RecordPhase, StepState
from emr_executor.errors import BudgetSpent, ClusterGone, OutcomeUnknown, StepsRefused
from emr_executor.ports import NewStep
from emr_executor.store import scheduler_store
from emr_executor.store.agent_store import AgentStore
from emr_executor.store.rows import submission_from, workload_from
from emr_executor.store.schema import HISTORY, STEERING, SUBMISSION, WORKLOAD
from tests.agent.fake_records import FakeRecords
from tests.agent.manual_clock import ManualClock
from tests.builders import NOW, make_workload
from tests.inline_runner import InlineRunner

DEPLOYMENT = "dep"
STEPS_A_PAGE = 50


@dataclass
class FakeEmr:
    """Clusters and steps as EMR would show them; ``lose_answers`` acts and then says nothing.

    A cluster whose state is None is in one that nobody asks ListClusters for.

    hang: calls that act and answer when the event is set
    markers: that ListSteps was asked for
    refuse_steps: by workload, why EMR refuses every call with its step
    polls_left, lists_left: how many calls of ListSteps, ListClusters the budget still has; None: any number
    """

    clusters: dict[ClusterId, ObservedCluster] = field(default_factory=dict)
    steps: dict[ClusterId, list[ObservedStep]] = field(default_factory=dict)
    requests: list[Mapping[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    lose_answers: set[str] = field(default_factory=set)
    lost_as: type[OutcomeUnknown] = OutcomeUnknown
    hang: dict[str, asyncio.Event] = field(default_factory=dict)
    refuse: dict[str, Exception] = field(default_factory=dict)
    refuse_steps: dict[str, str] = field(default_factory=dict)
    polls_left: int | None = None
    lists_left: int | None = None
    visible_steps: int = 1000
    asked_for: list[StepId] = field(default_factory=list)
    refused_ids: set[StepId] = field(default_factory=set)
    polled: list[ClusterId] = field(default_factory=list)
    markers: defaultdict[ClusterId, list[str | None]] = field(default_factory=lambda: defaultdict(list))

    def _called(self, operation: str) -> None:
        self.calls.append(operation)
        if operation in self.refuse:
            raise self.refuse[operation]

    async def _answer(self, operation: str) -> None:
        if operation in self.hang:
            await self.hang[operation].wait()
        if operation in self.lose_answers:
            raise self.lost_as(f"{operation}: the answer was lost")

    async def run_job_flow(self, request: Mapping[str, Any], *, within_s: float) -> ClusterId:
        self._called("run_job_flow")
        if within_s < 0:
            raise BudgetSpent("too late")
        self.requests.append(request)
        cluster_id = ClusterId(f"j-{len(self.clusters) + 1}")
        self.clusters[cluster_id] = ObservedCluster(
            cluster_id=cluster_id, name=request["Name"], state=ClusterState.STARTING
        )
        self.steps[cluster_id] = []
        await self._answer("run_job_flow")
        return cluster_id

    async def add_steps(
        self, cluster_id: ClusterId, steps: Sequence[NewStep], *, within_s: float
    ) -> tuple[StepId, ...]:
        self._called("add_steps")
        if within_s < 0:
            raise BudgetSpent("too late")
        for workload_id, why in self.refuse_steps.items():
            if any(step.name.startswith(f"{STEP_NAME_PREFIX}{workload_id}-") for step in steps):
                raise StepsRefused(why)
        before = sum(map(len, self.steps.values()))
        added = [
            ObservedStep(
                step_id=StepId(f"s-{before + i}"),
                name=step.name,
                state=StepState.PENDING,
            )
            for i, step in enumerate(steps, 1)
        ]
        self.steps[cluster_id] = [*reversed(added), *self.steps[cluster_id]]
        await self._answer("add_steps")
        return tuple(step.step_id for step in added)

    async def list_steps(
        self,
        cluster_id: ClusterId,
        *,
        marker: str | None = None,
        step_ids: Sequence[StepId] = (),
        within_s: float | None = None,
    ) -> StepPage:
        if within_s is not None and self.polls_left is not None:
            if self.polls_left == 0:
                raise BudgetSpent("no token")
            self.polls_left -= 1
        self.markers[cluster_id].append(marker)
        self._called("list_steps")
        self.polled.append(cluster_id)
        if cluster_id not in self.steps:
            raise ClusterGone("unknown", cluster_id=cluster_id)
        if self.refused_ids.intersection(step_ids):
            raise StepsRefused("ListSteps: InvalidRequestException: Step id is not valid.")
        if step_ids:
            self.asked_for += step_ids
            return StepPage(steps=tuple(one for one in self.steps[cluster_id] if one.step_id in step_ids))
        start = int(marker or 0)
        visible = self.steps[cluster_id][: self.visible_steps]
        page = tuple(visible[start : start + STEPS_A_PAGE])
        more = start + STEPS_A_PAGE < len(visible)
        return StepPage(steps=page, marker=str(start + STEPS_A_PAGE) if more else None)

    async def cancel_steps(self, cluster_id: ClusterId, step_ids: Sequence[StepId]) -> None:
        self._called("cancel_steps")
        for step_id in step_ids:
            self.set_step(step_id, StepState.CANCELLED)

    async def list_clusters(
        self, *, name_prefix: str, over_since: datetime | None = None, within_s: float | None = None
    ) -> tuple[ObservedCluster, ...]:
        if within_s is not None and self.lists_left is not None:
            if self.lists_left == 0:
                raise BudgetSpent("no token")
            self.lists_left -= 1
        self._called("list_clusters")
        return tuple(
            c
            for c in self.clusters.values()
            if c.state is not None
            and c.name.startswith(name_prefix)
            and (c.state in OVER_CLUSTER_STATES) == (over_since is not None)
        )

    async def describe_cluster(
        self, cluster_id: ClusterId, *, within_s: float | None = None
    ) -> ObservedCluster | None:
        del within_s
        self._called("describe_cluster")
        return self.clusters.get(cluster_id)

    async def terminate_clusters(self, cluster_ids: Sequence[ClusterId]) -> None:
        self._called("terminate_clusters")
        for cluster_id in cluster_ids:
            self.set_cluster(cluster_id, ClusterState.TERMINATED, "USER_REQUEST")

    # -- what a test does to it

    def set_cluster(self, cluster_id: str, state: ClusterState | None, code: str | None = None) -> None:
        key = ClusterId(cluster_id)
        self.clusters[key] = replace(self.clusters[key], state=state, reason_code=code)

    def set_step(self, step_id: StepId, state: StepState | None) -> None:
        for steps in self.steps.values():
            for i, step in enumerate(steps):
                if step.step_id == step_id:
                    steps[i] = replace(step, state=state)

    def submissions(self) -> list[SubmissionId | None]:
        """Submission ids of every step that was ever added."""
        return [submission_of_step_name(step.name) for steps in self.steps.values() for step in steps]


SETTINGS = Settings(
    staging_uri="s3://bucket/emr/",
    cluster_pools=(
        ClusterPool(
            template={"ReleaseLabel": "emr-7.10.0", "StepConcurrencyLevel": 2},
            max_clusters=2,
            idle_timeout_s=100.0,
            launch_unknown_s=60.0,
            max_submissions=2,
        ),
    ),
    records_interval_s=1.0,
    cluster_poll_interval_s=1.0,
    step_poll_interval_s=1.0,
    loss_hold_s=30.0,
)


def surroundings(**changes: Any) -> Surroundings:
    """What an agent, or one part of it, reaches; what is not given is not asked for."""
    values: dict[str, Any] = {
        "settings": SETTINGS,
        "clock": ManualClock(),
        "host": SimpleNamespace(capacity=0),
        "records_uri": "s3://bucket/emr/dep/",
        "region": "eu-west-1",
        "identity": Identity(hostname="host", unixname="airflow", pid=1),
        "holder": "me",
        "deployment_id": DEPLOYMENT,
    }
    not_given = dict.fromkeys(("store", "api", "emr", "records", "task_log", "new_id"))
    return Surroundings(**{**not_given, **values, **changes})


class SlowRunner(InlineRunner):
    """Every transaction takes ``delay_s`` on the clock."""

    def __init__(self, engine: Engine, clock: ManualClock) -> None:
        super().__init__(engine)
        self.clock, self.delay_s = clock, 0.0

    async def run(self, work: Callable[..., Any], *args: Any) -> Any:
        result = await super().run(work, *args)
        self.clock.passed_s += self.delay_s
        return result


def ready(name: str = "w1", **changes: Any) -> Workload:
    """A parked workload with a log of its own."""
    values = {"accepted_at": NOW, "ready_at": NOW, "log_path": f"{name}.log"}
    return make_workload(name, **{**values, **changes})


class World:
    """One steering agent over a real store and the fakes; ``restart`` is a kill -9 and a successor."""

    def __init__(self, engine: Engine, log_folder: Path, settings: Settings = SETTINGS) -> None:
        self.engine, self.log_folder, self.settings = engine, log_folder, settings
        self.clock, self.emr, self.records = ManualClock(), FakeEmr(), FakeRecords()
        self.runner = SlowRunner(engine, self.clock)
        self.store = AgentStore(self.runner)
        self.hidden: dict[ClusterId, ObservedCluster] = {}
        self.uuids = 0
        self.token = 0
        self._compose()

    def _compose(self) -> None:
        agent = compose(
            surroundings(
                settings=self.settings,
                clock=self.clock,
                store=self.store,
                emr=self.emr,
                records=self.records,
                task_log=FileTaskLog(self.log_folder),
                new_id=self._new_uuid,
            )
        )
        self.steering, self.actions, self.masks = agent.steering, agent.actions, agent.phases.masks
        self.record_poll = agent.records

    def _new_uuid(self) -> str:
        self.uuids += 1
        return f"uuid-{self.uuids}"

    async def begin(self, *workloads: Workload) -> None:
        """Hold the lease; workloads are parked in READY."""
        self.token = await self._take_lease()
        with self.engine.begin() as connection:
            scheduler_store.accept(connection, workloads)

    async def placed(self, *names: str) -> None:
        """Workloads of which each has a step, PENDING on a cluster that starts."""
        await self.begin(*map(ready, names))
        await self.tick(times=2)

    async def running(self, *names: str) -> None:
        """Workloads of which each has a step that runs."""
        await self.placed(*names)
        for cluster_id in self.emr.clusters:
            self.emr.set_cluster(cluster_id, ClusterState.RUNNING)
        for name in names:
            self.show(name, StepState.RUNNING)
        await self.tick(times=2)

    async def _take_lease(self) -> int:
        token = await self.store.take_lease(STEERING, "me", await self.store.read_lease(STEERING))
        assert token is not None
        return token

    async def restart(self) -> None:
        """A successor with an empty memory takes the lease."""
        self.token = await self._take_lease()
        self._compose()

    async def tick(self, *, seconds: float = 2.0, times: int = 1) -> None:
        """Time passes, the agent looks and acts, and its acts end."""
        for _ in range(times):
            self.clock.passed_s += seconds
            await self.record_poll.round()
            await self.steering.tick(self.token)
            await self.actions.settle()
            await self.record_poll.round()

    async def hanging_tick(self) -> None:
        """Time passes and the agent looks and acts; acts that hang are not waited for."""
        self.clock.passed_s += 2.0
        await self.record_poll.round()
        await self.steering.tick(self.token)
        for _ in range(10):
            await asyncio.sleep(0)

    async def tick_and_die(self) -> None:
        """The intents are written, and the agent is gone before any act could begin."""
        self.actions._start = lambda _owned, act: act.close()  # type: ignore[method-assign,attr-defined]
        await self.record_poll.round()
        await self.steering.tick(self.token)

    def workload(self, workload_id: str) -> Workload:
        with self.engine.connect() as connection:
            one = select(WORKLOAD).where(WORKLOAD.c.workload_id == workload_id)
            return workload_from(connection.execute(one).mappings().one())

    def submissions(self, workload_id: str) -> tuple[Submission, ...]:
        with self.engine.connect() as connection:
            its = select(SUBMISSION).where(SUBMISSION.c.workload_id == workload_id).order_by(SUBMISSION.c.n)
            return tuple(map(submission_from, connection.execute(its).mappings()))

    def last(self, name: str) -> Submission:
        return self.submissions(name)[-1]

    def show(self, name: str, state: StepState) -> None:
        """EMR shows the workload's last step in this state."""
        step_id = self.last(name).step_id
        assert step_id is not None
        self.emr.set_step(step_id, state)

    def end(self, name: str, exit_code: int = 0, **changes: Any) -> None:
        """The wrapper of the workload's last step writes its final record."""
        self.records.write(self.last(name), RecordPhase.ENDED, exit_code=exit_code, **changes)

    def events(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(connection.execute(select(HISTORY.c.event).order_by(HISTORY.c.id)).scalars())

    def log(self, name: str) -> str:
        path = self.log_folder / name
        return path.read_text() if path.exists() else ""

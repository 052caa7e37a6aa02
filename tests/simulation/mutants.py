"""Bugs to be planted into a simulated world, each in what surrounds production code, which stays as it is.

A bug bends a port, or the settings, of every agent, or what one user of the store gets. The checkers, which
see only the ledgers, must find it and name the promise that it breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from emr_executor.agent.surroundings import Surroundings
from emr_executor.core.model import (
    Cluster,
    ClusterId,
    HistoryEntry,
    ObservedCluster,
    StepId,
    StepPage,
    Workload,
    WorkloadId,
)
from emr_executor.core.states import ClusterState, StepState, Verdict, WorkloadState
from emr_executor.errors import EmrExecutorError
from emr_executor.ports import NewStep, PhaseEnded, PhaseJob
from emr_executor.store.change_store import Change
from tests.simulator.cloud import StepScript
from tests.simulator.fault_profile import FaultProfile
from tests.simulator.scenario import DEPLOYMENT, Scenario
from tests.simulator.stores import Stores

OURS = f"airflow-emr/{DEPLOYMENT}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """One bug: what it does to each agent's surroundings, to the store, and to the plan.

    promise: what the checkers must find broken
    profile: the faults among which it shows
    plan: makes a scenario in which it can show, without the bug: the same is lived without it
    settings: bends the settings, while the terms stay
    """

    promise: str
    profile: Callable[[], FaultProfile] = FaultProfile
    plan: Callable[[Scenario], Scenario] = lambda scenario: scenario
    settings: Callable[[Scenario], Scenario] = lambda scenario: scenario
    around: Callable[[Surroundings], Surroundings] = lambda around: around
    stores: Callable[[Stores], Stores] = lambda stores: stores


class Bent:
    """A port that is as it was but for the methods of a subclass."""

    def __init__(self, port: Any) -> None:
        self.port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self.port, name)


def deaf(method: str, answer: Any = None) -> Callable[[Any], Any]:
    """A port of which one method does nothing, and gives always the same answer."""

    async def nothing(*_: Any, **__: Any) -> Any:
        return answer

    def bent(port: Any) -> Any:
        made = Bent(port)
        setattr(made, method, nothing)
        return made

    return bent


class BendsChanges(Bent):
    """A store that writes other changes than those it is given."""

    async def apply(self, token: int, changes: Sequence[Change], history: Sequence[HistoryEntry] = ()) -> Any:
        return await self.port.apply(token, [self.bent(change) for change in changes], history)

    def bent(self, change: Change) -> Change:
        raise NotImplementedError


def bend(**bends: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Surroundings, or stores, with some ports bent: ``bend(emr=AddsTwice)``."""

    def bent(around: Any) -> Any:
        return replace(around, **{name: by(getattr(around, name)) for name, by in bends.items()})

    return bent


# -- scenarios in which a bug can show ---------------------------------------------------------------------


def with_steps_of(*durations_s: float) -> Callable[[Scenario], Scenario]:
    """Every step runs for so long, in turn, and ends well, and no try has a time limit."""

    def plan(scenario: Scenario) -> Scenario:
        tasks = []
        for task, duration_s in zip(scenario.tasks, cycle(durations_s), strict=False):
            tries = tuple(
                replace(one, execution_timeout_s=None, step=StepScript(duration_s=duration_s))
                for one in task.script.tries
            )
            tasks.append(replace(task, script=replace(task.script, tries=tries)))
        return replace(scenario, tasks=tuple(tasks))

    return plan


def with_pool(**changes: Any) -> Callable[[Scenario], Scenario]:
    """The pool's settings changed; ``max_clusters`` is agreed as well."""

    def plan(scenario: Scenario) -> Scenario:
        pool = scenario.settings.cluster_pools[0].model_copy(update=changes)
        settings = scenario.settings.model_copy(update={"cluster_pools": (pool,)})
        return replace(
            scenario, settings=settings, cap=pool.max_clusters, max_submissions=pool.max_submissions
        )

    return plan


def with_slots(slots: int, **changes: Any) -> Callable[[Scenario], Scenario]:
    """Clusters of so many slots."""

    def plan(scenario: Scenario) -> Scenario:
        template = {**scenario.settings.cluster_pools[0].template, "StepConcurrencyLevel": slots}
        return with_pool(template=template, **changes)(scenario)

    return plan


def crowded(scenario: Scenario) -> Scenario:
    """Two clusters of two slots for everybody, and deep queues on them; a cancelled step frees its slot."""
    model = replace(scenario.model, cancelled_step_frees_slot=True)
    return with_slots(2, max_clusters=2, prefetch=9)(replace(scenario, model=model))


def with_foreign_clusters(scenario: Scenario) -> Scenario:
    """Others have clusters in the account, with names that look like ours."""
    return replace(scenario, foreign_clusters=4)


def both(*plans: Callable[[Scenario], Scenario]) -> Callable[[Scenario], Scenario]:
    """One plan after the other."""

    def plan(scenario: Scenario) -> Scenario:
        for one in plans:
            scenario = one(scenario)
        return scenario

    return plan


# -- a result is dropped -----------------------------------------------------------------------------------


class NeverFinishes(Bent):
    """The store forgets to hand out outcomes to be finished."""

    async def claim(self, kind: WorkloadState, limit: int, *rest: Any, **more: Any) -> tuple[Workload, ...]:
        return () if kind is WorkloadState.FINISHING else await self.port.claim(kind, limit, *rest, **more)


class FinishesInSilence(Bent):
    """A finish phase that writes down that all was told, and tells Airflow nothing."""

    def __init__(self, port: Any, around: Surroundings) -> None:
        super().__init__(port)
        self._store, self._clock = around.store, around.clock

    async def run(self, job: PhaseJob) -> PhaseEnded:
        if job.workload.state is not WorkloadState.FINISHING:
            return await self.port.run(job)
        await self._store.record_over(job.workload_id, job.claim_token, "success", self._clock.now())
        return PhaseEnded(workload_id=job.workload_id, claim_token=job.claim_token, exit_code=0)


def in_silence(around: Surroundings) -> Surroundings:
    """Surroundings whose host finishes in silence."""
    return replace(around, host=FinishesInSilence(around.host, around))


# -- a step is submitted twice -----------------------------------------------------------------------------


class ClaimsNothing(Bent):
    """Records of wrappers that begin whether or not their submission is claimed."""

    def __init__(self, port: Any) -> None:
        super().__init__(port)
        port._bucket.claim = lambda _submission_id, step_id: step_id


class AddsTwice(Bent):
    """A client that repeats AddJobFlowSteps. A repetition that EMR refuses does not undo the first call."""

    async def add_steps(
        self, cluster_id: ClusterId, steps: Sequence[NewStep], *, within_s: float
    ) -> tuple[StepId, ...]:
        added = await self.port.add_steps(cluster_id, steps, within_s=within_s)
        try:
            return await self.port.add_steps(cluster_id, steps, within_s=within_s)
        except EmrExecutorError:
            return added


class TakesEndingForOver(Bent):
    """A cluster that is TERMINATING is taken for TERMINATED."""

    async def list_clusters(self, **asked: Any) -> tuple[ObservedCluster, ...]:
        return tuple(map(_over_already, await self.port.list_clusters(**asked)))

    async def describe_cluster(self, cluster_id: ClusterId, **asked: Any) -> ObservedCluster | None:
        found = await self.port.describe_cluster(cluster_id, **asked)
        return None if found is None else _over_already(found)


def _over_already(cluster: ObservedCluster) -> ObservedCluster:
    if cluster.state is not ClusterState.TERMINATING:
        return cluster
    return replace(cluster, state=ClusterState.TERMINATED)


class RunsAgain(BendsChanges):
    """An outcome of success is put back to be run once more, the first time."""

    def __init__(self, port: Any) -> None:
        super().__init__(port)
        self._again: set[WorkloadId] = set()

    def bent(self, change: Change) -> Change:
        new = change.new
        if not isinstance(new, Workload) or new.outcome is None or new.workload_id in self._again:
            return change
        if new.outcome.verdict is not Verdict.SUCCEEDED or new.state is not WorkloadState.FINISHABLE:
            return change
        self._again.add(new.workload_id)
        return replace(change, new=replace(new, state=WorkloadState.READY, outcome=None))


# -- a cluster is forgotten --------------------------------------------------------------------------------


class LaunchesTwice(Bent):
    """A client that repeats RunJobFlow."""

    async def run_job_flow(self, request: Mapping[str, Any], *, within_s: float) -> ClusterId:
        await self.port.run_job_flow(request, within_s=within_s)
        return await self.port.run_job_flow(request, within_s=within_s)


class LaunchesWithoutSwitch(Bent):
    """RunJobFlow without AutoTerminationPolicy."""

    async def run_job_flow(self, request: Mapping[str, Any], *, within_s: float) -> ClusterId:
        odd = {name: value for name, value in request.items() if name != "AutoTerminationPolicy"}
        launched: ClusterId = await self.port.run_job_flow(odd, within_s=within_s)
        return launched


class LaunchesAndForgets(LaunchesWithoutSwitch):
    """Every launch is made twice, the first one without its switch, and never seen again."""

    def __init__(self, port: Any) -> None:
        super().__init__(port)
        self._forgotten: set[ClusterId] = set()

    async def run_job_flow(self, request: Mapping[str, Any], *, within_s: float) -> ClusterId:
        self._forgotten.add(await super().run_job_flow(request, within_s=within_s))
        return await self.port.run_job_flow(request, within_s=within_s)

    async def list_clusters(self, **asked: Any) -> tuple[ObservedCluster, ...]:
        found = await self.port.list_clusters(**asked)
        return tuple(cluster for cluster in found if cluster.cluster_id not in self._forgotten)


class ForgetsRow(Bent):
    """The row of the first cluster is never written, though its launch is made."""

    def __init__(self, port: Any) -> None:
        super().__init__(port)
        self._forgotten: Change | None = None

    async def apply(self, token: int, changes: Sequence[Change], history: Sequence[HistoryEntry] = ()) -> Any:
        if self._forgotten is None:
            self._forgotten = next((change for change in changes if _is_new_cluster(change)), None)
        kept = [change for change in changes if change is not self._forgotten]
        stored = iter(await self.port.apply(token, kept, history))
        return tuple(change.new if change is self._forgotten else next(stored) for change in changes)


def _is_new_cluster(change: Change) -> bool:
    return change.old is None and isinstance(change.new, Cluster)


def cap_raised(scenario: Scenario) -> Scenario:
    """The agent believes in one cluster more than was agreed."""
    pool = scenario.settings.cluster_pools[0]
    bent = pool.model_copy(update={"max_clusters": pool.max_clusters + 1})
    settings = scenario.settings.model_copy(update={"cluster_pools": (bent,)})
    return replace(scenario, settings=settings)


# -- what belongs to others --------------------------------------------------------------------------------


class EndsOthers(Bent):
    """A cluster of another deployment is taken for one of ours that is to be ended."""

    async def terminate_clusters(self, cluster_ids: Sequence[ClusterId]) -> None:
        all_of_us = await self.port.list_clusters(name_prefix="airflow-emr/")
        theirs = [cluster.cluster_id for cluster in all_of_us if not cluster.name.startswith(OURS)]
        await self.port.terminate_clusters([*cluster_ids, *theirs][:10])


class AddsElsewhere(Bent):
    """Steps go to a cluster of somebody else when there is one."""

    async def add_steps(
        self, cluster_id: ClusterId, steps: Sequence[NewStep], *, within_s: float
    ) -> tuple[StepId, ...]:
        all_of_us = await self.port.list_clusters(name_prefix="airflow-emr/")
        theirs = [cluster.cluster_id for cluster in all_of_us if not cluster.name.startswith(OURS)]
        return await self.port.add_steps((theirs or [cluster_id])[0], steps, within_s=within_s)


# -- what Airflow is told ----------------------------------------------------------------------------------


class Lies(BendsChanges):
    """A store that keeps another verdict than the one it is given."""

    def __init__(self, port: Any, heard: Verdict, told: Verdict) -> None:
        super().__init__(port)
        self._heard, self._told = heard, told

    def bent(self, change: Change) -> Change:
        new = change.new
        if not isinstance(new, Workload) or new.outcome is None or new.outcome.verdict is not self._heard:
            return change
        return replace(change, new=replace(new, outcome=replace(new.outcome, verdict=self._told)))


class TakesCancelForDone(Bent):
    """A step whose cancellation was asked for is taken for cancelled, and nobody asks."""

    def __init__(self, port: Any) -> None:
        super().__init__(port)
        self.asked: set[StepId] = set()

    async def cancel_steps(self, cluster_id: ClusterId, step_ids: Sequence[StepId]) -> None:
        del cluster_id
        self.asked.update(step_ids)

    async def list_steps(self, *args: Any, **asked: Any) -> StepPage:
        page: StepPage = await self.port.list_steps(*args, **asked)
        bent = (
            replace(step, state=StepState.CANCELLED) if step.step_id in self.asked else step
            for step in page.steps
        )
        return replace(page, steps=tuple(bent))

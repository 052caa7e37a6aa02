"""What happens to a world while it is stormy: at random moments, by the rates of its fault profile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from emr_executor.core.states import StepState
from emr_executor.local.behaviour import EmrModel, LaunchFailureKind
from tests.simulator.airflow_entities import SimTaskInstance, TaskState
from tests.simulator.fault_profile import FaultProfile
from tests.simulator.scenario import DEPLOYMENT, template

if TYPE_CHECKING:
    from tests.simulator.world import World

HOUR_S = 3600.0
NOTICE_S = 150.0
"""EMR notices the loss of a primary node a minute or two after it."""
KINDS = tuple(one.name.removesuffix("_per_h") for one in fields(FaultProfile) if one.name.endswith("_per_h"))
"""What happens at random moments: each has a rate in the profile."""
_OUTAGES = ("store", "records", "emr", "api", "session", "s3")


class Chaos:
    """Draws the moments of faults and makes them happen."""

    def __init__(self, world: World) -> None:
        self._world, self._rng = world, world.rngs["chaos"]
        self._tasks: list[asyncio.Task[None]] = []
        self._held: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Start every kind of fault that this profile has."""
        for name in KINDS:
            rate = getattr(self._world.profile, f"{name}_per_h")
            if rate:
                self._tasks.append(
                    asyncio.ensure_future(self._happens(rate, getattr(self, f"_{name}"), name))
                )

    def end(self) -> None:
        """No more of it; what was held is let go."""
        for task in self._tasks:
            task.cancel()
        self._world.cloud.model.forget_launch_failures()
        held, self._held = self._held, []
        for release in held:
            release()

    async def _happens(self, rate_per_h: float, act: Callable[[], None], name: str) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(rate_per_h / HOUR_S))
            act()
            self._world.counts[f"chaos/{name}"] += 1

    def _hold(self, release: Callable[[], None], shortest_s: float, longest_s: float) -> None:
        self._held.append(release)

        def let_go() -> None:
            if release in self._held:
                self._held.remove(release)
                release()

        asyncio.get_running_loop().call_later(self._rng.uniform(shortest_s, longest_s), let_go)

    def _one_of(self, things: Any) -> Any:
        found = list(things)
        return self._rng.choice(found) if found else None

    # -- our processes -----------------------------------------------------------------------------------

    def _agent_killed(self) -> None:
        if agent := self._one_of(self._world.agents.values()):
            agent.kill()

    def _agent_hangs(self) -> None:
        if agent := self._one_of(self._world.agents.values()):
            agent.gate.freeze()
            self._hold(agent.gate.thaw, 5.0, 240.0)

    def _scheduler_killed(self) -> None:
        if scheduler := self._one_of(self._world.schedulers.values()):
            scheduler.kill()

    def _outage(self) -> None:
        what = self._rng.choice(_OUTAGES)
        world = self._world
        if what == "api":
            world.api_faults.is_down = True
            self._hold(lambda: setattr(world.api_faults, "is_down", False), 10.0, 120.0)
        elif what == "s3":
            world.phase_faults.s3_is_down = True
            self._hold(lambda: setattr(world.phase_faults, "s3_is_down", False), 10.0, 300.0)
        else:
            world.profile.down.add(what)
            self._hold(lambda: world.profile.down.discard(what), 10.0, 120.0)

    # -- EMR ---------------------------------------------------------------------------------------------

    def _lose(self, cluster_id: str) -> None:
        steps_become = self._rng.choice((StepState.CANCELLED, StepState.FAILED, StepState.INTERRUPTED))
        notice_s = self._rng.uniform(0.0, NOTICE_S) if self._rng.random() < 0.7 else 0.0
        # EMR may show the steps over before it shows the cluster ending.
        steps_s = self._rng.uniform(0.0, notice_s)
        self._world.cloud.do(
            lambda model, now: model.lose_cluster(
                cluster_id, now, notice_after_s=notice_s, steps_after_s=steps_s, steps_become=steps_become
            )
        )

    def _our_live_clusters(self) -> list[str]:
        world = self._world
        return [one for one in world.cloud.model.live_cluster_ids if world.is_ours(one)]

    def _cluster_lost(self) -> None:
        if cluster_id := self._one_of(self._our_live_clusters()):
            self._lose(cluster_id)

    def _storm(self) -> None:
        share = self._rng.uniform(0.3, 1.0)
        for cluster_id in self._our_live_clusters():
            if self._rng.random() < share:
                self._lose(cluster_id)

    def _node_lost(self) -> None:
        world = self._world
        cluster_id = self._one_of(self._our_live_clusters())
        if cluster_id is None:
            return
        world.cloud.do(lambda model, now: model.lose_node(cluster_id, now))
        step_id = self._one_of(world.cloud.running_steps(cluster_id))
        if step_id is not None and self._rng.random() < 0.3:
            world.cloud.fail_step(step_id)

    def _launch_fails(self) -> None:
        kind = self._rng.choice(list(LaunchFailureKind))
        self._world.cloud.model.fail_launches(self._rng.choice((1, 1, 2, 5)), kind)

    def _provisioning_held(self) -> None:
        cloud = self._world.cloud
        cloud.do(lambda model, now: model.hold_provisioning(now))
        self._hold(lambda: cloud.do(lambda model, now: model.release_provisioning(now)), 30.0, 600.0)

    def _termination_hangs(self) -> None:
        cloud, cluster_id = self._world.cloud, self._one_of(self._our_live_clusters())
        if cluster_id is not None:
            cloud.model.hang_termination(cluster_id)
            self._hold(
                lambda: cloud.do(lambda model, now: model.release_termination(cluster_id, now)), 60.0, 900.0
            )

    # -- people ------------------------------------------------------------------------------------------

    def _person_ends_cluster(self) -> None:
        if cluster_id := self._one_of(self._our_live_clusters()):
            self._world.person_did.add(cluster_id)
            self._world.cloud.call("TerminateJobFlows", {"JobFlowIds": [cluster_id]})

    def _person_cancels_step(self) -> None:
        world = self._world
        cluster_id = self._one_of(self._our_live_clusters())
        if cluster_id is None:
            return
        if step_id := self._one_of(world.cloud.running_steps(cluster_id)):
            world.person_did.add(step_id)
            world.cloud.call("CancelSteps", {"ClusterId": cluster_id, "StepIds": [step_id]})

    def _some_open(self) -> SimTaskInstance | None:
        states = (TaskState.QUEUED, TaskState.RUNNING, TaskState.RUNNING, TaskState.RESTARTING)
        found: SimTaskInstance | None = self._one_of(self._world.airflow.in_state(self._rng.choice(states)))
        return found

    def _cleared(self) -> None:
        if (ti := self._some_open()) is not None:
            self._world.airflow.clear(ti)

    def _marked(self) -> None:
        if (ti := self._some_open()) is not None:
            self._world.airflow.mark(ti, self._rng.choice((TaskState.SUCCESS, TaskState.FAILED)))

    def _run_timed_out(self) -> None:
        if (ti := self._some_open()) is not None:
            self._world.airflow.time_out_run(ti.key.dag_id, ti.key.run_id)

    # -- other people's clusters -------------------------------------------------------------------------

    def settle_foreign_clusters(self) -> None:
        """Clusters of others in the same account, some with names that look like ours."""
        names = (
            "analytics",
            f"airflow-emr/{DEPLOYMENT}x/default/one",
            f"airflow-emr/{DEPLOYMENT[:-1]}/default/two",
            "airflow-emr/other/default/three",
        )
        for name in names[: self._world.scenario.foreign_clusters]:
            self._world.foreign.add(self._world.cloud.do(partial(_launch_foreign, name=name)))


def _launch_foreign(model: EmrModel, now: float, *, name: str) -> str:
    request = template(2)
    request["Instances"]["KeepJobFlowAliveWhenNoSteps"] = True
    cluster_id = str(model.call("RunJobFlow", {**request, "Name": name}, now)["JobFlowId"])
    jar = {"Jar": "command-runner.jar", "Args": ["spark-submit", "theirs.py"]}
    steps = [{"Name": f"theirs {n}", "ActionOnFailure": "CONTINUE", "HadoopJarStep": jar} for n in range(5)]
    model.call("AddJobFlowSteps", {"JobFlowId": cluster_id, "Steps": steps}, now)
    return cluster_id

"""Whatever clients, processes and faults do, the model keeps EMR's promises."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from emr_executor.local.behaviour import EmrApiError, LaunchFailureKind, ModelOptions, StartProcess
from emr_executor.local.ledger import step_intervals
from tests.local.world import World, launch_request, step_config

TERMINAL = {"COMPLETED", "FAILED", "CANCELLED", "INTERRUPTED"}


class Chaos:
    """Random acts on a small account, by one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        options = ModelOptions(
            start_delay_s=self.random.choice([0, 30]),
            bootstrap_delay_s=self.random.choice([0, 30]),
            terminate_delay_s=self.random.choice([0, 20]),
            step_start_delay_s=self.random.choice([0, 3]),
            cancelled_step_frees_slot=self.random.random() < 0.8,
        )
        self.world = World(options)
        self.world.kills_work = self.random.random() < 0.5
        self.clusters: list[str] = []
        self.level: dict[str, int] = {}

    def act(self) -> None:
        choice = self.random.choice(
            [
                *(self.launch, self.add, self.add, self.end, self.end, self.cancel, self.wait, self.wait),
                *(self.terminate, self.lose, self.modify, self.hang),
            ]
        )
        try:
            choice()
        except EmrApiError as error:
            assert error.status == 400  # noqa: PT017  (refusals are part of the life; 5xx are not)
        self.check()

    def any_cluster(self) -> str:
        return self.random.choice(self.clusters) if self.clusters else "j-NONE"

    def launch(self) -> None:
        if self.random.random() < 0.2:
            self.world.model.fail_launches(1, self.random.choice(list(LaunchFailureKind)))
        level = self.random.randint(1, 3)
        keep = self.random.random() < 0.8
        policy = {"AutoTerminationPolicy": {"IdleTimeout": 60}} if self.random.random() < 0.5 else {}
        cluster_id = self.world.launch(
            StepConcurrencyLevel=level, Instances={"KeepJobFlowAliveWhenNoSteps": keep}, **policy
        )
        self.clusters.append(cluster_id)
        self.level[cluster_id] = level

    def add(self) -> None:
        self.world.add(self.any_cluster(), *(step_config() for _ in range(self.random.randint(1, 4))))

    def end(self) -> None:
        alive = [life for life in step_intervals(self.world.model.ledger) if life.until is None]
        if alive:
            life = self.random.choice(alive)
            assert life.step_id is not None
            self.world.end(life.cluster_id, life.step_id, self.random.choice([0, 0, 1]))

    def cancel(self) -> None:
        cluster_id = self.any_cluster()
        ids = [step["Id"] for step in self.world.call("ListSteps", ClusterId=cluster_id)["Steps"]]
        if ids:
            option = self.random.choice(["SEND_INTERRUPT", "TERMINATE_PROCESS"])
            chosen = [self.random.choice(ids)]
            self.world.call(
                "CancelSteps", ClusterId=cluster_id, StepIds=chosen, StepCancellationOption=option
            )

    def wait(self) -> None:
        self.world.wait(self.random.choice([1, 10, 100]))

    def terminate(self) -> None:
        self.world.call("TerminateJobFlows", JobFlowIds=[self.any_cluster()])

    def lose(self) -> None:
        self.world.lose(self.any_cluster(), notice_after_s=self.random.choice([0, 60]))

    def modify(self) -> None:
        cluster_id, level = self.any_cluster(), self.random.randint(1, 4)
        self.world.call("ModifyCluster", ClusterId=cluster_id, StepConcurrencyLevel=level)
        self.level[cluster_id] = max(level, self.level[cluster_id])

    def hang(self) -> None:
        if self.random.random() < 0.2:
            self.world.model.hang_termination(self.any_cluster())

    def check(self) -> None:
        starts = Counter(entry.step_id for entry in self.world.events("process_started"))
        assert all(count == 1 for count in starts.values())
        alive = Counter(
            life.cluster_id for life in step_intervals(self.world.model.ledger) if life.until is None
        )
        for cluster in self.world.model.status()["clusters"]:
            cluster_id, state = cluster["Id"], cluster["Status"]["State"]
            steps = [step["Status"]["State"] for step in cluster["Steps"]]
            assert alive[cluster_id] <= self.level[cluster_id]
            assert len(cluster["LiveProcesses"]) == alive[cluster_id]
            if state.startswith("TERMINATED"):
                assert alive[cluster_id] == 0
                assert set(steps) <= TERMINAL
            if state == "WAITING":
                assert not {"RUNNING", "CANCEL_PENDING"} & set(steps)

    def calm_down(self) -> None:
        """Faults stop, every process ends, every cluster is terminated: nothing may be left."""
        for cluster_id in self.clusters:
            self.world.model.release_termination(cluster_id, self.world.now)
            self.world.model.lose_cluster(cluster_id, self.world.now)
        self.world.kills_work = True
        for life in step_intervals(self.world.model.ledger):
            if life.until is None and life.step_id is not None:
                self.world.end(life.cluster_id, life.step_id, -9)
        self.world.wait(1000)
        assert self.world.model.open_cluster_ids == ()
        assert self.world.model.live_processes == 0
        self.check()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**32))
def test_the_model_keeps_its_rules_under_any_story(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(40):
        chaos.act()
    chaos.calm_down()


@settings(max_examples=20, deadline=None)
@given(levels=st.lists(st.integers(min_value=1, max_value=5), min_size=1, max_size=6))
def test_steps_start_in_the_order_they_were_added_at_any_level(levels: list[int]) -> None:
    world = World()
    cluster_id = world.launch()
    ids = world.add(cluster_id, *(step_config() for _ in range(12)))
    for level in levels:
        world.call("ModifyCluster", ClusterId=cluster_id, StepConcurrencyLevel=level)
        world.end(cluster_id, world.started[-1])
    assert world.started == ids[: len(world.started)]


def test_effects_are_handed_out_once() -> None:
    world = World()
    world.model.call("RunJobFlow", {**launch_request(), "Steps": [step_config()]}, world.now)
    (effect,) = world.model.take_effects()
    assert isinstance(effect, StartProcess)
    assert world.model.take_effects() == ()

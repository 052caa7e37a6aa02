"""A world around the model of EMR: its clock, and processes that end when the test says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emr_executor.local.behaviour import EmrModel, KillProcess, ModelOptions, StartProcess
from emr_executor.local.ledger import LedgerEntry

START_S, BOOTSTRAP_S, TERMINATE_S = 60.0, 120.0, 30.0
SLOW = ModelOptions(start_delay_s=START_S, bootstrap_delay_s=BOOTSTRAP_S, terminate_delay_s=TERMINATE_S)
EPOCH = 1_000_000.0


def launch_request(**changes: Any) -> dict[str, Any]:
    given = changes.pop("Instances", {})
    machines = {"MasterInstanceType": "m5.xlarge", "InstanceCount": 1}
    if given.keys() & {"InstanceGroups", "InstanceFleets"}:
        machines = {}
    request = {
        "Name": "pool/one",
        "ReleaseLabel": "emr-7.13.0",
        "JobFlowRole": "EMR_EC2_DefaultRole",
        "ServiceRole": "EMR_DefaultRole",
        "Instances": {"KeepJobFlowAliveWhenNoSteps": True, **machines, **given},
    }
    return request | changes


def step_config(
    name: str = "step",
    action: str = "CONTINUE",
    args: Sequence[str] = ("true",),
    jar: str = "command-runner.jar",
) -> dict[str, Any]:
    return {"Name": name, "ActionOnFailure": action, "HadoopJarStep": {"Jar": jar, "Args": list(args)}}


class World:
    """The model with a clock of its own; killed processes end at once unless ``kills_work`` is False."""

    def __init__(self, options: ModelOptions | None = None) -> None:
        self.model = EmrModel(options or ModelOptions(), id_seed="test")
        self.now = EPOCH
        self.kills_work = True
        self.started: list[str] = []
        self.kills: list[KillProcess] = []

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        try:
            return self.model.call(operation, request, self.now)
        finally:
            self.settle()

    def settle(self) -> None:
        while effects := self.model.take_effects():
            for effect in effects:
                if isinstance(effect, StartProcess):
                    self.started.append(effect.step_id)
                elif isinstance(effect, KillProcess):
                    self.kills.append(effect)
                    if self.kills_work:
                        code = -9 if effect.force else -15
                        self.model.process_ended(effect.cluster_id, effect.step_id, code, self.now)

    def wait(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self.now + seconds
        while (due := self.model.next_due) is not None and due <= end:
            self.now = max(self.now, due)
            self.model.advance(self.now)
            self.settle()
        self.now = end
        self.model.advance(end)
        self.settle()

    def launch(self, **changes: Any) -> str:
        return str(self.call("RunJobFlow", **launch_request(**changes))["JobFlowId"])

    def add(self, cluster_id: str, *configs: dict[str, Any]) -> list[str]:
        return list(self.call("AddJobFlowSteps", JobFlowId=cluster_id, Steps=list(configs))["StepIds"])

    def end(self, cluster_id: str, step_id: str, exit_code: int = 0) -> None:
        """The process of a step ends by itself."""
        self.model.process_ended(cluster_id, step_id, exit_code, self.now)
        self.settle()

    def lose(self, cluster_id: str, **options: Any) -> None:
        self.model.lose_cluster(cluster_id, self.now, **options)
        self.settle()

    def cluster(self, cluster_id: str) -> dict[str, Any]:
        return dict(self.call("DescribeCluster", ClusterId=cluster_id)["Cluster"])

    def cluster_state(self, cluster_id: str) -> str:
        return str(self.cluster(cluster_id)["Status"]["State"])

    def step_states(self, cluster_id: str) -> list[str]:
        """States of all steps, in the order they were added."""
        steps = self.call("ListSteps", ClusterId=cluster_id)["Steps"]
        return [step["Status"]["State"] for step in reversed(steps)]

    def events(self, *names: str) -> list[LedgerEntry]:
        return [entry for entry in self.model.ledger if entry.event in names]

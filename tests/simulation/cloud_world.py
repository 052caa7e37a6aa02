"""The simulated EMR with one cluster, and what tests ask of it; all inside of a virtual loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from emr_executor.aws.launch import cluster_name
from emr_executor.core.model import ClusterUuid, StepRecord, SubmissionId
from emr_executor.local.entities import ModelOptions
from emr_executor.local.ledger import LedgerEntry
from tests.local.world import launch_request
from tests.simulation.virtual_time import Story, in_virtual_time
from tests.simulator.clock import VirtualClock
from tests.simulator.cloud import Cloud, StepScript
from tests.simulator.fault_profile import FaultProfile
from tests.simulator.records import SimRecords

CLUSTER = ClusterUuid("c1")


class CloudWorld:
    """``profile`` and ``scripts`` (by submission id) may be changed as the test goes on."""

    def __init__(self, options: ModelOptions | None = None, profile: FaultProfile | None = None) -> None:
        self.profile = profile or FaultProfile()
        self.rng = random.Random("test")
        self.clock = VirtualClock(asyncio.get_running_loop())
        self.scripts: dict[SubmissionId, StepScript] = {}
        self.refused: set[str] = set()
        self.cloud = Cloud(
            clock=self.clock,
            options=options or ModelOptions(),
            profile=self.profile,
            rng=self.rng,
            script_of=self.scripts.get,
            refuses=lambda submission_id: submission_id in self.refused,
        )
        self.records = SimRecords(self.cloud.bucket, self.clock, self.profile, self.rng)

    def launch(
        self, name: str = cluster_name("d1", "default", CLUSTER), slots: int = 4, **changes: Any
    ) -> str:
        request = launch_request(Name=name, StepConcurrencyLevel=slots, **changes)
        return str(self.cloud.call("RunJobFlow", request)["JobFlowId"])

    def add(self, cluster_id: str, submission: str, script: StepScript | None = None) -> str:
        if script is not None:
            self.scripts[SubmissionId(submission)] = script
        answer = self.cloud.call(
            "AddJobFlowSteps", {"JobFlowId": cluster_id, "Steps": [sim_step(submission)]}
        )
        return str(answer["StepIds"][0])

    def step_state(self, cluster_id: str, step_id: str) -> str:
        answer = self.cloud.call("DescribeStep", {"ClusterId": cluster_id, "StepId": step_id})
        return str(answer["Step"]["Status"]["State"])

    def cluster_state(self, cluster_id: str) -> str:
        return str(
            self.cloud.call("DescribeCluster", {"ClusterId": cluster_id})["Cluster"]["Status"]["State"]
        )

    async def record(self, submission: str) -> StepRecord | None:
        """What a listing shows of a submission now."""
        found = [r for r in await self.records.changed({}) if r.submission_id == submission]
        return found[0] if found else None

    async def told(self, submission: str) -> tuple[str, int | None, str] | None:
        """Phase, exit code and reason of a submission's record."""
        record = await self.record(submission)
        return None if record is None else (str(record.phase), record.exit_code, record.reason)

    def events(self, *names: str) -> list[LedgerEntry]:
        return [entry for entry in self.cloud.model.ledger if entry.event in names]


def sim_step(submission: str) -> dict[str, Any]:
    """A step as production submits it, as far as the simulation reads it."""
    return {
        "Name": f"airflow-emr/{submission}/dag.task",
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {
            "Jar": "script-runner.jar",
            "Args": ["wrapper.py", "--cluster", CLUSTER, "--submission", submission],
        },
    }


def in_world(
    options: ModelOptions | None = None, profile: FaultProfile | None = None
) -> Callable[[Story], Callable[..., None]]:
    """A test of a story that is lived from the start of a world, its first argument."""
    return in_virtual_time(lambda: CloudWorld(options, profile))


def marks(record: StepRecord) -> dict[SubmissionId, str]:
    """What an agent knows that has applied a record."""
    return {record.submission_id: record.mark}

"""The doors of the contract suite: one model in virtual time, the same over HTTP, and Amazon EMR itself.

Amazon EMR is asked only with ``EMR_CONTRACT_AWS=1`` and ``EMR_CONTRACT_CLUSTER=<file>``: a RunJobFlow request
as JSON, small and cheap, for a release that has command-runner.jar. Credentials and region are those of the
environment. One cluster is launched; it is terminated whatever happens, and ends by itself when idle.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import ClientError

from emr_executor.core.model import SubmissionId
from emr_executor.local.entities import ModelOptions
from emr_executor.local.requests import EmrApiError
from emr_executor.local.runner import RunnerOptions
from emr_executor.local.server import LocalEndpoint, ServerOptions
from tests.airflow_stack.emr_local_process import ReadyInfo
from tests.local.world import launch_request, step_config
from tests.simulator.client import CloudClient
from tests.simulator.clock import VirtualClock
from tests.simulator.cloud import Cloud, StepScript
from tests.simulator.fault_profile import FaultProfile
from tests.simulator.loop import VirtualLoop

T = TypeVar("T")

ASKED_FOR_AWS = os.environ.get("EMR_CONTRACT_AWS") == "1"
DOORS = ("virtual", "http", *(("aws",) if ASKED_FOR_AWS else ()))
DELAY_S = 0.4
OPTIONS = ModelOptions(start_delay_s=DELAY_S, bootstrap_delay_s=DELAY_S, terminate_delay_s=DELAY_S)

COMMANDS = {"quick": ["true"], "fails": ["false"], "short": ["sleep", "1"], "long": ["sleep", "900"]}
"""What a step of each kind runs, where there are real processes."""
SCRIPTS = {
    "quick": StepScript(duration_s=0.1),
    "fails": StepScript(duration_s=0.1, exit_code=1),
    "short": StepScript(duration_s=1.0),
    "long": StepScript(duration_s=900.0),
}
"""The same in virtual time."""
_SUBMISSIONS = itertools.count(1)
"""A submission is claimed by the first step that starts with its id."""


class Refused(Exception):
    """EMR refused a call: code and text."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{code}: {message}")


def step(kind: str, name: str = "contract", action: str = "CONTINUE") -> dict[str, Any]:
    """A step; its Name looks like one of ours, so that the simulator finds its script."""
    return step_config(f"airflow-emr/{kind}-{next(_SUBMISSIONS)}/{name}", action, COMMANDS[kind])


class VirtualDoor:
    """The simulator's EMR, through the client that agents have there."""

    def __init__(self) -> None:
        self._loop = VirtualLoop("contract")
        self._loop.run_until_complete(self._open())

    async def _open(self) -> None:
        profile, rng = FaultProfile(), random.Random("contract")
        clock = VirtualClock(asyncio.get_running_loop())
        self._cloud = Cloud(clock=clock, options=OPTIONS, profile=profile, rng=rng, script_of=self._script_of)
        self._client = CloudClient(self._cloud, profile, rng)

    @staticmethod
    def _script_of(submission_id: SubmissionId) -> StepScript:
        return SCRIPTS[submission_id.partition("-")[0]]

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        return self._loop.run_until_complete(self._call(operation, request))

    async def _call(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        method = getattr(self._client, xform_name(operation), None)
        try:
            if method is None:  # none that an agent makes
                return self._cloud.call(operation, request)
            answer: dict[str, Any] = await method(**request)
        except ClientError as refused:
            raise _told(refused) from refused
        except EmrApiError as refused:
            raise Refused(refused.code, refused.message) from refused
        return answer

    def until(self, condition: Callable[[], T], what: str) -> T:
        for _ in range(40_000):
            if value := condition():
                return value
            self._loop.run_until_complete(asyncio.sleep(0.1))
        raise AssertionError(f"{what} did not come")

    def launch_request(self) -> dict[str, Any]:
        return launch_request()

    def close(self) -> None:
        self._loop.close()


class BotoDoor:
    """Amazon EMR, or what speaks like it."""

    def __init__(self, client: Any, request: dict[str, Any], *, poll_s: float, timeout_s: float) -> None:
        self._client, self._request = client, request
        self._poll_s, self._timeout_s = poll_s, timeout_s

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, xform_name(operation))(**request)
        except ClientError as refused:
            raise _told(refused) from refused
        return answer

    def until(self, condition: Callable[[], T], what: str) -> T:
        deadline = time.monotonic() + self._timeout_s
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what} did not come within {self._timeout_s:g} s"
            time.sleep(self._poll_s)
        return value

    def launch_request(self) -> dict[str, Any]:
        return json.loads(json.dumps(self._request))


Door = VirtualDoor | BotoDoor
"""One way to an EMR: API calls in boto3's shapes (they raise Refused), and time that passes."""


def _told(refused: ClientError) -> Refused:
    error = refused.response["Error"]
    return Refused(str(error["Code"]), str(error["Message"]))


@contextmanager
def opened(name: str, root: Path) -> Iterator[Door]:
    """A door by its name, closed behind."""
    match name:
        case "virtual":
            door = VirtualDoor()
            try:
                yield door
            finally:
                door.close()
        case "http":
            endpoint = LocalEndpoint(
                ServerOptions(root=root, model=OPTIONS, runner=RunnerOptions(kill_grace_s=0.5))
            )
            endpoint.start()
            try:
                args = ReadyInfo(**endpoint.ready_info(), pid=0).client_args()
                client = boto3.client("emr", **args, config=Config(retries={"total_max_attempts": 1}))
                yield BotoDoor(client, launch_request(), poll_s=0.05, timeout_s=60)
            finally:
                endpoint.close()
        case "aws":
            request = json.loads(Path(os.environ["EMR_CONTRACT_CLUSTER"]).read_text())
            patient = Config(retries={"mode": "adaptive", "total_max_attempts": 10})
            yield BotoDoor(boto3.client("emr", config=patient), request, poll_s=5, timeout_s=1800)


@contextmanager
def launched(door: Door) -> Iterator[str]:
    """One cluster with two slots that ends by itself when idle; terminated behind, whatever happened."""
    request = door.launch_request()
    request["Name"] = f"emr-executor-contract/{uuid.uuid4()}"
    request["StepConcurrencyLevel"] = 2
    request["AutoTerminationPolicy"] = {"IdleTimeout": 600}
    request["Tags"] = [*request.get("Tags", ()), {"Key": "purpose", "Value": "contract"}]
    request["Instances"]["KeepJobFlowAliveWhenNoSteps"] = True
    request["Instances"]["TerminationProtected"] = False
    cluster_id = str(door.call("RunJobFlow", **request)["JobFlowId"])
    try:
        yield cluster_id
    finally:
        door.call("TerminateJobFlows", JobFlowIds=[cluster_id])

"""An aiobotocore-shaped client of the simulated EMR: its answers, its refusals, and its silences.

The production ``aws.emr.EmrClient`` runs on it unchanged. What becomes of a call is drawn by the caller's
weather; a stale read is reckoned from the times in the fresh answer, so no history has to be kept.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from emr_executor.local.faults import TokenBucket
from emr_executor.local.requests import EmrApiError
from emr_executor.simulation.cloud import Cloud
from emr_executor.simulation.weather import Weather

READ_TIMEOUT_S = 60.0
"""As ``aws.session``: how long a client waits for an answer that never comes."""
URL = "https://elasticmapreduce.simulated"


class CloudClient:
    """One agent's client. Without retries of its own: for reads the agent's next look is the retry."""

    def __init__(self, cloud: Cloud, weather: Weather, rng: random.Random, limits: CallLimits) -> None:
        self._cloud, self._weather, self._rng, self._limits = cloud, weather, rng, limits

    async def run_job_flow(self, **request: Any) -> dict[str, Any]:
        return await self._call("RunJobFlow", request)

    async def add_job_flow_steps(self, **request: Any) -> dict[str, Any]:
        return await self._call("AddJobFlowSteps", request)

    async def cancel_steps(self, **request: Any) -> dict[str, Any]:
        return await self._call("CancelSteps", request)

    async def terminate_job_flows(self, **request: Any) -> dict[str, Any]:
        return await self._call("TerminateJobFlows", request)

    async def list_steps(self, **request: Any) -> dict[str, Any]:
        answer = await self._call("ListSteps", request)
        as_of = self._as_of()
        shown = (_as_boto(step) for step in answer["Steps"] if _is_there(step, as_of))
        return {**answer, "Steps": [_step_as_of(step, as_of) for step in shown]}

    async def list_clusters(self, **request: Any) -> dict[str, Any]:
        # States are filtered here: a stale answer filters by stale states.
        states = request.pop("ClusterStates", None)
        if (after := request.get("CreatedAfter")) is not None:
            request["CreatedAfter"] = after.timestamp()
        answer = await self._call("ListClusters", request)
        as_of = self._as_of()
        shown = [
            _cluster_as_of(_as_boto(cluster), as_of)
            for cluster in answer["Clusters"]
            if _is_there(cluster, as_of)
        ]
        kept = [cluster for cluster in shown if not states or cluster["Status"]["State"] in states]
        return {**answer, "Clusters": kept}

    async def describe_cluster(self, **request: Any) -> dict[str, Any]:
        answer = await self._call("DescribeCluster", request)
        as_of = self._as_of()
        if not _is_there(answer["Cluster"], as_of):
            text = f"Cluster id '{request['ClusterId']}' is not valid."
            raise _refusal("DescribeCluster", "InvalidRequestException", text, 400)
        return {"Cluster": _cluster_as_of(_as_boto(answer["Cluster"]), as_of)}

    def _as_of(self) -> float | None:
        if not self._weather.happens("stale", "emr", self._rng):
            return None
        return self._cloud.now_s - self._rng.uniform(0.0, self._weather.stale_s)

    async def _call(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        weather, rng = self._weather, self._rng
        if "emr" in weather.down or weather.happens("dropped_before", "emr", rng):
            raise EndpointConnectionError(endpoint_url=URL)
        if weather.happens("throttled", "emr", rng) or not self._limits.allow(operation):
            raise _refusal(operation, "ThrottlingException", "Rate exceeded", 400)
        if weather.happens("emr_error", "emr", rng):
            raise _refusal(operation, "InternalServerException", "simulated", 500)
        try:
            answer = self._cloud.call(operation, request)
        except EmrApiError as error:
            raise _refusal(operation, error.code, error.message, 400) from error
        if weather.happens("dropped_after", "emr", rng):
            await asyncio.sleep(rng.choice((0.1, READ_TIMEOUT_S)))
            raise ReadTimeoutError(endpoint_url=URL)
        return answer


class CallLimits:
    """EMR's own token buckets, shared by all clients of the account."""

    def __init__(self, cloud: Cloud, weather: Weather, rates: Mapping[str, tuple[float, float]]) -> None:
        self._cloud, self._weather = cloud, weather
        now = cloud.now_s
        self._buckets = {
            name: TokenBucket(size=size, refill=refill, level=size, at=now)
            for name, (size, refill) in rates.items()
        }

    def allow(self, operation: str) -> bool:
        """Whether a call that arrives now is taken."""
        bucket = self._buckets.get(operation)
        if bucket is None or not self._weather.buckets or self._weather.is_calm:
            return True
        return bucket.take(self._cloud.now_s)


def _refusal(operation: str, code: str, message: str, status: int) -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, operation)


def _timeline(entity: Mapping[str, Any]) -> dict[str, Any]:
    timeline: dict[str, Any] = entity["Status"]["Timeline"]
    return timeline


def _is_there(entity: Mapping[str, Any], as_of: float | None) -> bool:
    return as_of is None or _timeline(entity)["CreationDateTime"] <= as_of


def _as_boto(entity: dict[str, Any]) -> dict[str, Any]:
    timeline = {name: datetime.fromtimestamp(at, UTC) for name, at in _timeline(entity).items()}
    return {**entity, "Status": {**entity["Status"], "Timeline": timeline}}


def _step_as_of(step: dict[str, Any], as_of: float | None) -> dict[str, Any]:
    if as_of is None:
        return step
    timeline = _known_then(step, as_of)
    if "EndDateTime" in timeline:
        return step
    state = "RUNNING" if "StartDateTime" in timeline else "PENDING"
    return {**step, "Status": {"State": state, "StateChangeReason": {}, "Timeline": timeline}}


def _cluster_as_of(cluster: dict[str, Any], as_of: float | None) -> dict[str, Any]:
    if as_of is None:
        return cluster
    timeline = _known_then(cluster, as_of)
    if "EndDateTime" in timeline or cluster["Status"]["State"] == "TERMINATING":
        return cluster
    if "ReadyDateTime" in timeline:
        now = cluster["Status"]["State"]
        state = now if now in ("RUNNING", "WAITING") else "TERMINATING"
    else:
        state = "STARTING"
    return {**cluster, "Status": {"State": state, "StateChangeReason": {}, "Timeline": timeline}}


def _known_then(entity: Mapping[str, Any], as_of: float) -> dict[str, Any]:
    then = datetime.fromtimestamp(as_of, UTC)
    return {name: at for name, at in _timeline(entity).items() if at <= then}

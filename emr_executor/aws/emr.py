"""``ports.EmrApi`` over aiobotocore: every call waits for its token, and fails in our errors only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import structlog

from emr_executor.aws import translate
from emr_executor.aws.budget import Budget
from emr_executor.core.model import ClusterId, ObservedCluster, StepId, StepPage
from emr_executor.core.states import ClusterState, StepState
from emr_executor.errors import AwsUnavailable, ClusterGone, EmrExecutorError
from emr_executor.ports import NewStep

LIVING_CLUSTER_STATES = ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING", "TERMINATING")
OVER_CLUSTER_STATES = ("TERMINATED", "TERMINATED_WITH_ERRORS")
CANCEL_BATCH = 256
TERMINATE_BATCH = 10
"""Ids of one CancelSteps and of one TerminateJobFlows (botocore emr 2009-03-31)."""
ADD_ANSWER_S = 10.0
"""An answer to AddJobFlowSteps that takes longer is not waited for: the same steps can be added again."""

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class EmrClient:
    """One region's EMR.

    client: an aiobotocore EMR client in standard retry mode
    once: another one that never repeats a call, for RunJobFlow and AddJobFlowSteps
    credentials_refused: called when AWS did not accept the credentials, before our error is raised
    """

    def __init__(
        self,
        client: Any,
        once: Any,
        budget: Budget,
        credentials_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._client, self._once, self.budget = client, once, budget
        self._credentials_refused = credentials_refused
        self._told_unknown: set[str] = set()

    async def run_job_flow(self, request: Mapping[str, Any], *, within_s: float) -> ClusterId:
        """Launch a cluster; never repeated inside. See ``ports.EmrApi``."""
        answer = await self._call("RunJobFlow", self._once.run_job_flow, dict(request), within_s=within_s)
        return ClusterId(self._read("RunJobFlow", lambda: translate.text_of(answer, "JobFlowId")))

    async def add_steps(
        self, cluster_id: ClusterId, steps: Sequence[NewStep], *, within_s: float
    ) -> tuple[StepId, ...]:
        """Add steps in one call, in order; never repeated inside. See ``ports.EmrApi``."""
        request = {"JobFlowId": cluster_id, "Steps": [_step_config(step) for step in steps]}
        answer = await self._call(
            "AddJobFlowSteps",
            self._once.add_job_flow_steps,
            request,
            cluster_id,
            within_s=within_s,
            answer_s=ADD_ANSWER_S,
        )

        def step_ids() -> tuple[StepId, ...]:
            found = tuple(StepId(str(step_id)) for step_id in translate.list_of(answer, "StepIds"))
            if len(found) != len(steps):
                raise translate.BadAnswer(f"{len(found)} StepIds for {len(steps)} steps")
            return found

        return self._read("AddJobFlowSteps", step_ids)

    async def list_steps(
        self,
        cluster_id: ClusterId,
        *,
        marker: str | None = None,
        step_ids: Sequence[StepId] = (),
        within_s: float | None = None,
    ) -> StepPage:
        """One page of steps, newest first: 50 at most. See ``ports.EmrApi``."""
        request: dict[str, Any] = {"ClusterId": cluster_id}
        if step_ids:
            request["StepIds"] = list(step_ids)
        elif marker:
            request["Marker"] = marker
        call = self._client.list_steps
        page = await self._call("ListSteps", call, request, cluster_id, within_s=within_s)
        return self._read("ListSteps", partial(self._step_page, page))

    async def cancel_steps(self, cluster_id: ClusterId, step_ids: Sequence[StepId]) -> None:
        """Ask EMR to cancel steps; a cluster that is gone has none to cancel."""
        for ids in _batches(step_ids, CANCEL_BATCH):
            request = {"ClusterId": cluster_id, "StepIds": list(ids)}
            try:
                await self._call("CancelSteps", self._client.cancel_steps, request, cluster_id)
            except ClusterGone:
                return

    async def list_clusters(
        self, *, name_prefix: str, over_since: datetime | None = None, within_s: float | None = None
    ) -> tuple[ObservedCluster, ...]:
        """Clusters whose Name has the prefix; EMR itself filters neither by name nor by tag."""
        request: dict[str, Any] = {"ClusterStates": list(LIVING_CLUSTER_STATES)}
        if over_since is not None:
            request = {"ClusterStates": list(OVER_CLUSTER_STATES), "CreatedAfter": over_since}
        found: list[ObservedCluster] = []
        call = self._client.list_clusters
        async for page in self._pages("ListClusters", call, request, within_s=within_s):
            found += self._read("ListClusters", partial(self._clusters, page, name_prefix))
        return tuple(found)

    async def describe_cluster(
        self, cluster_id: ClusterId, *, within_s: float | None = None
    ) -> ObservedCluster | None:
        """One cluster, or None when EMR does not know the id."""
        request = {"ClusterId": cluster_id}
        try:
            answer = await self._call(
                "DescribeCluster", self._client.describe_cluster, request, cluster_id, within_s=within_s
            )
        except ClusterGone:
            return None
        return self._read("DescribeCluster", partial(self._cluster, answer))

    async def terminate_clusters(self, cluster_ids: Sequence[ClusterId]) -> None:
        """End clusters. An id unknown to EMR spoils its whole call, which is then repeated one by one."""
        for ids in _batches(cluster_ids, TERMINATE_BATCH):
            try:
                await self._terminate(ids)
            except ClusterGone:
                for cluster_id in ids if len(ids) > 1 else ():
                    try:
                        await self._terminate((cluster_id,))
                    except ClusterGone:
                        _log.info("terminate_unknown_cluster", cluster_id=cluster_id)

    async def _terminate(self, ids: Sequence[ClusterId]) -> None:
        request = {"JobFlowIds": list(ids)}
        await self._call("TerminateJobFlows", self._client.terminate_job_flows, request, ids[0])

    async def _pages(
        self,
        operation: str,
        call: Callable[..., Any],
        request: Mapping[str, Any],
        cluster_id: ClusterId | None = None,
        *,
        within_s: float | None = None,
    ) -> AsyncIterator[Any]:
        marker: str | None = None
        seen: set[str] = set()
        while True:
            paged = {**request, "Marker": marker} if marker else dict(request)
            page = await self._call(operation, call, paged, cluster_id, within_s=within_s)
            # What was begun is worth the wait: given up half-way, it would be begun again and again.
            within_s = None
            yield page
            marker = page.get("Marker")
            if not marker:
                return
            if marker in seen:
                raise AwsUnavailable(f"{operation}: the pages of the answer go round in a circle")
            seen.add(marker)

    async def _call(
        self,
        operation: str,
        call: Callable[..., Any],
        request: Mapping[str, Any],
        cluster_id: ClusterId | None = None,
        *,
        within_s: float | None = None,
        answer_s: float | None = None,
    ) -> Mapping[str, Any]:
        await self.budget.take(operation, within_s=within_s)
        try:
            async with asyncio.timeout(answer_s):
                answer = await call(**request)
        except Exception as fault:
            if translate.is_throttle(fault):
                self.budget.throttled(operation)
            if translate.is_refused_credential(fault):
                self._credentials_refused()
            raise translate.error_of(fault, operation, cluster_id=cluster_id) from fault
        if not isinstance(answer, Mapping):
            raise translate.error_of(translate.BadAnswer("the answer is no object"), operation)
        retries = (answer.get("ResponseMetadata") or {}).get("RetryAttempts")
        self.budget.answered(operation, retries if isinstance(retries, int) else 0)
        return answer

    def _step_page(self, page: Mapping[str, Any]) -> StepPage:
        summaries = translate.list_of(page, "Steps")
        self._tell_unknown("step", translate.unknown_states(StepState, summaries))
        steps = tuple(translate.step_of(summary) for summary in summaries)
        return StepPage(steps=steps, marker=page.get("Marker") or None)

    def _clusters(self, page: Any, name_prefix: str) -> list[ObservedCluster]:
        # Filtered first: what is odd about other people's clusters is no concern of ours.
        ours = [
            summary
            for summary in translate.list_of(page, "Clusters")
            if isinstance(summary, Mapping) and str(summary.get("Name") or "").startswith(name_prefix)
        ]
        self._tell_unknown("cluster", translate.unknown_states(ClusterState, ours))
        return [translate.cluster_of(summary) for summary in ours]

    def _cluster(self, answer: Any) -> ObservedCluster:
        cluster = translate.field_of(answer, "Cluster")
        self._tell_unknown("cluster", translate.unknown_states(ClusterState, [cluster]))
        return translate.cluster_of(cluster)

    def _tell_unknown(self, what: str, words: frozenset[str]) -> None:
        for word in sorted(words - self._told_unknown):
            self._told_unknown.add(word)
            _log.warning(
                "state_unknown_to_this_release",
                what=what,
                state=word,
                advice="it counts as not over, and nothing else is concluded from it; upgrade emr_executor",
            )

    def _read(self, operation: str, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except EmrExecutorError:
            raise
        except Exception as fault:
            raise translate.error_of(fault, operation) from fault


def _batches(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _step_config(step: NewStep) -> dict[str, Any]:
    # CONTINUE is the only action that EMR takes with StepConcurrencyLevel above 1, and not its default.
    return {
        "Name": step.name,
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": step.jar, "Args": list(step.args)},
    }

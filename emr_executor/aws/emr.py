"""``ports.EmrApi`` over aiobotocore: every call waits for its token, and fails in our errors only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import structlog
from botocore import xform_name

from emr_executor.aws import translate
from emr_executor.aws.budget import Budget
from emr_executor.core.model import ClusterId, ObservedCluster, StepId, StepPage
from emr_executor.core.states import ClusterState, StepState
from emr_executor.errors import AwsUnavailable, ClusterGone
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

        def cluster_id(answer: Mapping[str, Any]) -> ClusterId:
            return ClusterId(translate.text_of(answer, "JobFlowId"))

        return await self._call("RunJobFlow", request, cluster_id, within_s=within_s)

    async def add_steps(
        self, cluster_id: ClusterId, steps: Sequence[NewStep], *, within_s: float
    ) -> tuple[StepId, ...]:
        """Add steps in one call, in order; never repeated inside. See ``ports.EmrApi``."""

        def step_ids(answer: Mapping[str, Any]) -> tuple[StepId, ...]:
            found = tuple(StepId(str(step_id)) for step_id in translate.list_of(answer, "StepIds"))
            if len(found) != len(steps):
                raise translate.BadAnswer(f"{len(found)} StepIds for {len(steps)} steps")
            return found

        request = {"JobFlowId": cluster_id, "Steps": [_step_config(step) for step in steps]}
        return await self._call("AddJobFlowSteps", request, step_ids, cluster_id, within_s=within_s)

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
        return await self._call("ListSteps", request, self._step_page, cluster_id, within_s=within_s)

    async def cancel_steps(self, cluster_id: ClusterId, step_ids: Sequence[StepId]) -> None:
        """Ask EMR to cancel steps; a cluster that is gone has none to cancel."""
        with suppress(ClusterGone):
            for ids in _batches(step_ids, CANCEL_BATCH):
                request = {"ClusterId": cluster_id, "StepIds": list(ids)}
                await self._call("CancelSteps", request, bool, cluster_id)

    async def list_clusters(
        self, *, name_prefix: str, over_since: datetime | None = None, within_s: float | None = None
    ) -> tuple[ObservedCluster, ...]:
        """Clusters whose Name has the prefix; EMR itself filters neither by name nor by tag."""
        request: dict[str, Any] = {"ClusterStates": list(LIVING_CLUSTER_STATES)}
        if over_since is not None:
            request = {"ClusterStates": list(OVER_CLUSTER_STATES), "CreatedAfter": over_since}
        found: list[ObservedCluster] = []
        markers: set[str] = set()
        read = partial(self._clusters, name_prefix)
        while True:
            clusters, marker = await self._call("ListClusters", request, read, within_s=within_s)
            found += clusters
            if not marker:
                return tuple(found)
            if marker in markers:
                raise AwsUnavailable("ListClusters: the pages of the answer go round in a circle")
            markers.add(marker)
            request["Marker"] = marker
            # What was begun is worth the wait: given up half-way, it would be begun again and again.
            within_s = None

    async def describe_cluster(
        self, cluster_id: ClusterId, *, within_s: float | None = None
    ) -> ObservedCluster | None:
        """One cluster, or None when EMR does not know the id."""
        request = {"ClusterId": cluster_id}
        with suppress(ClusterGone):
            return await self._call("DescribeCluster", request, self._cluster, cluster_id, within_s=within_s)
        return None

    async def terminate_clusters(self, cluster_ids: Sequence[ClusterId]) -> None:
        """End clusters. An id unknown to EMR spoils its whole call, which is then repeated one by one."""
        for ids in _batches(cluster_ids, TERMINATE_BATCH):
            try:
                await self._call("TerminateJobFlows", {"JobFlowIds": list(ids)}, bool, ids[0])
            except ClusterGone:
                if len(ids) > 1:
                    for cluster_id in ids:
                        await self.terminate_clusters([cluster_id])
                else:
                    _log.info("terminate_unknown_cluster", cluster_id=ids[0])

    async def _call(
        self,
        operation: str,
        request: Mapping[str, Any],
        read: Callable[[Mapping[str, Any]], _T],
        cluster_id: ClusterId | None = None,
        *,
        within_s: float | None = None,
    ) -> _T:
        """What ``read`` makes of the answer."""
        await self.budget.take(operation, within_s=within_s)
        client = self._once if operation in translate.UNREPEATABLE else self._client
        answer_s = ADD_ANSWER_S if operation == "AddJobFlowSteps" else None
        try:
            async with asyncio.timeout(answer_s):
                answer = await getattr(client, xform_name(operation))(**request)
            if not isinstance(answer, Mapping):
                raise translate.BadAnswer("the answer is no object")
            retries = (answer.get("ResponseMetadata") or {}).get("RetryAttempts")
            self.budget.answered(operation, retries if isinstance(retries, int) else 0)
            return read(answer)
        except Exception as fault:
            if translate.code_of(fault) in translate.THROTTLED_CODES:
                self.budget.throttled(operation)
            if translate.is_refused_credential(fault):
                self._credentials_refused()
            raise translate.error_of(fault, operation, cluster_id=cluster_id) from fault

    def _step_page(self, page: Mapping[str, Any]) -> StepPage:
        summaries = translate.list_of(page, "Steps")
        self._tell_unknown("step", StepState, summaries)
        steps = tuple(translate.step_of(summary) for summary in summaries)
        return StepPage(steps=steps, marker=page.get("Marker") or None)

    def _clusters(self, prefix: str, page: Mapping[str, Any]) -> tuple[list[ObservedCluster], str | None]:
        # Filtered first: what is odd about other people's clusters is no concern of ours.
        ours = [
            summary
            for summary in translate.list_of(page, "Clusters")
            if isinstance(summary, Mapping) and str(summary.get("Name") or "").startswith(prefix)
        ]
        self._tell_unknown("cluster", ClusterState, ours)
        return [translate.cluster_of(summary) for summary in ours], page.get("Marker")

    def _cluster(self, answer: Mapping[str, Any]) -> ObservedCluster:
        cluster = translate.field_of(answer, "Cluster")
        self._tell_unknown("cluster", ClusterState, [cluster])
        return translate.cluster_of(cluster)

    def _tell_unknown(
        self, what: str, kind: type[StepState | ClusterState], summaries: Sequence[Any]
    ) -> None:
        for word in sorted(translate.unknown_states(kind, summaries) - self._told_unknown):
            self._told_unknown.add(word)
            _log.warning(
                "state_unknown_to_this_release",
                what=what,
                state=word,
                advice="it counts as not over, and nothing else is concluded from it; upgrade emr_executor",
            )


def _batches(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _step_config(step: NewStep) -> dict[str, Any]:
    # CONTINUE is the only action that EMR takes with StepConcurrencyLevel above 1, and not its default.
    return {
        "Name": step.name,
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": step.jar, "Args": list(step.args)},
    }

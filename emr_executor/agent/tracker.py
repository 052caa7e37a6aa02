"""What became of steps and clusters: step records, ListSteps sweeps and ListClusters polls.

Two truths: the wrapper's records in S3, seen within seconds and without any EMR call, and
ListSteps under its tiny budget, for slots and for steps whose wrapper is silent. Never
DescribeStep. News is folded into the desk (``core.observe``) and settled (``core.settle``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import structlog

from emr_executor.agent.desk import Desk
from emr_executor.agent.settling import Settling
from emr_executor.agent.tasklog import driver_lines
from emr_executor.aws.launch import cluster_name_prefix, cluster_uuid_of_name
from emr_executor.aws.step import submission_of_step_name
from emr_executor.config import Settings
from emr_executor.core.model import (
    Cluster,
    ClusterId,
    ClusterUuid,
    ObservedCluster,
    StepRecord,
    Submission,
    WorkloadId,
)
from emr_executor.core.observe import observe_cluster, observe_idleness, observe_record, observe_step
from emr_executor.core.states import (
    OVER_CLUSTER_STATES,
    USABLE_CLUSTER_STATES,
    ClusterState,
    ClusterTarget,
    SubmissionState,
)
from emr_executor.errors import ClusterGone, TryAgain
from emr_executor.ports import Clock, EmrApi, StepRecords

FIRST_PAGE = 50
"""ListSteps gives 50 a page, newest first (botocore emr): one call mostly shows every live step."""
QUICK_LOOK_S = 5.0
"""How soon ListSteps is asked again where a sweep is the only way to know more."""
STEP_UNKNOWN = timedelta(seconds=30)
"""A step that a complete ListSteps does not show after this was never added: EMR's reads lag less."""
CREATED_MARGIN = timedelta(minutes=10)
"""EMR's clock and ours may differ by this much in ListClusters' CreatedAfter."""

log = structlog.get_logger(__name__)


class Tracker:
    """Brings a desk up to date with what S3 and EMR show. Each look keeps to its own cadence."""

    def __init__(
        self,
        *,
        emr: EmrApi,
        records: StepRecords,
        settling: Settling,
        clock: Clock,
        settings: Settings,
        deployment_id: str,
        masks: Mapping[WorkloadId, tuple[str, ...]],
    ) -> None:
        self._emr, self._records, self._settling = emr, records, settling
        self._clock, self._settings = clock, settings
        self._deployment_id, self._masks = deployment_id, masks
        self._due: dict[str, float] = {}

    async def look(self, desk: Desk) -> None:
        """Records, clusters and steps, each when due; then settle what can be settled."""
        for part in (self._look_at_records, self._look_at_clusters, self._look_at_steps):
            try:
                await part(desk)
            except TryAgain as error:
                log.warning("look_failed", part=part.__name__, error=str(error))
        now = self._clock.now()
        for cluster in list(desk.clusters.values()):
            live = len(desk.live_on(cluster.cluster_uuid))
            desk.put(observe_idleness(cluster, live_submissions=live, now=now))
        self._settling.settle_all(desk, now=now)

    def forget(self, cluster_uuids: set[ClusterUuid]) -> None:
        """Drop the cadence of clusters that are over."""
        for key in [key for key in self._due if key.removeprefix("steps/") in cluster_uuids]:
            del self._due[key]

    def _is_due(self, what: str, interval_s: float) -> bool:
        now = self._clock.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + interval_s
        return True

    # -- records ---------------------------------------------------------------------------------

    async def _look_at_records(self, desk: Desk) -> None:
        live = {s.submission_id: s for s in desk.submissions.values() if s.is_live}
        if not live or not self._is_due("records", self._settings.records_interval_s):
            return
        known = {submission_id: s.record_mark or "" for submission_id, s in live.items()}
        changed = await self._records.changed(known)
        news = [record for record in changed if record.submission_id in live.keys() - desk.busy]
        await asyncio.gather(*(self._apply_record(desk, live[r.submission_id], r) for r in news))

    async def _apply_record(self, desk: Desk, submission: Submission, record: StepRecord) -> None:
        output = await self._new_output(submission, record.chunks)
        chunks = submission.output_chunks + len(output)
        now = self._clock.now()
        seen = observe_record(submission, record, now=now)
        if chunks < record.chunks:
            # Not all output could be read yet: the same record is looked at again.
            seen = submission
        self._settling.started(desk, submission, replace(seen, output_chunks=chunks), now=now)
        workload = desk.workloads.get(submission.workload_id)
        if workload is not None:
            masks = self._masks.get(workload.workload_id, ())
            desk.quote(workload, driver_lines(now, b"".join(output), masks=masks))

    async def _new_output(self, submission: Submission, chunks: int) -> list[bytes]:
        output: list[bytes] = []
        while submission.output_chunks + len(output) < chunks:
            chunk = await self._records.output(
                submission.submission_id, submission.output_chunks + len(output) + 1
            )
            if chunk is None:
                break
            output.append(chunk)
        return output

    # -- clusters --------------------------------------------------------------------------------

    async def _look_at_clusters(self, desk: Desk) -> None:
        clusters = [c for c in desk.clusters.values() if c.state not in OVER_CLUSTER_STATES]
        if not clusters or not self._is_due("clusters", self._settings.cluster_poll_interval_s):
            return
        seen = await self._emr.list_clusters(
            created_after=min(c.intended_at for c in clusters) - CREATED_MARGIN,
            name_prefix=cluster_name_prefix(self._deployment_id),
        )
        by_uuid: dict[ClusterUuid, ObservedCluster] = {}
        for one in seen:
            cluster_uuid = cluster_uuid_of_name(self._deployment_id, one.name)
            if cluster_uuid is not None:
                by_uuid[cluster_uuid] = one
        for cluster in clusters:
            if cluster.cluster_uuid in desk.busy:
                continue
            observed = by_uuid.get(cluster.cluster_uuid)
            if observed is None:
                await self._missing(desk, cluster)
            else:
                now = self._clock.now()
                after = observe_cluster(cluster, observed, now=now)
                self._settling.cluster_seen(desk, cluster, after, now=now)
        self._adopt_late_launches(desk, by_uuid)

    async def _missing(self, desk: Desk, cluster: Cluster) -> None:
        now = self._clock.now()
        pool = self._settings.pool_named(cluster.cluster_pool)
        patience_s = pool.launch_unknown_s if pool else QUICK_LOOK_S
        if (now - cluster.intended_at).total_seconds() < patience_s:
            return
        if cluster.cluster_id is None:
            gone = replace(
                cluster,
                state=ClusterState.NEVER_LAUNCHED,
                ended_at=now,
                reason=f"EMR showed no such cluster within launch_unknown ({patience_s:g} s)",
            )
            self._settling.cluster_seen(desk, cluster, gone, now=now)
            return
        observed = await self._emr.describe_cluster(cluster.cluster_id)
        if observed is not None:
            self._settling.cluster_seen(desk, cluster, observe_cluster(cluster, observed, now=now), now=now)
            return
        over = replace(
            cluster,
            state=ClusterState.TERMINATED_WITH_ERRORS,
            ended_at=now,
            reason="EMR no longer knows the cluster",
        )
        self._settling.cluster_seen(desk, cluster, over, now=now)

    def _adopt_late_launches(self, desk: Desk, by_uuid: Mapping[ClusterUuid, ObservedCluster]) -> None:
        for cluster_uuid, observed in by_uuid.items():
            row = desk.clusters.get(cluster_uuid)
            if row is None and observed.state in USABLE_CLUSTER_STATES:
                log.warning("cluster_without_a_row", cluster_id=observed.cluster_id, name=observed.name)
            elif row is not None and row.state is ClusterState.NEVER_LAUNCHED:
                # Given up, and there after all: it is ours, so it is ended.
                desk.put(
                    replace(
                        row,
                        state=observed.state,
                        cluster_id=observed.cluster_id,
                        target=ClusterTarget.END,
                        ended_at=None,
                    )
                )

    # -- steps -----------------------------------------------------------------------------------

    async def _look_at_steps(self, desk: Desk) -> None:
        for cluster in list(desk.clusters.values()):
            live = [s for s in desk.live_on(cluster.cluster_uuid) if s.submission_id not in desk.busy]
            if not live or cluster.cluster_id is None or cluster.state in OVER_CLUSTER_STATES:
                continue
            quick = any(map(self._needs_a_sweep, live))
            interval_s = QUICK_LOOK_S if quick else self._settings.sweep_interval_s
            key = f"steps/{cluster.cluster_uuid}"
            if quick:
                soon = self._clock.monotonic() + QUICK_LOOK_S
                self._due[key] = min(self._due.get(key, 0.0), soon)
            if self._is_due(key, interval_s):
                await self._sweep(desk, cluster.cluster_id, live)

    def _needs_a_sweep(self, submission: Submission) -> bool:
        if submission.state is SubmissionState.INTENDED or submission.cancel_asked_at is not None:
            return True
        return submission.wrapper_ended and submission.wrapper_reason == "terminated"

    async def _sweep(self, desk: Desk, cluster_id: ClusterId, live: list[Submission]) -> None:
        wanted = {submission.submission_id: submission for submission in live}
        try:
            steps = await self._emr.list_steps(cluster_id, limit=FIRST_PAGE)
            found = {submission_of_step_name(step.name): step for step in steps}
            if len(steps) >= FIRST_PAGE and not wanted.keys() <= found.keys():
                steps = await self._emr.list_steps(cluster_id)
                found = {submission_of_step_name(step.name): step for step in steps}
        except ClusterGone:
            return
        now = self._clock.now()
        for submission_id, submission in wanted.items():
            step = found.get(submission_id)
            if step is not None:
                self._settling.started(desk, submission, observe_step(submission, step, now=now), now=now)
            elif submission.step_id is None and now - submission.intended_at > STEP_UNKNOWN:
                self._settling.never_added(desk, submission, "EMR never showed the step", now=now)

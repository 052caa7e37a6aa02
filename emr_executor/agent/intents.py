"""What a plan decides, written into the tick's state: each act's intent before the act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from emr_executor.agent.emr_actions import EmrActions
from emr_executor.agent.quarantine import is_free
from emr_executor.agent.surroundings import Surroundings
from emr_executor.agent.tick_state import TickState
from emr_executor.aws.launch import cluster_name
from emr_executor.core.fact_ages import Fact, FactKey
from emr_executor.core.model import (
    Cluster,
    ClusterPoolLimits,
    ClusterUuid,
    Submission,
    SubmissionId,
    Workload,
    WorkloadId,
    submission_id_of,
)
from emr_executor.core.moving import Move
from emr_executor.core.plan import Cancel, Plan
from emr_executor.core.scaling import Launch, Retarget
from emr_executor.core.states import ClusterState, ClusterTarget, SubmissionState
from emr_executor.core.workload import WorkloadMove, cancelled, placed, waited_too_long


class Acts:
    """The acts of one tick, to be started when their intents are saved."""

    def __init__(self) -> None:
        self.launches: list[ClusterUuid] = []
        self.placements: dict[ClusterUuid, list[tuple[WorkloadId, SubmissionId]]] = {}
        self.again: dict[ClusterUuid, list[tuple[WorkloadId, SubmissionId]]] = {}
        self.cancels: dict[ClusterUuid, list[SubmissionId]] = {}
        self.ends: list[ClusterUuid] = []

    def run(self, lease_token: int, tick: TickState, actions: EmrActions, intended_at: float) -> None:
        """Start every act with the values as they were saved; none of a row that is in quarantine since."""
        for cluster_uuid in self.launches:
            if is_free(cluster := tick.clusters.get(cluster_uuid)):
                actions.launch(lease_token, cluster, intended_at)
        added = [(False, *of) for of in self.placements.items()] + [(True, *of) for of in self.again.items()]
        for again, cluster_uuid, placements in added:
            pairs: list[tuple[Workload, Submission]] = [
                (workload, submission)
                for workload_id, submission_id in placements
                if is_free(workload := tick.workloads.get(workload_id))
                and is_free(submission := tick.submissions.get(submission_id))
            ]
            if pairs:
                actions.add_steps(lease_token, tick.clusters[cluster_uuid], pairs, intended_at, again=again)
        for cluster_uuid, submission_ids in self.cancels.items():
            cluster_id = tick.clusters[cluster_uuid].cluster_id
            asked = [s for one in submission_ids if is_free(s := tick.submissions.get(one))]
            steps = [submission.step_id for submission in asked if submission.step_id is not None]
            if cluster_id is not None and steps:
                actions.cancel(cluster_id, steps)
        ends = [c.cluster_id for one in self.ends if is_free(c := tick.clusters.get(one))]
        actions.terminate([cluster_id for cluster_id in ends if cluster_id is not None])


class Intents:
    """Writes the intents of one agent.

    asked: requests of this agent's own, that are not repeated at once
    """

    def __init__(self, limits: Mapping[str, ClusterPoolLimits], around: Surroundings) -> None:
        self._limits, self._deployment_id, self._new_id = limits, around.deployment_id, around.new_id
        self.asked: set[FactKey] = set()

    def write(self, tick: TickState, decided: Plan, now: datetime) -> Acts:
        """Write what is decided into the tick's state; the acts to start when that is saved."""
        acts = Acts()
        for launch in decided.launch:
            acts.launches.extend(self._intend_launch(tick, launch, now))
        for placement in decided.place:
            for workload_id in placement.workload_ids:
                with tick.confined(tick.workloads[workload_id]):
                    pair = self._intend_step(tick, workload_id, placement.cluster_uuid, now)
                    acts.placements.setdefault(placement.cluster_uuid, []).append(pair)
        for cancel in decided.cancel:
            with tick.confined(tick.submissions[cancel.submission_id]):
                self._intend_cancel(tick, cancel, acts, now)
        for move in decided.move:
            with tick.confined(tick.submissions[move.submission_id]):
                self._intend_cancel(tick, move, acts, now)
        for submission_id in decided.runs_on:
            with tick.confined(tick.submissions[submission_id]):
                self._let_run(tick, submission_id, now)
        for change in decided.retarget:
            with tick.confined(tick.clusters[change.cluster_uuid]):
                self._retarget(tick, change, now)
        for cluster_uuid in decided.end:
            tick.put(replace(tick.clusters[cluster_uuid], end_asked_at=now))
            self.asked.add((Fact.END_ASKED, cluster_uuid))
            acts.ends.append(cluster_uuid)
        for workload_id in decided.drop:
            workload = tick.workloads[workload_id]
            with tick.confined(workload):
                self._move(tick, cancelled(workload, now=now), now)
        for workload_id in decided.expire:
            workload = tick.workloads[workload_id]
            timeout_s = self._limits[workload.cluster_pool].queue_timeout_s or 0.0
            with tick.confined(workload):
                self._move(tick, waited_too_long(workload, queue_timeout_s=timeout_s), now)
        return acts

    def _intend_launch(self, tick: TickState, launch: Launch, now: datetime) -> list[ClusterUuid]:
        pool = self._limits[launch.cluster_pool]
        launched = []
        for _ in range(launch.count):
            cluster_uuid = ClusterUuid(self._new_id())
            cluster = Cluster(
                cluster_uuid=cluster_uuid,
                cluster_pool=pool.cluster_pool,
                name=cluster_name(self._deployment_id, pool.cluster_pool, cluster_uuid),
                template_hash=pool.template_hash,
                slots=pool.slots,
                state=ClusterState.INTENDED,
                intended_at=now,
            )
            tick.put(cluster)
            tick.add_history(now, "cluster", cluster_uuid, "launching", f"launching a cluster: {launch.why}")
            launched.append(cluster_uuid)
        return launched

    def _intend_step(
        self, tick: TickState, workload_id: WorkloadId, cluster_uuid: ClusterUuid, now: datetime
    ) -> tuple[WorkloadId, SubmissionId]:
        workload, cluster = placed(tick.workloads[workload_id]), tick.clusters[cluster_uuid]
        submission = Submission(
            submission_id=submission_id_of(workload_id, workload.submissions),
            workload_id=workload_id,
            n=workload.submissions,
            cluster_uuid=cluster_uuid,
            state=SubmissionState.INTENDED,
            intended_at=now,
        )
        tick.put(workload)
        tick.put(submission)
        where = f"submission {submission.n} on {cluster.cluster_id}"
        tick.add_history(now, "workload", workload_id, "placed", where)
        return workload_id, submission.submission_id

    def _retarget(self, tick: TickState, change: Retarget, now: datetime) -> None:
        cluster = tick.clusters[change.cluster_uuid]
        tick.put(replace(cluster, target=change.target))
        event = "draining" if change.target is ClusterTarget.DRAIN else "ending"
        text = f"{event} {cluster.cluster_id}: {change.why}"
        tick.add_history(now, "cluster", cluster.cluster_uuid, event, text)

    def _intend_cancel(self, tick: TickState, cancel: Cancel | Move, acts: Acts, now: datetime) -> None:
        submission = tick.submissions[cancel.submission_id]
        cluster = tick.clusters.get(submission.cluster_uuid)
        if cluster is None or cluster.cluster_id is None:
            return
        self.asked.add((Fact.CANCEL_ASKED, submission.submission_id))
        is_move, workload = isinstance(cancel, Move), tick.workloads.get(submission.workload_id)
        timed_out = submission.timed_out or (isinstance(cancel, Cancel) and cancel.timed_out)
        asked = replace(submission, cancel_asked_at=now, timed_out=timed_out)
        if workload is not None:
            if workload.is_under_way and not timed_out:
                # What becomes of the step tells why it was cancelled.
                asked = replace(asked, cause=cancel.why)
            verb = "moving" if is_move else "cancelling"
            text = f"{verb} step {submission.step_id} from {cluster.cluster_id}: {cancel.why}"
            tick.log_line(now, workload, text, level="info" if is_move else "warning")
        tick.put(asked)
        tick.add_history(
            now, "submission", submission.submission_id, "moving" if is_move else "cancelling", cancel.why
        )
        acts.cancels.setdefault(cluster.cluster_uuid, []).append(submission.submission_id)

    def _let_run(self, tick: TickState, submission_id: SubmissionId, now: datetime) -> None:
        submission = tick.submissions[submission_id]
        tick.put(replace(submission, cancel_asked_at=None, cause=""))
        text = f"step {submission.step_id} had begun before it was cancelled: it runs on"
        tick.add_history(now, "submission", submission_id, "runs_on", text)
        if workload := tick.workloads.get(submission.workload_id):
            tick.log_line(now, workload, text)

    def _move(self, tick: TickState, move: WorkloadMove, now: datetime) -> None:
        tick.put(move.workload)
        tick.log_line(now, move.workload, move.text, level="warning")
        tick.add_history(now, "workload", move.workload.workload_id, move.event, move.text)

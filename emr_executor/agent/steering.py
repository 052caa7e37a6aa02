"""The tick of the one agent that steers: read, look, decide, write the intent, act."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime

import structlog

from emr_executor.agent.emr_actions import EmrActions
from emr_executor.agent.launch_backoff import LaunchBackoff
from emr_executor.agent.outcomes import Outcomes
from emr_executor.agent.placement_backoff import PlacementBackoff
from emr_executor.agent.quarantine import is_free
from emr_executor.agent.stale import StaleWatch
from emr_executor.agent.tick_state import TickState
from emr_executor.agent.tracker import Tracker
from emr_executor.agent.waiting_lines import WaitingLines
from emr_executor.aws.launch import cluster_name
from emr_executor.config import Settings
from emr_executor.core.contradictions import contradictions
from emr_executor.core.fact_ages import Ages, Fact, FactKey, facts_of, of_others
from emr_executor.core.model import (
    Cluster,
    ClusterPoolLimits,
    ClusterUuid,
    Snapshot,
    Submission,
    SubmissionId,
    Workload,
    WorkloadId,
    submission_id_of,
)
from emr_executor.core.moving import Move
from emr_executor.core.observe import sent_again
from emr_executor.core.placement import Waiting, WaitKind
from emr_executor.core.plan import Cancel, Plan, culprit, plan
from emr_executor.core.scaling import Launch, Retarget
from emr_executor.core.states import (
    USABLE_CLUSTER_STATES,
    ClusterState,
    ClusterTarget,
    SubmissionState,
    WorkloadTarget,
)
from emr_executor.core.waiting import Holds, reasons
from emr_executor.core.workload import WorkloadMove, cancelled, placed, waited_too_long
from emr_executor.errors import TryAgain
from emr_executor.ports import Clock, StepRecords, TaskLog
from emr_executor.store.protocols import AgentFace

READY_LIMIT = 1000
"""READY workloads looked at in one tick; the rest is counted."""

log = structlog.get_logger(__name__)


def limits_of(settings: Settings) -> dict[str, ClusterPoolLimits]:
    """What ``plan`` needs to know of each cluster pool."""
    return {
        pool.name: ClusterPoolLimits(
            cluster_pool=pool.name,
            max_clusters=pool.max_clusters,
            min_clusters=pool.min_clusters,
            idle_timeout_s=pool.idle_timeout_s,
            slots=pool.slots,
            prefetch=pool.prefetch,
            max_submissions=pool.max_submissions,
            queue_timeout_s=pool.queue_timeout_s,
            template_hash=pool.template_hash,
            launch_unknown_s=pool.launch_unknown_s,
        )
        for pool in settings.cluster_pools
    }


class Steering:
    """One tick at a time; every write carries the lease's token.

    held: why nothing may be launched or placed now, as while EMR is away; None: nothing is in the way
    told_holds: what was not asked of EMR in the last tick, for people
    """

    def __init__(
        self,
        *,
        store: AgentFace,
        tracker: Tracker,
        outcomes: Outcomes,
        actions: EmrActions,
        holds: LaunchBackoff,
        placing: PlacementBackoff,
        records: StepRecords,
        task_log: TaskLog,
        clock: Clock,
        limits: Mapping[str, ClusterPoolLimits],
        deployment_id: str,
        new_cluster_uuid: Callable[[], ClusterUuid],
        loss_hold_s: float,
        waiting_lines: WaitingLines,
        held: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._store, self._tracker, self._outcomes, self._actions = store, tracker, outcomes, actions
        self._holds, self._placing = holds, placing
        self._records, self._task_log, self._clock = records, task_log, clock
        self._limits, self._deployment_id = dict(limits), deployment_id
        self._new_cluster_uuid, self._held = new_cluster_uuid, held
        self._loss_hold_s, self._waiting_lines, self.told_holds = loss_hold_s, waiting_lines, Holds()
        self._facts: StaleWatch[FactKey] = StaleWatch()
        self._asked: set[FactKey] = set()

    async def tick(self, lease_token: int) -> bool:
        """Bring the state up to date and do what the plan says; whether anything is alive.

        Raises StaleWriter (the lease or a row moved on: the next tick reads again) and StoreBusy.
        """
        busy = self._actions.busy
        tick = TickState(await self._store.snapshot(self._clock.now(), READY_LIMIT), busy=busy)
        facts = facts_of(tick.clusters.values(), tick.submissions.values(), busy=busy)
        self._asked &= facts.keys()
        stood_s = self._facts.look(facts, monotonic=self._clock.monotonic())
        ages = Ages(stood_s | of_others(facts, self._asked))
        await self._tracker.look(tick, ages)
        for workload, found in contradictions(tick.workloads.values(), tick.live()):
            tick.quarantine(workload, found)
        await tick.save(self._store, lease_token, self._task_log)
        await self._consume_records(tick)
        now = self._clock.now()
        snapshot = tick.snapshot(
            now,
            launch_held=self._holds.held(),
            place_held=self._placing.held(tick.clusters.keys()),
            stalled=self._tracker.stalled,
            shown=self._tracker.shown,
        )
        snapshot, decided = self._decide(tick, snapshot, ages)
        if away := self._held():
            decided = without_new(decided)
        self._tracker.look_soon(decided.look)
        after = self._write_intents(tick, decided, now)
        if not away:
            self._intend_again(tick, after, now)
        self._tell_waiting(tick, snapshot, decided, ages, away)
        intended_at = self._clock.monotonic()
        await tick.save(self._store, lease_token, self._task_log)
        after.run(lease_token, tick, self._actions, intended_at)
        return bool(tick.submissions or tick.workloads or tick.clusters)

    def _decide(self, tick: TickState, snapshot: Snapshot, ages: Ages) -> tuple[Snapshot, Plan]:
        """The plan, and of what. A bug that one workload brings out is its quarantine: all others go on."""
        try:
            return snapshot, plan(snapshot, self._limits, ages)
        except Exception as error:
            bad = culprit(snapshot, self._limits, ages)
            if bad is None:
                raise
            tick.quarantine(bad, error)
            rest = replace(snapshot, workloads=tuple(one for one in snapshot.workloads if one is not bad))
            return rest, plan(rest, self._limits, ages)

    async def _consume_records(self, tick: TickState) -> None:
        """Those whose end was saved: one that is live still, after a dropped tick, needs its record."""
        live = {submission.submission_id for submission in tick.live()}
        over = [one for one in self._outcomes.take_over() if one.submission_id not in live]
        await asyncio.gather(*map(self._consume_record, over))

    async def _consume_record(self, submission: Submission) -> None:
        try:
            await self._records.consume(submission.cluster_uuid, submission.submission_id)
        except TryAgain as error:
            log.warning("record_not_deleted", submission=submission.submission_id, error=str(error))

    def _write_intents(self, tick: TickState, decided: Plan, now: datetime) -> _Acting:
        acting = _Acting()
        for launch in decided.launch:
            acting.launches.extend(self._intend_launch(tick, launch, now))
        for placement in decided.place:
            for workload_id in placement.workload_ids:
                with tick.confined(tick.workloads[workload_id]):
                    pair = self._intend_step(tick, workload_id, placement.cluster_uuid, now)
                    acting.placements.setdefault(placement.cluster_uuid, []).append(pair)
        for cancel in decided.cancel:
            with tick.confined(tick.submissions[cancel.submission_id]):
                self._intend_cancel(tick, cancel, acting, now)
        for move in decided.move:
            with tick.confined(tick.submissions[move.submission_id]):
                self._intend_cancel(tick, move, acting, now)
        for submission_id in decided.runs_on:
            with tick.confined(tick.submissions[submission_id]):
                self._let_run(tick, submission_id, now)
        for change in decided.retarget:
            with tick.confined(tick.clusters[change.cluster_uuid]):
                self._retarget(tick, change, now)
        for cluster_uuid in decided.end:
            tick.put(replace(tick.clusters[cluster_uuid], end_asked_at=now))
            self._asked.add((Fact.END_ASKED, cluster_uuid))
            acting.ends.append(cluster_uuid)
        for workload_id in decided.drop:
            workload = tick.workloads[workload_id]
            with tick.confined(workload):
                self._move(tick, cancelled(workload, now=now), now)
        for workload_id in decided.expire:
            workload = tick.workloads[workload_id]
            timeout_s = self._limits[workload.cluster_pool].queue_timeout_s or 0.0
            with tick.confined(workload):
                self._move(tick, waited_too_long(workload, queue_timeout_s=timeout_s), now)
        return acting

    def _tell_waiting(
        self, tick: TickState, snapshot: Snapshot, decided: Plan, ages: Ages, away: str | None
    ) -> None:
        self.told_holds = Holds(
            away=away,
            launch=self._holds.told(),
            place=self._placing.told(),
            budget_until=self._placing.budget_until,
            not_ended={
                cluster.cluster_id: self._actions.not_ended[cluster.cluster_id]
                for cluster in snapshot.clusters
                if cluster.cluster_id in self._actions.not_ended
            },
        )
        found = reasons(
            snapshot,
            decided,
            self._limits,
            ages,
            self.told_holds,
            loss_hold_s=self._loss_hold_s,
            records_unseen_s=self._tracker.records_unseen_s,
        )
        self._waiting_lines.tell(tick, found, snapshot.now, monotonic=self._clock.monotonic())

    def _intend_launch(self, tick: TickState, launch: Launch, now: datetime) -> list[ClusterUuid]:
        pool = self._limits[launch.cluster_pool]
        launched = []
        for _ in range(launch.count):
            cluster_uuid = self._new_cluster_uuid()
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

    def _intend_again(self, tick: TickState, acting: _Acting, now: datetime) -> None:
        """Calls that EMR throttled, or whose answer nobody heard, and which EMR shows no effect of.

        A step that is there twice is harmless if its wrapper claims the submission. A second cluster is not:
        only what was throttled is asked for again, when EMR's reads would show it (``STALE_READ_S``).
        """
        actions, tracker = self._actions, self._tracker
        actions.throttled_launches &= tick.clusters.keys()
        actions.throttled_steps &= tick.submissions.keys()
        for cluster_uuid in sorted(tracker.unshown_clusters & actions.throttled_launches):
            cluster = tick.clusters[cluster_uuid]
            is_intended = cluster.state is ClusterState.INTENDED and cluster_uuid not in tick.busy
            if is_intended and is_free(cluster):
                tick.put(replace(cluster, intended_at=now))
                why = "launching it again: EMR throttled RunJobFlow"
                tick.add_history(now, "cluster", cluster_uuid, "launching", why)
                acting.launches.append(cluster_uuid)
        held = self._placing.held(tick.clusters.keys())
        for submission_id in sorted(tracker.unshown | actions.throttled_steps):
            submission = tick.submissions[submission_id]
            if self._may_go_again(tick, submission, held):
                tracker.unshown.discard(submission_id)
                tick.put(sent_again(submission, now=now))
                pair = submission.workload_id, submission_id
                acting.again.setdefault(submission.cluster_uuid, []).append(pair)

    def _may_go_again(self, tick: TickState, submission: Submission, held: Collection[ClusterUuid]) -> bool:
        workload = tick.workloads.get(submission.workload_id)
        cluster = tick.clusters.get(submission.cluster_uuid)
        if not (is_free(submission) and is_free(workload) and is_free(cluster)):
            return False
        return (
            submission.state is SubmissionState.INTENDED
            and submission.submission_id not in tick.busy
            and tick.claims_first(submission)
            and workload.target is WorkloadTarget.RUN
            and cluster.target is ClusterTarget.KEEP
            and cluster.state in USABLE_CLUSTER_STATES
            and cluster.cluster_uuid not in held
            and self._actions.may_send_again(submission)
        )

    def _retarget(self, tick: TickState, change: Retarget, now: datetime) -> None:
        cluster = tick.clusters[change.cluster_uuid]
        tick.put(replace(cluster, target=change.target))
        event = "draining" if change.target is ClusterTarget.DRAIN else "ending"
        text = f"{event} {cluster.cluster_id}: {change.why}"
        tick.add_history(now, "cluster", cluster.cluster_uuid, event, text)

    def _intend_cancel(self, tick: TickState, cancel: Cancel | Move, acting: _Acting, now: datetime) -> None:
        submission = tick.submissions[cancel.submission_id]
        cluster = tick.clusters.get(submission.cluster_uuid)
        if cluster is None or cluster.cluster_id is None:
            return
        self._asked.add((Fact.CANCEL_ASKED, submission.submission_id))
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
        acting.cancels.setdefault(cluster.cluster_uuid, []).append(submission.submission_id)

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


def without_new(decided: Plan) -> Plan:
    """The plan without what would begin in EMR, or end there to begin elsewhere."""
    waiting = [
        Waiting(workload_id=workload_id, kind=WaitKind.FULL)
        for placement in decided.place
        for workload_id in placement.workload_ids
    ]
    return replace(decided, launch=(), place=(), move=(), waiting=(*decided.waiting, *waiting))


class _Acting:
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

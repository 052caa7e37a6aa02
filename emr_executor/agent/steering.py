"""The tick of the one agent that steers: read, poll, decide, write the intent, act."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime

import structlog

from emr_executor.agent.decided import Decided, Ground
from emr_executor.agent.emr_actions import EmrActions
from emr_executor.agent.intents import Acts, Intents
from emr_executor.agent.launch_backoff import LaunchBackoff
from emr_executor.agent.outcomes import Outcomes
from emr_executor.agent.placement_backoff import PlacementBackoff
from emr_executor.agent.quarantine import is_free
from emr_executor.agent.record_poll import RecordPoll
from emr_executor.agent.stale import StaleWatch
from emr_executor.agent.surroundings import Surroundings
from emr_executor.agent.tick_state import TickState
from emr_executor.agent.tracker import Tracker
from emr_executor.agent.waiting_lines import READY_LIMIT, WaitingLines
from emr_executor.config import Settings
from emr_executor.core.contradictions import contradictions
from emr_executor.core.fact_ages import Ages, FactKey, facts_of, of_others
from emr_executor.core.model import (
    ClusterPoolLimits,
    ClusterUuid,
    Snapshot,
    Submission,
)
from emr_executor.core.observe import sent_again
from emr_executor.core.placement import Waiting, WaitKind
from emr_executor.core.plan import Plan, culprit, plan
from emr_executor.core.states import (
    USABLE_CLUSTER_STATES,
    ClusterState,
    ClusterTarget,
    SubmissionState,
    WorkloadTarget,
)
from emr_executor.core.waiting import Holds, reasons

DECIDE_AGAIN_S = 30.0
"""A plan is made so often, whatever stays the same: reasons to wait that came back are told again."""
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
        around: Surroundings,
        *,
        tracker: Tracker,
        outcomes: Outcomes,
        actions: EmrActions,
        holds: LaunchBackoff,
        placing: PlacementBackoff,
        records: RecordPoll,
        waiting_lines: WaitingLines,
        held: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._store, self._clock, self._task_log = around.store, around.clock, around.task_log
        self._tracker, self._outcomes, self._actions, self._records = tracker, outcomes, actions, records
        self._holds, self._placing, self._held = holds, placing, held
        self._limits, self._loss_hold_s = limits_of(around.settings), around.settings.loss_hold_s
        self._intents = Intents(self._limits, around)
        self._waiting_lines, self.told_holds = waiting_lines, Holds()
        self._facts: StaleWatch[FactKey] = StaleWatch()
        self._decided: Decided | None = None

    async def tick(self, lease_token: int) -> bool:
        """Bring the state up to date and do what the plan says; whether anything is alive.

        Where all is as it was for the last decision, and no time has come that it waits for, that one stands.
        Raises StaleWriter (the lease or a row moved on: the next tick reads again) and StoreBusy.
        """
        decided, self._decided = self._decided, None
        read = await self._store.snapshot(self._clock.now(), READY_LIMIT)
        busy, monotonic = self._actions.busy, self._clock.monotonic()
        is_same = decided is not None and decided.is_of(lease_token, read, busy)
        if decided is not None and is_same:
            tick = decided.tick
            ages = Ages(decided.ages.seconds, passed_s=monotonic - decided.compared_at)
        else:
            tick = TickState(read, busy=busy)
            ages = self._compared(tick, monotonic)
        await self._tracker.poll(tick, ages)
        is_calm = is_same and tick.is_untouched and not self._tracker.is_waiting
        if decided is not None and is_calm and decided.holds(self._ground(tick), monotonic):
            self._decided = decided
        else:
            is_open, ground = await self._decide_all(tick, ages, lease_token)
            until = -math.inf if is_open else monotonic + min(ages.same_s, DECIDE_AGAIN_S)
            self._decided = Decided(
                lease_token=lease_token,
                read=read,
                tick=tick,
                ages=ages,
                compared_at=monotonic - ages.passed_s,
                ground=ground,
                until=until,
            )
        return bool(tick.submissions or tick.workloads or tick.clusters)

    def _compared(self, tick: TickState, monotonic: float) -> Ages:
        facts = facts_of(tick.clusters.values(), tick.submissions.values(), busy=tick.busy)
        self._intents.asked &= facts.keys()
        stood_s = self._facts.look(facts, monotonic=monotonic)
        return Ages(stood_s | of_others(facts, self._intents.asked))

    def _ground(self, tick: TickState) -> Ground:
        """All that is decided from, but for rows and time."""
        return Ground(
            acts_ended=self._actions.ended,
            away=self._held(),
            launch_held=self._holds.held(),
            place_held=self._placing.held(tick.clusters.keys()),
            stalled=self._tracker.stalled,
        )

    async def _decide_all(self, tick: TickState, ages: Ages, lease_token: int) -> tuple[bool, Ground]:
        """Decide, write and act; whether more is open than time can tell, and what was decided from."""
        await self._tracker.settle(tick, ages)
        for workload, found in contradictions(tick.workloads.values(), tick.live()):
            tick.quarantine(workload, found)
        await tick.save(self._store, lease_token, self._task_log)
        # One that is live still, after a tick that was dropped, needs its record.
        live = {submission.submission_id for submission in tick.live()}
        self._records.consume(one for one in self._outcomes.take_over() if one.submission_id not in live)
        now, ground = self._clock.now(), self._ground(tick)
        snapshot = tick.snapshot(
            now,
            launch_held=ground.launch_held,
            place_held=ground.place_held,
            stalled=ground.stalled,
            shown=self._tracker.shown,
        )
        snapshot, decided = self._decide(tick, snapshot, ages)
        if ground.away:
            decided = without_new(decided)
        self._tracker.poll_soon(decided.poll)
        after = self._intents.write(tick, decided, now)
        if not ground.away:
            self._intend_again(tick, after, now)
        self._tell_waiting(tick, snapshot, decided, ages, ground.away)
        is_open = bool(
            decided.poll or self._tracker.is_waiting or self._actions.throttled_steps or tick.ending()
        )
        is_open |= any(one.cancel_asked_at is not None for one in snapshot.submissions)
        intended_at = self._clock.monotonic()
        await tick.save(self._store, lease_token, self._task_log)
        after.run(lease_token, tick, self._actions, intended_at)
        return is_open, ground

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
        monotonic = self._clock.monotonic()
        for workload_id, line in self._waiting_lines.news(found, snapshot.now, monotonic=monotonic):
            tick.log_output(tick.workloads[workload_id], [line])

    def _intend_again(self, tick: TickState, acts: Acts, now: datetime) -> None:
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
                acts.launches.append(cluster_uuid)
        held = self._placing.held(tick.clusters.keys())
        for submission_id in sorted(tracker.unshown | actions.throttled_steps):
            submission = tick.submissions[submission_id]
            if self._may_go_again(tick, submission, held):
                tracker.unshown.discard(submission_id)
                tick.put(sent_again(submission, now=now))
                pair = submission.workload_id, submission_id
                acts.again.setdefault(submission.cluster_uuid, []).append(pair)

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


def without_new(decided: Plan) -> Plan:
    """The plan without what would begin in EMR, or end there to begin elsewhere."""
    waiting = [
        Waiting(workload_id=workload_id, kind=WaitKind.FULL)
        for placement in decided.place
        for workload_id in placement.workload_ids
    ]
    return replace(decided, launch=(), place=(), move=(), waiting=(*decided.waiting, *waiting))

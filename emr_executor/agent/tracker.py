"""What became of steps: step records and ListSteps polls.

Two truths: the wrapper's records in S3, seen within seconds and without any EMR call, and
ListSteps under its tiny budget, for slots and for steps whose wrapper is silent; by id for those
that no page shows. Never DescribeStep. News is applied to the tick's state (``core.observe``) and settled
(``core.settle``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from emr_executor.agent.cadence import Cadence
from emr_executor.agent.claims import UNSEEN_S3_HOLD_S, Claims
from emr_executor.agent.cluster_tracker import POLL_WITHIN_S, ClusterTracker
from emr_executor.agent.outcomes import Outcomes
from emr_executor.agent.record_poll import RecordPoll
from emr_executor.agent.step_poll import StepPoll, by_submission, may_never_begin, needs_a_poll, one_of
from emr_executor.agent.surroundings import Surroundings
from emr_executor.agent.tick_state import TickState
from emr_executor.core.fact_ages import STALE_READ_S, Ages, Fact
from emr_executor.core.model import (
    Cluster,
    ClusterUuid,
    ObservedStep,
    Submission,
    SubmissionId,
)
from emr_executor.core.observe import observe_idleness, observe_step
from emr_executor.core.states import (
    OVER_CLUSTER_STATES,
    ClusterState,
    StepState,
    SubmissionState,
)
from emr_executor.errors import BudgetSpent, ClusterGone, StepsRefused, Throttled, TryAgain

QUICK_POLL_S = 5.0
"""How soon ListSteps is asked again where a poll is the only way to know more."""
STEP_UNKNOWN_S = 60.0
"""A step that a complete ListSteps does not show after this was never added: longer than an act may wait
before it calls (``emr_actions.ADD_WITHIN_S``), the connection takes, and EMR's reads lag, together."""

STALL_S = 300.0
"""A cluster that is up, with pending steps and none running, for this long starts none any more."""
FRESH_S = 2.0
"""A step that EMR showed PENDING may have begun since; what is cancelled for another slot must not have."""
UNWATCHED_S = STALL_S / 2
"""After such a pause between two polls, as of an agent without the lease, nobody knows what was meanwhile."""

log = structlog.get_logger(__name__)


class Tracker:
    """Brings a tick's state up to date with what S3 and EMR show. Each poll keeps to its own cadence.

    unshown: submissions whose call nobody heard the answer of, and which the last poll does not show
    """

    def __init__(
        self,
        around: Surroundings,
        records: RecordPoll,
        claims: Claims,
        clusters: ClusterTracker,
        outcomes: Outcomes,
    ) -> None:
        self._emr, self._clock, self._settings = around.emr, around.clock, around.settings
        self._records, self._claims, self._clusters, self._outcomes = records, claims, clusters, outcomes
        self.unshown: set[SubmissionId] = set()
        self._step_cadence = Cadence(around.clock)
        self._polls: dict[ClusterUuid, StepPoll] = {}
        self._last_polled: set[ClusterUuid] = set()
        self._asked_for: frozenset[ClusterUuid] = frozenset()
        self._judged: dict[ClusterUuid, list[Submission]] | None = None
        self._urgent: frozenset[ClusterUuid] = frozenset()
        self._shown_at: dict[SubmissionId, float] = {}
        self._polled_at = around.clock.monotonic()
        self._idle_slots_since: dict[ClusterUuid, float] = {}
        self._stalled: set[ClusterUuid] = set()

    @property
    def unshown_clusters(self) -> set[ClusterUuid]:
        """Launches without an answer that EMR did not show in this tick's poll, 30 s or more after them."""
        return self._clusters.unshown

    @property
    def records_unseen_s(self) -> float:
        """How long ago the records could last be read."""
        return self._records.unseen_s

    @property
    def stalled(self) -> frozenset[ClusterUuid]:
        """Clusters whose last polls showed pending steps, and none running, for ``STALL_S``."""
        return frozenset(self._stalled)

    @property
    def shown(self) -> frozenset[SubmissionId]:
        """Submissions whose step EMR has shown in this poll, and not longer ago than ``FRESH_S``."""
        since = self._clock.monotonic() - FRESH_S
        return frozenset(key for key, at in self._shown_at.items() if at >= since)

    def poll_soon(self, clusters: frozenset[ClusterUuid]) -> None:
        """The steps of these clusters are to be polled first in the next tick, before others."""
        self._asked_for = clusters

    @property
    def is_waiting(self) -> bool:
        """Whether something that EMR does not show waits for more than news."""
        return bool(self.unshown or self._clusters.unshown)

    async def poll(self, tick: TickState, ages: Ages) -> None:
        """What was read of records, and clusters and steps when they are due."""
        # Only what is applied to this tick counts: a tick that is dropped takes its news with it.
        self._last_polled.clear()
        self._shown_at.clear()
        if self._clock.monotonic() - self._polled_at > UNWATCHED_S:
            self._idle_slots_since.clear()
            self._stalled.clear()
            self._polls.clear()
        self._polled_at = self._clock.monotonic()
        self._stalled &= tick.clusters.keys()
        if self.unshown:
            live = tick.live()
            self.unshown &= {one.submission_id for one in live if one.state is SubmissionState.INTENDED}
        for gone in self._idle_slots_since.keys() - tick.clusters.keys():
            del self._idle_slots_since[gone]
        self._records.apply(tick)
        await self._guarded(self._clusters.poll, tick, ages)
        if self._records.is_heard:
            await self._guarded(self._poll_steps, tick, ages)

    async def settle(self, tick: TickState, ages: Ages) -> None:
        """Read what is in doubt of steps that are over, and settle what can be settled."""
        await self._guarded(self._poll_claims, tick, ages)
        unread = self._records.unread(tick)
        now = self._clock.now()
        live_on = Counter(one.cluster_uuid for one in tick.live())
        for cluster in list(tick.clusters.values()):
            live = live_on[cluster.cluster_uuid]
            with tick.confined(cluster):
                tick.put(observe_idleness(cluster, live_submissions=live, now=now))
        # While the cluster's end, or the wrapper's final record, could not have been seen, the hold goes on.
        records_unseen_s = self.records_unseen_s
        blind_s = {
            key: max(self._clusters.unseen_s(key), min(records_unseen_s, UNSEEN_S3_HOLD_S))
            for key in tick.clusters
        }
        self._outcomes.settle_all(
            tick,
            ages,
            last_polled=self._last_polled,
            now=now,
            blind_s=blind_s,
            closed=lambda one: self._claims.is_closed(one) or not tick.claims_first(one),
            unread=unread | self._claims.unread,
        )

    async def _guarded(
        self, part: Callable[[TickState, Ages], Awaitable[None]], tick: TickState, ages: Ages
    ) -> None:
        name = getattr(part, "__name__", "")
        try:
            await part(tick, ages)
        except BudgetSpent as spent:
            log.debug("poll_put_off", part=name, why=str(spent))
        except Throttled as error:
            log.warning("poll_failed", part=name, error=str(error))
        except (TryAgain, StepsRefused) as error:
            log.debug("poll_failed", part=name, error=str(error))  # told by agent.dependencies
        except Exception:
            # One poll that fails for ever must not blind the others.
            log.exception("poll_failed_unexpectedly", part=name)

    async def _poll_claims(self, tick: TickState, _ages: Ages) -> None:
        for cluster_uuid in await self._claims.poll(tick, self._last_polled):
            # A poll that began before does not ask for the step that does the work.
            self._polls.pop(cluster_uuid, None)

    # -- steps -----------------------------------------------------------------------------------

    async def _poll_steps(self, tick: TickState, ages: Ages) -> None:
        """The polls that are due, as far as the call budget goes now: a tick waits for no token.

        Clusters that something waits for come first, then those that were not polled for longest. A poll
        whose first page does not show enough goes on when all that were due by then had their turn.
        """
        live_on = tick.live_by_cluster()
        self._step_cadence.keep(live_on)
        self._polls = {key: poll for key, poll in self._polls.items() if key in live_on}
        if live_on is not self._judged:
            self._judged, self._urgent = live_on, _urgent(tick)
        wanted: list[tuple[bool, float, Cluster]] = []
        for cluster in tick.clusters.values():
            if cluster.cluster_uuid not in live_on:
                continue
            is_asked_for = cluster.cluster_uuid in self._asked_for
            is_urgent = is_asked_for or cluster.cluster_uuid in self._urgent
            if is_urgent:
                self._step_cadence.hasten(cluster.cluster_uuid, 0.0 if is_asked_for else QUICK_POLL_S)
            wanted.append((is_urgent, self._step_cadence.due_at(cluster.cluster_uuid), cluster))
        wanted.sort(key=lambda one: (not one[0], one[1]))
        now = self._clock.monotonic()
        for is_urgent, due_at, cluster in wanted:
            if due_at > now:
                continue
            live = [s for s in live_on[cluster.cluster_uuid] if s.submission_id not in tick.busy]
            if not live:
                continue
            had_no_chance = cluster.ready_at is None and all(one.started_at is None for one in live)
            is_last = cluster.state in OVER_CLUSTER_STATES and (
                had_no_chance or ages.of(Fact.OVER, cluster.cluster_uuid) >= STALE_READ_S
            )
            is_early = cluster.state in OVER_CLUSTER_STATES and not is_last
            if cluster.cluster_id is None or (is_early and not may_never_begin(cluster, live)):
                continue
            interval_s = QUICK_POLL_S if is_urgent else self._settings.step_poll_interval_s
            if not self._step_cadence.is_due(cluster.cluster_uuid, interval_s):
                continue
            poll = self._polls.pop(cluster.cluster_uuid, None) or StepPoll(
                cluster_uuid=cluster.cluster_uuid,
                cluster_id=cluster.cluster_id,
                wanted=frozenset(s.submission_id for s in live),
                unheard=frozenset(s.submission_id for s in live if s.state is SubmissionState.INTENDED),
                twice=frozenset(s.submission_id for s in live if s.was_sent_again),
                silent=frozenset(s.submission_id for s in live if s.record_mark is None),
                overdue=frozenset(s.submission_id for s in live if _was_never_added(s, ages)),
                is_last=is_last,
                known=frozenset(s.step_id for s in live if s.step_id is not None),
            )
            try:
                poll = await self._read_on(poll)
            except BudgetSpent:
                self._step_cadence.put_off(cluster.cluster_uuid, due_at)
                raise
            self._fold_steps(tick, ages, poll, live_on[cluster.cluster_uuid])
            if poll.is_through:
                self._watch_stall(cluster, poll.steps, live)
            else:
                self._polls[cluster.cluster_uuid] = poll
                self._step_cadence.put_off(cluster.cluster_uuid, self._clock.monotonic())

    def _watch_stall(
        self, cluster: Cluster, steps: Sequence[ObservedStep], live: Sequence[Submission]
    ) -> None:
        """A cluster whose slots are free and stay so (seen of steps that were cancelled) must be replaced."""
        key, now = cluster.cluster_uuid, self._clock.monotonic()
        states = {step.state for step in steps}
        is_up = cluster.state in (ClusterState.RUNNING, ClusterState.WAITING)
        # In a state that is new to us a step waits, unless its wrapper said that it runs.
        is_told = any(one.state is SubmissionState.RUNNING for one in live)
        waits = StepState.PENDING in states or (None in states and not is_told)
        if is_up and waits and StepState.RUNNING not in states:
            if now - self._idle_slots_since.setdefault(key, now) >= STALL_S:
                self._stalled.add(key)
        else:
            self._idle_slots_since.pop(key, None)
            self._stalled.discard(key)

    async def _read_on(self, poll: StepPoll) -> StepPoll:
        """The poll with its next page; one that EMR cannot go on with begins anew."""
        hidden = poll.hidden
        try:
            page = await self._emr.list_steps(
                poll.cluster_id,
                marker=None if hidden else poll.marker,
                step_ids=hidden,
                within_s=POLL_WITHIN_S,
            )
        except ClusterGone:
            nothing: frozenset[Any] = frozenset()
            return replace(poll, marker=None, pages=1, unheard=nothing, overdue=nothing, known=nothing)
        except Throttled:
            self._polls[poll.cluster_uuid] = poll
            raise
        except (TryAgain, StepsRefused) as error:
            if hidden and isinstance(error, StepsRefused):
                return poll.after_refusal(hidden)
            if (left := poll.failed()) is not None:
                self._polls[poll.cluster_uuid] = left
            raise
        self._shown_at |= dict.fromkeys(by_submission(page.steps), self._clock.monotonic())
        return poll.after_asking(hidden, page) if hidden else poll.after(page)

    def _fold_steps(self, tick: TickState, ages: Ages, poll: StepPoll, live: Sequence[Submission]) -> None:
        """Fold what a poll has shown. Earlier pages too: a tick that was dropped took their news with it."""
        shown = by_submission(poll.steps)
        now = self._clock.now()
        for submission in live:
            submission_id = submission.submission_id
            its_steps = shown.get(submission_id)
            with tick.confined(submission):
                if its_steps:
                    step = one_of(its_steps, submission.step_id)
                    self._outcomes.started(tick, submission, observe_step(submission, step, now=now), now=now)
                elif poll.is_through and submission_id in poll.overdue and _was_never_added(submission, ages):
                    self._outcomes.never_added(tick, submission, "EMR never showed the step", now=now)
                elif poll.is_through and submission_id in poll.unheard:
                    self.unshown.add(submission_id)
        if poll.is_through and poll.is_last and poll.wanted.issuperset(s.submission_id for s in live):
            self._last_polled.add(poll.cluster_uuid)


def _urgent(tick: TickState) -> frozenset[ClusterUuid]:
    """The clusters of whose steps only ListSteps tells how they go on."""
    return frozenset(
        cluster_uuid
        for cluster_uuid, steps in tick.live_by_cluster().items()
        if (cluster := tick.clusters.get(cluster_uuid)) is not None
        and (live := [one for one in steps if one.submission_id not in tick.busy])
        and (
            cluster.state in OVER_CLUSTER_STATES
            or may_never_begin(cluster, live)
            or any(map(needs_a_poll, live))
        )
    )


def _was_never_added(submission: Submission, ages: Ages) -> bool:
    if submission.step_id is not None or submission.quarantine is not None:
        return False
    return ages.of(Fact.INTENDED, submission.submission_id) > STEP_UNKNOWN_S

"""Which of a submission's steps began: its claim in S3 tells, where EMR's list and the records do not.

A wrapper's first deed is to take its submission's claim, which names its step; the second step of a doubled
AddJobFlowSteps finds it taken and fails. So of a submission that seems to have ended badly the claim is read
before that is believed. The step that holds it is the submission's step from then on, and EMR is asked for
it by id. A claim that no step holds is taken by the agent: no step of the submission can begin any more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import structlog

from emr_executor.agent.tick_state import TickState
from emr_executor.core.model import ClusterUuid, StepId, Submission, SubmissionId
from emr_executor.core.observe import held_by, not_begun, sent_again
from emr_executor.core.states import OVER_STEP_STATES, UP_CLUSTER_STATES, StepState
from emr_executor.errors import TryAgain
from emr_executor.ports import Clock, StepRecords

UNSEEN_S3_HOLD_S = 900.0
"""How much longer an end is not believed while S3 cannot be read; EMR's own word counts after that."""

NEVER_CLAIMED = (
    "EMR reports the step FAILED, and its command never began: S3 was away or refused the cluster's instance"
    " profile, or the node could not start the step wrapper"
)

log = structlog.get_logger(__name__)


class Claims:
    """What the claims of submissions told that seem to have ended badly.

    unread: submissions whose end is not believed in this poll: their claim could not be read, or has just
        shown that another step does their work
    """

    def __init__(self, records: StepRecords, clock: Clock) -> None:
        self._records, self._clock = records, clock
        self._holders: dict[SubmissionId, StepId | None] = {}
        self._asked_at: dict[SubmissionId, float] = {}
        self.unread: frozenset[SubmissionId] = frozenset()

    def is_closed(self, submission: Submission) -> bool:
        """Whether the agent holds the claim."""
        return self._holders.get(submission.submission_id, "") is None

    async def poll(self, tick: TickState, last_polled: Collection[ClusterUuid]) -> frozenset[ClusterUuid]:
        """Read the claims that are in doubt; the clusters on which another step than the known one began.

        last_polled: clusters that are over and whose steps were listed for the last time
        """
        wanted = {
            one.submission_id: one
            for one in tick.ending()
            if _seems_over(tick, one, last_polled) and tick.claims_first(one)
        }
        now = self._clock.monotonic()
        self._holders = {key: held for key, held in self._holders.items() if key in tick.submissions}
        self._asked_at = {key: at for key, at in self._asked_at.items() if key in tick.submissions}
        unread = [key for key in wanted if key not in self._holders and key not in tick.busy]
        try:
            for key in unread:
                self._asked_at.setdefault(key, now)
                self._holders[key] = await self._records.claimed_by(wanted[key].cluster_uuid, key)
                del self._asked_at[key]
        except TryAgain as error:
            log.debug("claims_unread", error=str(error))
        held = {
            key
            for key in wanted.keys() - self._holders.keys()
            if now - self._asked_at.get(key, now) < UNSEEN_S3_HOLD_S
        }
        moved = set()
        for key, before in wanted.items():
            if key in self._holders and key not in tick.busy:
                self._apply(tick, before, self._holders[key])
                if tick.submissions[key].step_id != before.step_id:
                    moved.add(key)
        self.unread = frozenset(held | moved)
        return frozenset(wanted[key].cluster_uuid for key in moved)

    def _apply(self, tick: TickState, submission: Submission, holder: StepId | None) -> None:
        now = self._clock.now()
        with tick.confined(submission):
            if holder is None:
                if submission.step_state is StepState.FAILED and submission.record_mark is None:
                    tick.put(not_begun(submission, NEVER_CLAIMED))
            elif holder and holder != submission.step_id:
                tick.put(held_by(submission, holder, now=now))
            elif submission.started_at is None:
                # EMR shows no start of it, and it began.
                tick.put(replace(sent_again(submission, now=now), started_at=now, ended_at=now))


def _seems_over(tick: TickState, submission: Submission, last_polled: Collection[ClusterUuid]) -> bool:
    """Whether its end, as known so far, is not a good one."""
    cluster = tick.clusters.get(submission.cluster_uuid)
    if cluster is None or submission.quarantine is not None or submission.wrapper_ended:
        return False
    if submission.step_state is StepState.COMPLETED:
        return False
    if cluster.cluster_uuid in last_polled and (submission.started_at or cluster.ready_at):
        return True
    if submission.step_state not in OVER_STEP_STATES:
        return False
    if submission.started_at is None:
        return submission.cancel_asked_at is not None or cluster.state not in UP_CLUSTER_STATES
    return submission.step_state is StepState.FAILED

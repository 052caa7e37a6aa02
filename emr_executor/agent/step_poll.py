"""One poll of a cluster's steps: ListSteps, page by page, over as many ticks as the call budget takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from emr_executor.aws.step import submission_of_step_name
from emr_executor.core.model import (
    Cluster,
    ClusterId,
    ClusterUuid,
    ObservedStep,
    StepId,
    StepPage,
    Submission,
    SubmissionId,
)
from emr_executor.core.states import (
    OVER_CLUSTER_STATES,
    OVER_STEP_STATES,
    ClusterState,
    StepState,
)

MOST_FAILURES = 3
"""A marker that EMR refuses so often is of no use any more; an answer that got lost is another matter."""
MOST_STEPS = 1000
"""A step that so many newer ones hide was added long ago: it is no news that anybody waits for."""

IDS_A_CALL = 10
"""StepIds of one ListSteps (botocore emr 2009-03-31)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPoll:
    """What a poll is to find out, and what it has shown so far. ListSteps gives the newest steps first.

    All that may be concluded from a step's absence was fixed when the poll began, since an act may add a step
    between two pages.

    wanted: the submissions whose steps are looked for
    unheard: those of them whose call nobody heard the answer of
    twice: those of them that EMR may have several steps of
    silent: those of them without a record: a FAILED step may be the twin of an older one that does the work
    overdue: those that were never added if the poll ends and did not show them
    is_last: the cluster had been over for so long that EMR's word is its last
    known: the steps of the wanted, as far as their ids are known
    asked: those of them that were asked for by id, since no page shows them
    ids_a_call: how many are asked for at once
    pages: read so far
    marker: where the next page begins; None before the first and after the last
    failures: how often, in a row, the next page was asked for in vain
    """

    cluster_uuid: ClusterUuid
    cluster_id: ClusterId
    wanted: frozenset[SubmissionId]
    unheard: frozenset[SubmissionId]
    twice: frozenset[SubmissionId]
    silent: frozenset[SubmissionId]
    overdue: frozenset[SubmissionId]
    is_last: bool
    known: frozenset[StepId] = frozenset()
    asked: frozenset[StepId] = frozenset()
    ids_a_call: int = IDS_A_CALL
    pages: int = 0
    steps: tuple[ObservedStep, ...] = ()
    marker: str | None = None
    failures: int = 0

    def after(self, page: StepPage) -> StepPoll:
        """The poll with one more page."""
        pages, steps = self.pages + 1, (*self.steps, *page.steps)
        return replace(self, steps=steps, pages=pages, marker=page.marker, failures=0)

    def after_asking(self, step_ids: Sequence[StepId], page: StepPage) -> StepPoll:
        """The poll with the steps that were asked for by id."""
        return replace(self, steps=(*self.steps, *page.steps), asked=self.asked.union(step_ids), failures=0)

    def after_refusal(self, step_ids: Sequence[StepId]) -> StepPoll:
        """The poll after EMR refused ids: they are asked for one by one, and one that is to blame no more."""
        if len(step_ids) > 1:
            return replace(self, ids_a_call=1)
        return replace(self, asked=self.asked.union(step_ids), failures=0)

    def failed(self) -> StepPoll | None:
        """The poll after its next page was asked for in vain, or None where it has to begin anew."""
        return replace(self, failures=self.failures + 1) if self.failures + 1 < MOST_FAILURES else None

    @property
    def is_through(self) -> bool:
        """Whether all was shown that EMR can show of the wanted."""
        return self._is_listed and not self.hidden

    @property
    def hidden(self) -> tuple[StepId, ...]:
        """The next steps to ask for by id: those that the pages, which are through, do not show."""
        if not self._is_listed:
            return ()
        return tuple(
            sorted(self.known - self.asked - {step.step_id for step in self.steps})[: self.ids_a_call]
        )

    @property
    def _is_listed(self) -> bool:
        if not self.pages:
            return False
        if self.marker is None or len(self.steps) >= MOST_STEPS:
            return True
        shown = by_submission(self.steps)
        if not self.wanted <= shown.keys():
            return False
        # Of several steps those that did nothing may be the newest.
        if any(_is_bad_end(one_of(shown[one], None)) for one in self.twice):
            return False
        return not any(all(step.state is StepState.FAILED for step in shown[one]) for one in self.silent)


def _is_bad_end(step: ObservedStep) -> bool:
    return step.state in OVER_STEP_STATES and step.state is not StepState.COMPLETED


def by_submission(steps: Sequence[ObservedStep]) -> dict[SubmissionId, list[ObservedStep]]:
    """Our steps among these, in their order. A submission has several where a request was doubled."""
    found: dict[SubmissionId, list[ObservedStep]] = {}
    for step in steps:
        submission_id = submission_of_step_name(step.name)
        if submission_id is not None:
            found.setdefault(submission_id, []).append(step)
    return found


def one_of(steps: Sequence[ObservedStep], known: StepId | None) -> ObservedStep:
    """Of all steps with one submission the one that tells how it goes; ``known``: the one taken so far.

    A request that was doubled leaves several, of which the wrapper lets one do the work and fails the others.
    So the submission is COMPLETED if any is, and else alive if any is.
    """

    def rank(step: ObservedStep) -> tuple[int, bool]:
        if step.state is StepState.COMPLETED:
            return 0, step.step_id != known
        if step.state in OVER_STEP_STATES:
            return 3, step.step_id != known
        return (2 if step.state is StepState.PENDING else 1), step.step_id != known

    return min(reversed(steps), key=rank)


def may_never_begin(cluster: Cluster, live: Sequence[Submission]) -> bool:
    """Whether EMR may show of a step that it never ran, so that it can run elsewhere at once."""
    is_ending = cluster.state is ClusterState.TERMINATING or cluster.state in OVER_CLUSTER_STATES
    return is_ending and any(one.started_at is None and one.step_id is not None for one in live)


def needs_a_poll(submission: Submission) -> bool:
    """Whether only a poll can tell how it goes on."""
    if submission.step_id is None or submission.cancel_asked_at is not None:
        return True
    return submission.wrapper_ended and submission.wrapper_reason == "terminated"

"""For how long facts have stood, on one watcher's own clock: the only durations that a loss is judged by.

Rows carry wall-clock times for people. Two hosts' clocks may differ by any amount, so whether a launch
stayed unknown, a step's end unexplained or a request unanswered for long enough is never reckoned from a
time that another host wrote. The agent that decides remembers, on its monotonic clock, since when it has
seen each fact as it stands. A successor starts from zero: it waits longer, and never less.

But what a predecessor asked of EMR it may have died before asking: a request that may be made twice without
harm (``of_others``) is overdue for whoever did not make it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from emr_executor.core.model import Cluster, Submission
from emr_executor.core.states import OVER_CLUSTER_STATES, ClusterState, SubmissionState

STALE_READ_S = 30.0
"""EMR's reads lag less: what they do not show of something that is this old, EMR does not have."""


class Fact(StrEnum):
    """What may have stood for a while, of one cluster or submission."""

    INTENDED = "INTENDED"
    """Its call was made or not, nobody knows: no act of this agent's is under way."""
    RUNNING = "RUNNING"
    """A step was seen running."""
    ENDED = "ENDED"
    """A step was seen over."""
    CANCEL_ASKED = "CANCEL_ASKED"
    """CancelSteps was asked."""
    IDLE = "IDLE"
    """A cluster is up without a live submission."""
    END_ASKED = "END_ASKED"
    """TerminateJobFlows was asked."""
    OVER = "OVER"
    """A cluster was seen over while a submission on it was not."""


FactKey = tuple[Fact, str]
_REPEATABLE = (Fact.CANCEL_ASKED, Fact.END_ASKED)


@dataclass(slots=True)
class Ages:
    """For how long each fact has stood; a fact that was never looked at is new.

    seconds: of each, when the facts were last compared
    passed_s: how long ago that was
    same_s: for how long all answers of ``reached`` and ``passed`` stay the same
    """

    seconds: Mapping[FactKey, float] = field(default_factory=dict)
    passed_s: float = 0.0
    same_s: float = math.inf

    def of(self, fact: Fact, subject_id: str) -> float:
        """How long the fact has stood, in seconds; 0.0 for a new one."""
        stood_s = self.seconds.get((fact, subject_id))
        return 0.0 if stood_s is None else stood_s + self.passed_s

    def reached(self, fact: Fact, subject_id: str, limit_s: float) -> bool:
        """Whether the fact has stood for so long."""
        return self.passed(self.of(fact, subject_id), limit_s)

    def passed(self, age_s: float, limit_s: float) -> bool:
        """Whether what grows older with time, and is ``age_s`` old now, has reached an age."""
        if age_s >= limit_s:
            return True
        self.same_s = min(self.same_s, limit_s - age_s)
        return False


def facts_of(
    clusters: Iterable[Cluster], submissions: Iterable[Submission], *, busy: Collection[str]
) -> dict[FactKey, Hashable]:
    """What stands now, each with the value that starts anew when it changes."""
    facts: dict[FactKey, Hashable] = {}
    key: str
    for submission in submissions:
        key = submission.submission_id
        if submission.state is SubmissionState.INTENDED and key not in busy:
            facts[Fact.INTENDED, key] = submission.intended_at
        if submission.started_at is not None:
            facts[Fact.RUNNING, key] = True
        if submission.ended_at is not None:
            facts[Fact.ENDED, key] = True
        if submission.cancel_asked_at is not None:
            facts[Fact.CANCEL_ASKED, key] = submission.cancel_asked_at
    for cluster in clusters:
        key = cluster.cluster_uuid
        if cluster.state in OVER_CLUSTER_STATES:
            facts[Fact.OVER, key] = True
        elif cluster.state is ClusterState.INTENDED and key not in busy:
            facts[Fact.INTENDED, key] = cluster.intended_at
        if cluster.idle_since is not None:
            facts[Fact.IDLE, key] = cluster.idle_since
        if cluster.end_asked_at is not None:
            facts[Fact.END_ASKED, key] = cluster.end_asked_at
    return facts


def of_others(facts: Iterable[FactKey], own: Collection[FactKey]) -> dict[FactKey, float]:
    """Ages of the requests among the facts that were another agent's: without end, so that they are repeated.

    It wrote down that it would ask, and may have died before it did. EMR takes both requests twice.
    """
    return {key: math.inf for key in facts if key[0] in _REPEATABLE and key not in own}


def ages_by_rows(clusters: Iterable[Cluster], submissions: Iterable[Submission], *, now: datetime) -> Ages:
    """The ages by the rows' own times: for a reader that has not watched, and decides nothing."""
    since: dict[FactKey, datetime | None] = {}
    for submission in submissions:
        since[Fact.RUNNING, submission.submission_id] = submission.started_at
        since[Fact.ENDED, submission.submission_id] = submission.ended_at
        since[Fact.CANCEL_ASKED, submission.submission_id] = submission.cancel_asked_at
    for cluster in clusters:
        since[Fact.IDLE, cluster.cluster_uuid] = cluster.idle_since
        since[Fact.END_ASKED, cluster.cluster_uuid] = cluster.end_asked_at
    return Ages({key: (now - at).total_seconds() for key, at in since.items() if at is not None})

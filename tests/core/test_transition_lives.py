"""Whatever is observed in whatever order, each change of a row is an edge of its table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from emr_executor.core.fact_ages import ages_by_rows
from emr_executor.core.model import (
    Cluster,
    ClusterId,
    ObservedCluster,
    ObservedStep,
    StepId,
    StepRecord,
    Submission,
    Workload,
)
from emr_executor.core.observe import (
    added,
    forgotten,
    launched,
    never_shown,
    not_added,
    observe_cluster,
    observe_record,
    observe_step,
    refused,
)
from emr_executor.core.settle import settle
from emr_executor.core.states import (
    OVER_CLUSTER_STATES,
    ClusterState,
    RecordPhase,
    StepState,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.transitions import (
    SHOWN,
    check_change,
)
from emr_executor.core.workload import after_submission, cancelled, never_added, placed, waited_too_long
from tests.builders import NOW, ago, make_cluster, make_submission, make_workload

MOMENTS = st.sampled_from([ago(1000), ago(10), NOW])
MAYBE = st.none() | MOMENTS
STEPS = st.builds(
    ObservedStep,
    step_id=st.just(StepId("s-1")),
    name=st.just("n"),
    state=st.sampled_from(StepState),
    started_at=MAYBE,
)
RECORDS = st.builds(
    StepRecord,
    submission_id=st.just(make_submission().submission_id),
    cluster_uuid=st.just(make_cluster().cluster_uuid),
    mark=st.sampled_from("ab"),
    phase=st.sampled_from(RecordPhase),
    at=MOMENTS,
    exit_code=st.sampled_from([0, 1, 143]),
    reason=st.sampled_from(["", "timeout", "terminated", "not_begun"]),
)
SEEN_CLUSTERS = st.builds(
    ObservedCluster,
    cluster_id=st.just(ClusterId("j-c1")),
    name=st.just("n"),
    state=st.sampled_from(sorted(SHOWN)),
    ready_at=MAYBE,
    ended_at=MAYBE,
)
Row = Workload | Submission | Cluster


class Life:
    """A workload, its submission and its cluster, to which anything may happen in any order.

    Every value that came to be is held to the tables, hop by hop and from tick to tick.
    """

    def __init__(self) -> None:
        self.cluster = make_cluster(state=ClusterState.INTENDED, cluster_id=None, ready_at=None)
        self.workload = make_workload()
        self.submission: Submission | None = None
        self.hops = 0

    def went(self, old: Row, new: Row) -> Any:
        check_change(old, new)
        self.hops += old.state is not new.state
        return new

    def happen(self, news: Any) -> None:
        match news:
            case ObservedCluster():
                self.cluster = self.went(self.cluster, observe_cluster(self.cluster, news, now=NOW))
            case ObservedStep() if self.submission is not None:
                self.submission = self.went(self.submission, observe_step(self.submission, news, now=NOW))
            case StepRecord() if self.submission is not None:
                self.submission = self.went(self.submission, observe_record(self.submission, news))
            case WorkloadTarget():
                self.workload = replace(self.workload, target=news)
            case "tick":
                self.tick()
            case "launched" | "refused" | "never shown" | "forgotten":
                self.answer(news)
            case str():
                self.act(news)

    def answer(self, what: str) -> None:
        unknown = self.cluster.state is ClusterState.INTENDED
        over = self.cluster.state in OVER_CLUSTER_STATES
        match what:
            case "launched" if unknown:
                self.cluster = self.went(self.cluster, launched(self.cluster, ClusterId("j-c1")))
            case "refused" if unknown:
                self.cluster = self.went(self.cluster, refused(self.cluster, "no", now=NOW))
            case "never shown" if unknown:
                self.cluster = self.went(self.cluster, never_shown(self.cluster, "no", now=NOW))
            case "forgotten" if not unknown and not over:
                self.cluster = self.went(self.cluster, forgotten(self.cluster, "gone", now=NOW))

    def act(self, what: str) -> None:
        match what, self.workload.state, self.submission:
            case "placed", WorkloadState.READY, _:
                self.workload = self.went(self.workload, placed(self.workload))
                self.submission = make_submission(
                    n=self.workload.submissions, state=SubmissionState.INTENDED, step_id=None, started_at=None
                )
                check_change(None, self.submission)
            case "waited too long", WorkloadState.READY, _:
                self.workload = self.went(
                    self.workload, waited_too_long(self.workload, queue_timeout_s=1).workload
                )
            case "added", _, Submission(state=SubmissionState.INTENDED) as one:
                self.submission = self.went(one, added(one, StepId("s-1"), now=NOW))
            case "not added", WorkloadState.SUBMITTED, Submission(state=SubmissionState.INTENDED) as one:
                self.submission = self.went(one, not_added(one, "no", now=NOW))
                move = never_added(self.workload, self.submission, now=NOW)
                self.workload = self.went(self.workload, move.workload)
            case "quarantined", _, Submission(is_live=True) as one:
                self.submission = replace(one, quarantine="why")
            case "cancel asked", _, Submission(
                state=SubmissionState.PENDING | SubmissionState.RUNNING
            ) as one:
                self.submission = replace(one, cancel_asked_at=ago(5))

    def tick(self) -> None:
        one = self.submission
        if one is not None:
            ages = ages_by_rows([self.cluster], [one], now=NOW)
            settled = settle(
                one,
                self.cluster,
                ages=ages,
                loss_hold_s=5.0,
                had_last_look=True,
                is_wanted=True,
                is_closed=True,
            )
            if settled is not None:
                self.submission = self.went(one, replace(one, state=settled.state, cause=settled.cause))
                move = after_submission(
                    self.workload, self.submission, cluster_id=None, max_submissions=3, now=NOW
                )
                self.workload = self.went(self.workload, move.workload)
        if self.workload.target is WorkloadTarget.CANCEL and self.workload.state is WorkloadState.READY:
            self.workload = self.went(self.workload, cancelled(self.workload, now=NOW).workload)


HAPPENINGS = st.one_of(
    STEPS,
    RECORDS,
    SEEN_CLUSTERS,
    st.sampled_from(["tick", "placed", "added", "not added", "cancel asked", "waited too long"]),
    st.sampled_from(["launched", "refused", "never shown", "forgotten", "quarantined", *WorkloadTarget]),
)


@settings(max_examples=400, deadline=None)
@given(news=st.lists(HAPPENINGS, max_size=25), tick_every=st.integers(1, 6))
def test_whatever_happens_in_whatever_order_each_change_is_an_edge(news: list[Any], tick_every: int) -> None:
    life = Life()
    for i, one in enumerate(news):
        read = (life.workload, life.submission, life.cluster)
        life.happen(one)
        if i % tick_every == 0:
            life.tick()
        workload, submission, cluster = read
        check_change(cluster, life.cluster)
        check_change(workload, life.workload)
        if submission is not None and life.submission is not None and life.submission.n == submission.n:
            check_change(submission, life.submission)


def test_a_life_reaches_its_end_in_the_model_above() -> None:
    life = Life()
    story: list[Any] = [
        "launched",
        "placed",
        "added",
        ObservedCluster(cluster_id=ClusterId("j-c1"), name="n", state=ClusterState.RUNNING),
        ObservedStep(step_id=StepId("s-1"), name="n", state=StepState.COMPLETED),
        "tick",
    ]
    for news in story:
        life.happen(news)
    assert life.submission is not None
    assert (life.workload.state, life.submission.state) == (
        WorkloadState.FINISHABLE,
        SubmissionState.COMPLETED,
    )
    assert life.hops == 7

"""Whatever is observed in whatever order, each change of a row is an edge of its table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from emr_executor.core.fact_ages import ages_by_rows
from emr_executor.core.model import ClusterId, ObservedCluster, ObservedStep, StepId, StepRecord, Submission
from emr_executor.core.observe import (
    added,
    gone,
    launched,
    not_added,
    observe_cluster,
    observe_record,
    observe_step,
)
from emr_executor.core.settle import settle
from emr_executor.core.states import (
    ClusterState,
    RecordPhase,
    StepState,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.transitions import CLUSTER, SHOWN, ClusterEvent, Row, check_change, entity_of
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


class Life:
    """A workload, its submission and its cluster, to which anything may happen in any order.

    Every value that came to be is held to the tables, hop by hop and from tick to tick.
    """

    def __init__(self) -> None:
        self.cluster = make_cluster(state=ClusterState.INTENDED, cluster_id=None, ready_at=None)
        self.workload = make_workload()
        self.submission: Submission | None = None
        self.hops = 0

    def went(self, new: Row) -> None:
        old = getattr(self, entity_of(new))
        check_change(old, new)
        self.hops += old.state is not new.state
        setattr(self, entity_of(new), new)

    def happen(self, news: Any) -> None:
        match news, self.submission, self.cluster.state:
            case ObservedCluster(), _, _:
                self.went(observe_cluster(self.cluster, news, now=NOW))
            case ObservedStep(), Submission() as one, _:
                self.went(observe_step(one, news, now=NOW))
            case StepRecord(), Submission() as one, _:
                self.went(observe_record(one, news))
            case WorkloadTarget(), _, _:
                self.workload = replace(self.workload, target=news)
            case "launched", _, ClusterState.INTENDED:
                self.went(launched(self.cluster, ClusterId("j-c1")))
            case ClusterEvent.REFUSED | ClusterEvent.NEVER_SHOWN, _, ClusterState.INTENDED:
                self.went(gone(self.cluster, news, "no", now=NOW))
            case ClusterEvent.FORGOTTEN, _, state if CLUSTER.end_of(state, news):
                self.went(gone(self.cluster, news, "gone", now=NOW))
            case str(), _, _:
                self.act(news)

    def act(self, what: str) -> None:
        match what, self.workload.state, self.submission:
            case "tick", _, _:
                self.tick()
            case "placed", WorkloadState.READY, _:
                self.went(placed(self.workload))
                self.submission = make_submission(
                    n=self.workload.submissions, state=SubmissionState.INTENDED, step_id=None, started_at=None
                )
                check_change(None, self.submission)
            case "waited too long", WorkloadState.READY, _:
                self.went(waited_too_long(self.workload, queue_timeout_s=1).workload)
            case "added", _, Submission(state=SubmissionState.INTENDED) as one:
                self.went(added(one, StepId("s-1"), now=NOW))
            case "not added", WorkloadState.SUBMITTED, Submission(state=SubmissionState.INTENDED) as one:
                over = not_added(one, "no", now=NOW)
                self.went(over)
                self.went(never_added(self.workload, over, now=NOW).workload)
            case "quarantined", _, Submission(is_live=True) as one:
                self.submission = replace(one, quarantine="why")
            case "cancel asked", _, Submission(
                state=SubmissionState.PENDING | SubmissionState.RUNNING
            ) as one:
                self.submission = replace(one, cancel_asked_at=ago(5))

    def tick(self) -> None:
        one = self.submission
        if one is not None:
            over = settle(
                one,
                self.cluster,
                ages=ages_by_rows([self.cluster], [one], now=NOW),
                loss_hold_s=5.0,
                had_last_poll=True,
                is_wanted=True,
                is_closed=True,
            )
            if over is not None:
                self.went(over)
                move = after_submission(self.workload, over, cluster_id=None, max_submissions=3, now=NOW)
                self.went(move.workload)
        if self.workload.target is WorkloadTarget.CANCEL and self.workload.state is WorkloadState.READY:
            self.went(cancelled(self.workload, now=NOW).workload)


HAPPENINGS = st.one_of(
    STEPS,
    RECORDS,
    SEEN_CLUSTERS,
    st.sampled_from(["tick", "placed", "added", "not added", "cancel asked", "waited too long"]),
    st.sampled_from(["launched", "quarantined", *WorkloadTarget]),
    st.sampled_from([ClusterEvent.REFUSED, ClusterEvent.NEVER_SHOWN, ClusterEvent.FORGOTTEN]),
)


@settings(max_examples=400, deadline=None)
@given(news=st.lists(HAPPENINGS, max_size=25), tick_every=st.integers(1, 6))
def test_whatever_happens_in_whatever_order_each_change_is_an_edge(news: list[Any], tick_every: int) -> None:
    life = Life()
    for i, one in enumerate(news):
        workload, submission, cluster = life.workload, life.submission, life.cluster
        life.happen(one)
        if i % tick_every == 0:
            life.tick()
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
    assert life.workload.state is WorkloadState.FINISHABLE
    assert life.submission.state is SubmissionState.COMPLETED
    assert life.hops == 7

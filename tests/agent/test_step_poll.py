"""ListSteps is asked as far as its call budget goes: no tick waits for a token, no cluster is left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from emr_executor.agent.claims import Claims
from emr_executor.agent.cluster_tracker import ClusterTracker
from emr_executor.agent.outcomes import Outcomes
from emr_executor.agent.record_poll import FIRST_ANSWER_S, RecordPoll
from emr_executor.agent.step_poll import MOST_FAILURES
from emr_executor.agent.tick_state import TickState
from emr_executor.agent.tracker import STEP_UNKNOWN_S, Tracker
from emr_executor.aws.step import step_name
from emr_executor.core.fact_ages import Ages, Fact, FactKey
from emr_executor.core.model import ClusterId, ObservedCluster, ObservedStep, StepId
from emr_executor.core.states import ClusterState, StepState, SubmissionState
from emr_executor.errors import AwsUnavailable, BudgetSpent, ClusterGone
from tests.agent.fake_records import FakeRecords
from tests.agent.fakes import SETTINGS, FakeEmr, ManualClock, surroundings
from tests.builders import make_cluster, make_snapshot, make_submission, make_workload

CLUSTERS = 12
A_TICK = 3
"""Tokens that come back from one tick to the next."""


class Watched:
    """A tracker over clusters with one running step each."""

    def __init__(self) -> None:
        self.clock, self.emr = ManualClock(), FakeEmr()
        self.ages: dict[FactKey, float] = {}
        names = [f"{n:02}" for n in range(CLUSTERS)]
        self.workloads = [make_workload(f"w{name}") for name in names]
        self.clusters = [make_cluster(f"c{name}", state=ClusterState.RUNNING) for name in names]
        self.submissions = [make_submission(f"w{name}", f"c{name}") for name in names]
        for cluster, workload, submission in zip(
            self.clusters, self.workloads, self.submissions, strict=True
        ):
            assert cluster.cluster_id is not None
            self.emr.clusters[cluster.cluster_id] = ObservedCluster(
                cluster_id=cluster.cluster_id, name=cluster.name, state=cluster.state
            )
            step = ObservedStep(
                step_id=StepId(submission.step_id or ""),
                name=step_name(workload, submission.submission_id),
                state=StepState.RUNNING,
            )
            self.emr.steps[cluster.cluster_id] = [step]
        around = surroundings(clock=self.clock, emr=self.emr, records=FakeRecords())
        outcomes = Outcomes(SETTINGS, on_cluster_over=lambda *_: None, on_cluster_ready=lambda *_: None)
        records = RecordPoll(around, outcomes, masks={}, wake=lambda: None)
        records.apply(TickState(make_snapshot()))
        self.clock.passed_s += FIRST_ANSWER_S
        self.tracker = Tracker(
            around,
            records,
            Claims(around.records, self.clock),
            ClusterTracker(around, outcomes, terminate=lambda _ids: None),
            outcomes,
        )

    async def poll(self, tokens: int | None = A_TICK) -> list[ClusterId]:
        """One tick's poll; the clusters that were polled in it."""
        self.clock.passed_s += SETTINGS.step_poll_interval_s
        self.emr.polls_left, self.emr.polled = tokens, []
        before = self.clock.passed_s
        rows = (*self.workloads, *self.clusters, *self.submissions)
        self.tick = TickState(make_snapshot(*rows))
        await self.tracker.poll(self.tick, Ages(self.ages))
        await self.tracker.settle(self.tick, Ages(self.ages))
        assert self.clock.passed_s == before, "it waited"
        return self.emr.polled


@pytest.fixture
def watched() -> Watched:
    return Watched()


async def test_with_tokens_for_all_each_is_swept(watched: Watched) -> None:
    assert sorted(await watched.poll(tokens=None)) == sorted(watched.emr.steps)


async def test_each_has_its_turn_before_any_has_another(watched: Watched) -> None:
    polled: list[ClusterId] = []
    for _ in range(2 * CLUSTERS // A_TICK):
        polled += await watched.poll()
    assert set(Counter(polled[:CLUSTERS]).values()) == {1}
    assert set(Counter(polled).values()) == {2}


async def test_what_something_waits_for_comes_first(watched: Watched) -> None:
    for _ in range(CLUSTERS // A_TICK):
        await watched.poll()
    unsure = make_submission("w11", "c11", state=SubmissionState.INTENDED, step_id=None, started_at=None)
    watched.submissions[11] = unsure
    watched.clock.passed_s += 10
    assert (await watched.poll())[0] == watched.clusters[11].cluster_id


async def test_without_a_token_nothing_is_forgotten(watched: Watched) -> None:
    assert await watched.poll(tokens=0) == []
    assert len(await watched.poll(tokens=None)) == CLUSTERS


async def test_a_cluster_list_without_a_token_is_asked_for_by_the_next_tick(watched: Watched) -> None:
    watched.emr.refuse["list_clusters"] = BudgetSpent("no token")
    await watched.poll()
    del watched.emr.refuse["list_clusters"]
    watched.clock.passed_s -= SETTINGS.cluster_poll_interval_s
    asked_before = watched.emr.calls.count("list_clusters")
    await watched.poll()
    assert watched.emr.calls.count("list_clusters") == asked_before + 1


def bury(watched: Watched, *, newer: int) -> ClusterId:
    """The first cluster, with so many steps of other people on top of ours."""
    cluster_id = ClusterId(watched.clusters[0].cluster_id or "")
    others = [
        ObservedStep(step_id=StepId(f"s-{n}"), name=f"other {n}", state=StepState.COMPLETED)
        for n in range(newer)
    ]
    watched.emr.steps[cluster_id][:0] = others
    return cluster_id


async def test_a_poll_beyond_the_first_page_goes_on_when_the_others_had_their_turn(watched: Watched) -> None:
    cluster_id = bury(watched, newer=120)
    watched.emr.set_step(StepId(watched.submissions[0].step_id or ""), StepState.COMPLETED)
    own = watched.submissions[0].submission_id
    polled = await watched.poll()
    while watched.tick.submissions[own].step_state is not StepState.COMPLETED:
        polled += await watched.poll()
    assert watched.emr.markers[cluster_id] == [None, "50", "100"]
    assert set(Counter(polled[:CLUSTERS]).values()) == {1}, "each has its turn before any has another"
    assert len(polled) <= 3 * CLUSTERS


async def test_what_the_last_page_does_not_show_was_never_added(watched: Watched) -> None:
    """And only that: what began while the poll went on may have been added since."""
    cluster_id = bury(watched, newer=120)
    watched.emr.steps[cluster_id].pop()
    overdue = make_submission("w00", "c00", state=SubmissionState.INTENDED, step_id=None, started_at=None)
    fresh = make_submission("w01", "c00", state=SubmissionState.INTENDED, step_id=None, started_at=None)
    watched.submissions[0] = overdue
    watched.ages[Fact.INTENDED, overdue.submission_id] = STEP_UNKNOWN_S + 1
    states = []
    for _ in range(3):
        watched.clock.passed_s += 10
        await watched.poll(tokens=None)
        states.append(watched.tick.submissions[overdue.submission_id].state)
        watched.submissions[1] = fresh
        watched.ages[Fact.INTENDED, fresh.submission_id] = STEP_UNKNOWN_S + 1
    assert states == [SubmissionState.INTENDED, SubmissionState.INTENDED, SubmissionState.LOST]
    assert watched.tick.submissions[fresh.submission_id].state is SubmissionState.INTENDED


@pytest.mark.parametrize("state", [StepState.RUNNING, StepState.COMPLETED])
async def test_the_end_of_a_newer_twin_is_no_end_while_the_older_is_on_another_page(
    watched: Watched, state: StepState
) -> None:
    cluster_id = bury(watched, newer=60)
    own = watched.submissions[0]
    older = watched.emr.steps[cluster_id][-1]
    watched.emr.set_step(older.step_id, state)
    newer = replace(older, step_id=StepId("s-newer"), state=StepState.FAILED)
    watched.emr.steps[cluster_id].insert(0, newer)
    seen = set()
    for _ in range(3):
        watched.clock.passed_s += 10
        await watched.poll(tokens=None)
        seen.add(watched.tick.submissions[own.submission_id].step_state)
    assert StepState.FAILED not in seen
    assert watched.tick.submissions[own.submission_id].step_id == older.step_id
    assert state in seen


async def test_a_step_that_no_page_shows_is_asked_for_by_id(watched: Watched) -> None:
    """EMR lists a cluster's last 1,000 steps only."""
    cluster_id = bury(watched, newer=60)
    watched.emr.visible_steps = 60
    own = watched.submissions[0]
    watched.emr.set_step(StepId(own.step_id or ""), StepState.COMPLETED)
    for _ in range(3):
        watched.clock.passed_s += 10
        await watched.poll(tokens=None)
    assert watched.tick.submissions[own.submission_id].step_state is StepState.COMPLETED
    assert watched.emr.markers[cluster_id] == [None, "50", None]
    assert watched.emr.asked_for == [own.step_id]


async def test_a_poll_that_emr_cannot_go_on_with_begins_anew(watched: Watched) -> None:
    cluster_id = bury(watched, newer=60)
    await watched.poll(tokens=None)
    watched.emr.refuse["list_steps"] = AwsUnavailable("no such marker")
    while watched.emr.markers[cluster_id][1:].count("50") < MOST_FAILURES:
        await watched.poll(tokens=None)
    del watched.emr.refuse["list_steps"]
    await watched.poll(tokens=None)
    assert watched.emr.markers[cluster_id] == [None, *["50"] * MOST_FAILURES, None]


async def test_an_answer_that_got_lost_costs_a_poll_one_page(watched: Watched) -> None:
    cluster_id = bury(watched, newer=60)
    await watched.poll(tokens=None)
    watched.emr.refuse["list_steps"] = AwsUnavailable("no answer")
    while len(watched.emr.markers[cluster_id]) < MOST_FAILURES:
        await watched.poll(tokens=None)
    del watched.emr.refuse["list_steps"]
    await watched.poll(tokens=None)
    assert watched.emr.markers[cluster_id] == [None, *["50"] * MOST_FAILURES]


async def test_a_poll_at_a_cluster_that_is_gone_is_over(watched: Watched) -> None:
    cluster_id = bury(watched, newer=60)
    await watched.poll(tokens=None)
    watched.emr.refuse["list_steps"] = ClusterGone("unknown", cluster_id=cluster_id)
    await watched.poll(tokens=None)
    del watched.emr.refuse["list_steps"]
    await watched.poll(tokens=None)
    assert watched.emr.markers[cluster_id] == [None, "50", None]

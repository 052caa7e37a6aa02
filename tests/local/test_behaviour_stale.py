"""Reads that lag: what the API shows as of an earlier moment, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emr_executor.local.behaviour import EmrApiError
from emr_executor.local.entities import OLDEST_READ_S
from tests.local.world import BOOTSTRAP_S, EPOCH, SLOW, START_S, World, step_config


def stale(world: World, lag_s: float, operation: str, **request: Any) -> dict[str, Any]:
    return world.model.call(operation, request, world.now, as_of=world.now - lag_s)


def shown_states(world: World, cluster_id: str, lag_s: float) -> list[str]:
    steps = stale(world, lag_s, "ListSteps", ClusterId=cluster_id)["Steps"]
    return [step["Status"]["State"] for step in reversed(steps)]


def test_a_stale_read_shows_states_and_times_as_they_were() -> None:
    world = World()
    cluster_id = world.launch()
    world.wait(10)
    first, _ = world.add(cluster_id, step_config("a"), step_config("b"))
    world.wait(10)
    world.end(cluster_id, first, 1)
    world.wait(10)
    assert shown_states(world, cluster_id, 0) == ["FAILED", "RUNNING"]
    assert shown_states(world, cluster_id, 10) == ["FAILED", "RUNNING"]
    assert shown_states(world, cluster_id, 10.5) == ["RUNNING", "PENDING"]
    assert shown_states(world, cluster_id, 20.5) == []
    (step,) = stale(world, 15, "ListSteps", ClusterId=cluster_id, StepIds=[first])["Steps"]
    assert step["Status"] == {
        "State": "RUNNING",
        "StateChangeReason": {},
        "Timeline": {"CreationDateTime": EPOCH + 10, "StartDateTime": EPOCH + 10},
    }
    # Fresh and stale answers come in any order.
    assert shown_states(world, cluster_id, 0) == ["FAILED", "RUNNING"]


def test_filters_go_by_what_is_shown() -> None:
    world = World()
    cluster_id = world.launch()
    (step_id,) = world.add(cluster_id, step_config())
    world.wait(10)
    world.end(cluster_id, step_id)
    world.wait(10)
    running = stale(world, 15, "ListSteps", ClusterId=cluster_id, StepStates=["RUNNING"])["Steps"]
    assert [step["Id"] for step in running] == [step_id]
    assert stale(world, 0, "ListSteps", ClusterId=cluster_id, StepStates=["RUNNING"])["Steps"] == []


def test_what_is_younger_than_the_lag_is_unknown() -> None:
    world = World()
    world.wait(100)
    cluster_id = world.launch()
    world.wait(5)
    (step_id,) = world.add(cluster_id, step_config())
    for operation in ("DescribeCluster", "ListSteps"):
        with pytest.raises(EmrApiError) as unknown:
            stale(world, 6, operation, ClusterId=cluster_id)
        assert (unknown.value.code, unknown.value.message) == (
            "InvalidRequestException",
            f"Cluster id '{cluster_id}' is not valid.",
        )
    with pytest.raises(EmrApiError, match=f"Step id '{step_id}' is not valid."):
        stale(world, 1, "DescribeStep", ClusterId=cluster_id, StepId=step_id)
    assert stale(world, 6, "ListClusters")["Clusters"] == []
    assert len(stale(world, 5, "ListClusters")["Clusters"]) == 1


def test_a_cluster_that_ended_is_shown_living_for_as_long_as_the_read_lags() -> None:
    world = World(SLOW)
    cluster_id = world.launch()
    world.wait(START_S + BOOTSTRAP_S + 10)
    world.lose(cluster_id)
    world.wait(100)
    living = ["RUNNING", "WAITING"]
    for lag_s, states in ((0, []), (99, []), (105, [cluster_id]), (10_000, [cluster_id])):
        clusters = stale(world, lag_s, "ListClusters", ClusterStates=living)["Clusters"]
        # Nobody reads further back than OLDEST_READ_S, where it was STARTING.
        assert [each["Id"] for each in clusters] == (states if lag_s < OLDEST_READ_S else [])
    status = stale(world, 105, "DescribeCluster", ClusterId=cluster_id)["Cluster"]["Status"]
    assert (status["State"], "EndDateTime" in status["Timeline"]) == ("WAITING", False)
    assert stale(world, 100 + BOOTSTRAP_S, "DescribeCluster", ClusterId=cluster_id)["Cluster"]["Status"] == {
        "State": "BOOTSTRAPPING",
        "StateChangeReason": {},
        "Timeline": {"CreationDateTime": EPOCH},
    }


def test_the_steps_of_a_lost_cluster_may_be_shown_over_before_the_cluster_is() -> None:
    world = World()
    cluster_id = world.launch()
    world.add(cluster_id, step_config("a"), step_config("b"))
    world.lose(cluster_id, notice_after_s=90, steps_after_s=30)
    world.wait(31)
    assert world.step_states(cluster_id) == ["CANCELLED", "CANCELLED"]
    assert world.cluster_state(cluster_id) == "RUNNING"
    world.wait(60)
    assert world.cluster_state(cluster_id) == "TERMINATED_WITH_ERRORS"


def test_a_cluster_remembers_no_more_of_its_past_than_reads_need() -> None:
    world = World()
    cluster_id = world.launch()
    for _ in range(500):
        (step_id,) = world.add(cluster_id, step_config())
        world.wait(30)
        world.end(cluster_id, step_id)
        world.wait(30)
    story = world.model._life.clusters[cluster_id].story
    assert len(story) <= 2 * OLDEST_READ_S / 30
    assert len(world.model._life._timers._heap) <= 1


@settings(max_examples=60, deadline=None)
@given(
    lags=st.lists(st.integers(min_value=0, max_value=200), min_size=1, max_size=8), seed=st.integers(0, 99)
)
def test_a_stale_answer_is_the_fresh_answer_of_then(lags: list[int], seed: int) -> None:
    """Everything that was said at each second of a story is what a read of that second says later."""
    world = World()
    cluster_id = world.launch(StepConcurrencyLevel=2, AutoTerminationPolicy={"IdleTimeout": 60})
    said: dict[float, tuple[Any, Any]] = {}
    world.kills_work = seed % 2 == 0
    for second in range(200):
        if second % (seed % 7 + 3) == 0 and second < 100:
            world.add(cluster_id, step_config(str(second)))
        if second % (seed % 5 + 4) == 0 and world.model.running_steps(cluster_id):
            world.end(cluster_id, world.model.running_steps(cluster_id)[0], second % 2)
        if second == 50 + seed % 10:
            ids = [step["Id"] for step in world.call("ListSteps", ClusterId=cluster_id)["Steps"]][:3]
            world.call("CancelSteps", ClusterId=cluster_id, StepIds=ids)
        said[world.now] = (
            world.call("ListSteps", ClusterId=cluster_id),
            world.call("DescribeCluster", ClusterId=cluster_id),
        )
        world.wait(1)
    for lag_s in lags:
        moment = max(EPOCH, world.now - 1 - lag_s)
        then = world.now - moment
        assert stale(world, then, "ListSteps", ClusterId=cluster_id) == said[moment][0]
        assert stale(world, then, "DescribeCluster", ClusterId=cluster_id) == said[moment][1]

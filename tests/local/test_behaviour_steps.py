"""Steps run in slots, in submission order, and end as EMR says."""

from __future__ import annotations

import pytest

from emr_executor.local.behaviour import EmrApiError, ModelOptions
from tests.local.world import BOOTSTRAP_S, EPOCH, SLOW, START_S, World, step_config


def test_steps_added_while_the_cluster_starts_wait_for_it() -> None:
    world = World(SLOW)
    cluster_id = world.launch()
    world.add(cluster_id, step_config())
    world.wait(START_S)
    assert world.step_states(cluster_id) == ["PENDING"]
    world.wait(BOOTSTRAP_S)
    assert (world.cluster_state(cluster_id), world.step_states(cluster_id)) == ("RUNNING", ["RUNNING"])


def test_raising_the_level_starts_more_and_lowering_it_lets_running_steps_finish() -> None:
    world = World()
    cluster_id = world.launch()
    ids = world.add(cluster_id, *(step_config(f"s{n}") for n in range(4)))
    assert world.call("ModifyCluster", ClusterId=cluster_id, StepConcurrencyLevel=3) == {
        "StepConcurrencyLevel": 3
    }
    assert world.started == ids[:3]
    world.call("ModifyCluster", ClusterId=cluster_id, StepConcurrencyLevel=1)
    world.end(cluster_id, ids[0])
    world.end(cluster_id, ids[1])
    assert world.started == ids[:3]
    world.end(cluster_id, ids[2])
    assert world.started == ids
    with pytest.raises(EmrApiError, match="Allowed level is from 1 to 256"):
        world.call("ModifyCluster", ClusterId=cluster_id, StepConcurrencyLevel=257)


def test_a_step_says_when_it_was_made_began_and_ended_and_why_it_failed() -> None:
    world = World()
    cluster_id = world.launch()
    (step_id,) = world.add(cluster_id, step_config("main"))
    world.wait(10)
    details = {"Reason": "Unknown Error", "Message": "boom"}
    world.model.process_ended(cluster_id, step_id, 3, world.now, failure=details)
    step = world.call("DescribeStep", ClusterId=cluster_id, StepId=step_id)["Step"]
    assert step == {
        "Id": step_id,
        "Name": "main",
        "Config": {"Jar": "command-runner.jar", "Properties": {}, "Args": ["true"]},
        "ActionOnFailure": "CONTINUE",
        "Status": {
            "State": "FAILED",
            "StateChangeReason": {},
            "FailureDetails": details,
            "Timeline": {"CreationDateTime": EPOCH, "StartDateTime": EPOCH, "EndDateTime": EPOCH + 10},
        },
    }
    assert world.cluster(cluster_id)["Status"]["StateChangeReason"] == {
        "Message": "Waiting after step completed"
    }


def test_a_second_report_of_a_process_changes_nothing() -> None:
    world = World()
    cluster_id = world.launch()
    (step_id,) = world.add(cluster_id, step_config())
    world.end(cluster_id, step_id, 0)
    world.end(cluster_id, step_id, 1)
    assert world.step_states(cluster_id) == ["COMPLETED"]


@pytest.mark.parametrize(
    ("action", "cluster_state", "second"),
    [
        ("CONTINUE", "RUNNING", "RUNNING"),
        ("CANCEL_AND_WAIT", "WAITING", "CANCELLED"),
        ("TERMINATE_CLUSTER", "TERMINATED_WITH_ERRORS", "CANCELLED"),
        ("TERMINATE_JOB_FLOW", "TERMINATED_WITH_ERRORS", "CANCELLED"),
    ],
)
def test_action_on_failure_at_level_one(action: str, cluster_state: str, second: str) -> None:
    world = World()
    cluster_id = world.launch()
    (first, _) = world.add(cluster_id, step_config("a", action), step_config("b"))
    world.end(cluster_id, first, 1)
    world.wait(1)
    assert world.cluster_state(cluster_id) == cluster_state
    assert world.step_states(cluster_id) == ["FAILED", second]


def test_action_on_failure_of_earlier_steps_sleeps_above_level_one() -> None:
    world = World()
    cluster_id = world.launch()
    (step_id,) = world.add(cluster_id, step_config(action="TERMINATE_CLUSTER"))
    world.call("ModifyCluster", ClusterId=cluster_id, StepConcurrencyLevel=2)
    world.end(cluster_id, step_id, 1)
    world.wait(1)
    assert world.cluster_state(cluster_id) == "WAITING"


def test_absent_action_on_failure_ends_the_cluster_and_is_refused_with_parallel_steps() -> None:
    world = World()
    config = step_config()
    del config["ActionOnFailure"]
    cluster_id = world.launch()
    (step_id,) = world.add(cluster_id, config)
    world.end(cluster_id, step_id, 1)
    world.wait(1)
    assert world.cluster(cluster_id)["Status"]["StateChangeReason"]["Code"] == "STEP_FAILURE"
    parallel = world.launch(StepConcurrencyLevel=2)
    with pytest.raises(EmrApiError, match=r"Action on failure 'TERMINATE_CLUSTER' is invalid."):
        world.add(parallel, config)


def test_cancelling_a_pending_step_is_immediate_and_a_running_one_waits_for_its_process() -> None:
    world = World()
    cluster_id = world.launch()
    running, pending = world.add(cluster_id, step_config("a", "TERMINATE_CLUSTER"), step_config("b"))
    world.kills_work = False
    answer = world.call("CancelSteps", ClusterId=cluster_id, StepIds=[running, pending])
    assert [info["Status"] for info in answer["CancelStepsInfoList"]] == ["SUBMITTED", "SUBMITTED"]
    assert world.step_states(cluster_id) == ["CANCEL_PENDING", "CANCELLED"]
    assert [(kill.step_id, kill.force) for kill in world.kills] == [(running, False)]
    world.end(cluster_id, running, -15)
    assert world.step_states(cluster_id) == ["CANCELLED", "CANCELLED"]
    # Cancelling never triggers ActionOnFailure.
    assert world.cluster_state(cluster_id) == "WAITING"


def test_cancelling_again_is_fine_and_an_ended_step_says_that_it_is_over() -> None:
    world = World()
    cluster_id = world.launch()
    (step_id,) = world.add(cluster_id, step_config())
    world.kills_work = False
    for option in ("SEND_INTERRUPT", "SEND_INTERRUPT", "TERMINATE_PROCESS"):
        world.call("CancelSteps", ClusterId=cluster_id, StepIds=[step_id], StepCancellationOption=option)
    assert [kill.force for kill in world.kills] == [False, True]
    world.end(cluster_id, step_id, -9)
    (info,) = world.call("CancelSteps", ClusterId=cluster_id, StepIds=[step_id])["CancelStepsInfoList"]
    assert info["Status"] == "FAILED"
    with pytest.raises(EmrApiError, match=r"Step id 's-X' is not valid."):
        world.call("CancelSteps", ClusterId=cluster_id, StepIds=["s-X"])


def test_a_step_that_ended_well_after_its_cancel_counts_as_cancelled() -> None:
    world = World()
    cluster_id = world.launch()
    (step_id,) = world.add(cluster_id, step_config())
    world.kills_work = False
    world.call("CancelSteps", ClusterId=cluster_id, StepIds=[step_id])
    world.end(cluster_id, step_id, 0)
    assert world.step_states(cluster_id) == ["CANCELLED"]


@pytest.mark.parametrize(
    ("frees", "states"), [(True, ["CANCELLED", "RUNNING"]), (False, ["CANCELLED", "PENDING"])]
)
def test_whether_a_cancelled_running_step_frees_its_slot_is_a_switch(frees: bool, states: list[str]) -> None:
    world = World(ModelOptions(cancelled_step_frees_slot=frees))
    cluster_id = world.launch()
    running, _ = world.add(cluster_id, step_config("a"), step_config("b"))
    world.call("CancelSteps", ClusterId=cluster_id, StepIds=[running])
    assert world.step_states(cluster_id) == states
    world.call("ModifyCluster", ClusterId=cluster_id, StepConcurrencyLevel=1)
    assert world.step_states(cluster_id) == ["CANCELLED", "RUNNING"]


def test_a_step_whose_cancel_is_pending_counts_against_the_limit_of_active_steps() -> None:
    world = World()
    cluster_id = world.launch(StepConcurrencyLevel=4)
    ids = world.add(cluster_id, *(step_config(f"s{n}") for n in range(255)))
    world.add(cluster_id, step_config("a"))
    world.kills_work = False
    world.call("CancelSteps", ClusterId=cluster_id, StepIds=ids[:1])
    with pytest.raises(EmrApiError, match="Maximum number of active steps"):
        world.add(cluster_id, step_config("one more"))
    world.end(cluster_id, ids[0], -15)
    world.add(cluster_id, step_config("one more"))


def test_steps_are_listed_newest_first_in_pages_that_new_steps_do_not_shift() -> None:
    world = World()
    cluster_id = world.launch()
    ids = world.add(cluster_id, *(step_config(f"s{n}") for n in range(120)))
    first = world.call("ListSteps", ClusterId=cluster_id)
    world.add(cluster_id, step_config("late"))
    second = world.call("ListSteps", ClusterId=cluster_id, Marker=first["Marker"])
    third = world.call("ListSteps", ClusterId=cluster_id, Marker=second["Marker"])
    pages = [[step["Id"] for step in page["Steps"]] for page in (first, second, third)]
    assert [len(page) for page in pages] == [50, 50, 20]
    assert [step_id for page in pages for step_id in page] == list(reversed(ids))
    assert "Marker" not in third


def test_steps_are_listed_by_state_and_by_id() -> None:
    world = World()
    cluster_id = world.launch()
    ids = world.add(cluster_id, *(step_config(f"s{n}") for n in range(60)))
    running = world.call("ListSteps", ClusterId=cluster_id, StepStates=["RUNNING"])
    assert ([step["Id"] for step in running["Steps"]], "Marker" in running) == ([ids[0]], False)
    named = world.call("ListSteps", ClusterId=cluster_id, StepIds=[ids[3], ids[1], ids[3]])["Steps"]
    assert [step["Id"] for step in named] == [ids[3], ids[1], ids[3]]
    with pytest.raises(EmrApiError, match=r"Cannot specify both StepIds and StepStates."):
        world.call("ListSteps", ClusterId=cluster_id, StepIds=[], StepStates=[])


def test_only_the_last_thousand_steps_are_visible() -> None:
    world = World()
    cluster_id = world.launch(StepConcurrencyLevel=256)
    ids: list[str] = []
    for _ in range(5):
        batch = world.add(cluster_id, *(step_config() for _ in range(250)))
        for step_id in batch:
            world.end(cluster_id, step_id)
        ids += batch
    seen, marker = [], None
    while True:
        page = world.call("ListSteps", ClusterId=cluster_id, **({"Marker": marker} if marker else {}))
        seen += [step["Id"] for step in page["Steps"]]
        if (marker := page.get("Marker")) is None:
            break
    assert seen == list(reversed(ids[-1000:]))


def test_a_start_delay_keeps_steps_pending_for_that_long() -> None:
    world = World(ModelOptions(step_start_delay_s=5))
    cluster_id = world.launch()
    world.add(cluster_id, step_config())
    world.wait(4)
    assert world.step_states(cluster_id) == ["PENDING"]
    world.wait(1)
    assert world.step_states(cluster_id) == ["RUNNING"]

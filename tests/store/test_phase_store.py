"""What agents and phases may rely on: leases, claims, results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emr_executor.core.model import HistoryEntry, WorkloadId
from emr_executor.core.states import WorkloadState, WorkloadTarget
from emr_executor.errors import StaleWriter
from emr_executor.store.change_store import Change
from emr_executor.store.lease_store import LeaseRow
from emr_executor.store.schema import STEERING
from tests.store.builders import ME, NOW, STEP, a_parked, a_workload, at
from tests.store.contract_builders import CLAIMED, OTHER, UNKNOWN, a_claimed, an_over, claim_all
from tests.store.whole_store import Store


async def test_a_lease_goes_to_the_first_who_asks(store: Store) -> None:
    seen = await store.agent.read_lease("work")
    assert seen == LeaseRow()
    assert await store.agent.take_lease("work", "a", seen) == 1
    assert await store.agent.take_lease("work", "b", seen) is None
    assert await store.agent.read_lease("work") == LeaseRow(holder="a", token=1, beat=0)
    assert await store.agent.read_lease("other") == LeaseRow()


async def test_a_lease_that_beat_since_it_was_seen_is_not_taken(store: Store) -> None:
    await store.agent.take_lease("work", "a", LeaseRow())
    seen = await store.agent.read_lease("work")
    assert await store.agent.beat_lease("work", "a", 1)
    assert await store.agent.take_lease("work", "b", seen) is None
    seen = await store.agent.read_lease("work")
    assert seen == LeaseRow(holder="a", token=1, beat=1)
    assert await store.agent.take_lease("work", "b", seen) == 2
    assert await store.agent.take_lease("work", "c", seen) is None
    assert await store.agent.read_lease("work") == LeaseRow(holder="b", token=2, beat=0)


async def test_a_lost_lease_neither_beats_nor_is_released(store: Store) -> None:
    await store.agent.take_lease("work", "a", LeaseRow())
    await store.agent.take_lease("work", "b", await store.agent.read_lease("work"))
    assert not await store.agent.beat_lease("work", "a", 1)
    assert not await store.agent.beat_lease("work", "a", 2)
    assert not await store.agent.beat_lease("none", "a", 1)
    await store.agent.release_lease("work", "a", 1)
    await store.agent.release_lease("work", "a", 2)
    await store.agent.release_lease("none", "a", 1)
    assert await store.agent.read_lease("work") == LeaseRow(holder="b", token=2, beat=0)


async def test_a_released_lease_is_free_and_its_tokens_are_not_used_again(store: Store) -> None:
    workload = a_parked()
    token = await store.put(workload)
    await store.agent.release_lease(STEERING, "test", token)
    free = await store.agent.read_lease(STEERING)
    assert free == LeaseRow(holder=None, token=token + 1, beat=0)
    with pytest.raises(StaleWriter, match="lease"):
        await store.agent.apply(token, [Change(old=workload, new=replace(workload, losses=1))])
    assert await store.agent.take_lease(STEERING, "b", free) == token + 2


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        ({}, "PREPARING"),
        ({"not_before": at(-1)}, "PREPARING"),
        ({"not_before": at(1)}, ""),
        ({"quarantine": "why"}, ""),
        ({"target": WorkloadTarget.CANCEL, "quarantine": "why"}, "PREPARING"),
        ({"state": WorkloadState.FINISHABLE}, "FINISHING"),
        ({"state": WorkloadState.FINISHABLE, "quarantine": "why"}, ""),
        ({"state": WorkloadState.FINISHABLE, "target": WorkloadTarget.CANCEL}, ""),
        ({"state": WorkloadState.READY}, ""),
    ],
    ids=str,
)
async def test_what_can_be_claimed_is_known_without_a_lock(
    store: Store, row: dict[str, Any], kinds: str
) -> None:
    await store.put(a_workload(**row))
    before = store.rows()
    assert await store.agent.claimable(NOW) == tuple(kinds.split())
    assert store.rows() == before
    for kind in (WorkloadState.FINISHING, WorkloadState.PREPARING):
        before = store.rows()
        await claim_all(store, kind)
        assert (store.rows() != before) == (kind in kinds.split())


async def test_the_deployment_is_the_same_for_all(store: Store) -> None:
    first = await store.agent.deployment_id()
    assert first
    assert await store.scheduler.deployment_id() == first
    assert await store.agent.deployment_id() == first


async def test_a_claim_brings_whole_workloads_by_turn(store: Store) -> None:
    late = a_workload(executor_config={"pod": 1})
    first = a_workload(priority_weight=3, accepted_at=at(50))
    early = a_workload(accepted_at=at(-50))
    waits = a_workload(priority_weight=9, not_before=at(1))
    await store.scheduler.accept([late, first, early, waits])
    got = await claim_all(store, WorkloadState.PREPARING, 2)
    phase = {"state": WorkloadState.PREPARING, "version": 1, "identity": ME, "started_at": NOW}
    assert got == (
        replace(first, **phase, claim_token="token-1", phase_attempts=1),
        replace(early, **phase, claim_token="token-2", phase_attempts=1),
    )
    assert [store.workload(w.workload_id) for w in got] == list(got)
    held = {(w.workload_id, w.claim_token, w.claim_beat) for w in got}
    assert set(await store.agent.claims()) == held
    assert [w.workload_id for w in await claim_all(store, WorkloadState.PREPARING)] == [late.workload_id]
    assert await claim_all(store, WorkloadState.PREPARING) == ()
    due = await claim_all(store, WorkloadState.PREPARING, now=at(1))
    assert [w.workload_id for w in due] == [waits.workload_id]


async def test_a_try_keeps_its_identity_and_start(store: Store) -> None:
    workload = a_workload(
        state=WorkloadState.FINISHABLE, identity=ME, started_at=at(-9), step=STEP, phase_attempts=1
    )
    await store.put(workload, a_parked())
    assert await claim_all(store, WorkloadState.PREPARING) == ()
    (mine,) = await claim_all(store, WorkloadState.FINISHING, who=OTHER)
    assert mine == replace(
        workload, state=WorkloadState.FINISHING, version=1, claim_token="token-1", phase_attempts=2
    )


async def test_what_nobody_wants_is_cancelled_before_its_first_phase(store: Store) -> None:
    unwanted, finishable = a_workload(), a_parked(state=WorkloadState.FINISHABLE)
    await store.put(unwanted, finishable)
    await store.agent.ask_cancel([unwanted.workload_id, finishable.workload_id], "cleared")
    assert await claim_all(store, WorkloadState.FINISHING) == ()
    assert store.workload(unwanted.workload_id).state is WorkloadState.ACCEPTED
    assert await claim_all(store, WorkloadState.PREPARING) == ()
    gone = replace(unwanted, target=WorkloadTarget.CANCEL, cancel_reason="cleared")
    assert store.workload(unwanted.workload_id) == replace(
        gone, state=WorkloadState.CANCELLED, finished_at=NOW, version=2
    )
    assert store.workload(finishable.workload_id).state is WorkloadState.FINISHABLE


async def test_a_claim_is_renewed_without_a_new_version(store: Store) -> None:
    workload = a_claimed()
    await store.put(workload)
    await store.phase.renew_claim(workload.workload_id, "mine")
    assert store.workload(workload.workload_id) == replace(workload, claim_beat=4)


@pytest.mark.parametrize("ready_at", [None, at(-5)])
async def test_parking_ends_the_claim_and_keeps_the_first_ready_at(store: Store, ready_at: Any) -> None:
    workload = a_claimed(phase_attempts=2, not_before=at(-1), ready_at=ready_at)
    await store.put(workload)
    await store.phase.record_parked(workload.workload_id, "mine", STEP, NOW)
    assert store.workload(workload.workload_id) == replace(
        workload,
        state=WorkloadState.READY,
        step=STEP,
        ready_at=ready_at or NOW,
        phase_attempts=0,
        not_before=None,
        claim_token=None,
        claim_beat=0,
        version=6,
    )


@pytest.mark.parametrize("kind", CLAIMED)
async def test_a_phase_may_end_the_try(store: Store, kind: WorkloadState) -> None:
    workload, other = a_claimed(kind), a_claimed(kind)
    await store.put(workload, other)
    await store.phase.record_over(workload.workload_id, "mine", "success", NOW)
    await store.agent.record_over(other.workload_id, "mine", "failed", NOW)
    for ended, state in ((workload, "success"), (other, "failed")):
        assert store.workload(ended.workload_id) == replace(
            ended,
            state=WorkloadState.FINISHED,
            airflow_state=state,
            finished_at=NOW,
            claim_token=None,
            claim_beat=0,
            version=6,
        )


@pytest.mark.parametrize(("attempts", "left"), [(3, 2), (1, 0), (0, 0)])
async def test_an_attempt_that_an_outage_spoilt_is_given_back(store: Store, attempts: int, left: int) -> None:
    workload = a_claimed(WorkloadState.FINISHING, phase_attempts=attempts)
    await store.put(workload)
    note = "no answer from the Execution API"
    await store.phase.record_retry(workload.workload_id, "mine", at(30), note, now=NOW, spent=False)
    found = store.workload(workload.workload_id)
    assert found is not None
    assert (found.state, found.phase_attempts) == (WorkloadState.FINISHABLE, left)


@pytest.mark.parametrize("kind", CLAIMED)
async def test_a_phase_may_ask_to_run_again_and_its_story_says_why(store: Store, kind: WorkloadState) -> None:
    workload = a_claimed(kind, phase_attempts=2)
    await store.put(workload)
    await store.phase.record_retry(workload.workload_id, "mine", at(30), "no credentials", now=NOW)
    assert store.workload(workload.workload_id) == replace(
        workload, state=CLAIMED[kind], not_before=at(30), claim_token=None, claim_beat=0, version=6
    )
    assert store.rows().history == (
        HistoryEntry(
            at=NOW,
            subject="workload",
            subject_id=workload.workload_id,
            event="phase_retried",
            text="no credentials",
        ),
    )


@pytest.mark.parametrize("by_agent", [False, True])
@pytest.mark.parametrize("kind", CLAIMED)
async def test_a_try_that_is_gone_is_over_where_it_has_no_step(
    store: Store, kind: WorkloadState, by_agent: bool
) -> None:
    workload = a_claimed(kind)
    await store.put(workload)
    users = store.agent if by_agent else store.phase
    await users.record_gone(workload.workload_id, "mine", "404", NOW)
    prepared = kind is WorkloadState.FINISHING
    assert store.workload(workload.workload_id) == replace(
        workload,
        state=WorkloadState.READY if prepared else WorkloadState.CANCELLED,
        target=WorkloadTarget.CANCEL,
        cancel_reason="404",
        finished_at=None if prepared else NOW,
        claim_token=None,
        claim_beat=0,
        version=6,
    )
    assert [(line.event, line.text) for line in store.rows().history] == [("no_longer_wanted", "404")]


@pytest.mark.parametrize("kind", CLAIMED)
async def test_what_airflow_is_about_to_be_told_is_written_under_the_claim(
    store: Store, kind: WorkloadState
) -> None:
    workload, other = a_claimed(kind), a_claimed(kind)
    await store.put(workload, other)
    await store.phase.record_intent(workload.workload_id, "mine", "success")
    await store.agent.record_intent(other.workload_id, "mine", "failed")
    for told, state in ((workload, "success"), (other, "failed")):
        assert store.workload(told.workload_id) == replace(told, airflow_state=state, claim_beat=4, version=6)
    await store.phase.record_retry(workload.workload_id, "mine", NOW, "no answer", now=NOW)
    assert store.workload(workload.workload_id).airflow_state == "success"


async def test_a_parked_try_has_told_nothing(store: Store) -> None:
    """Prepare was about to tell its failure, was not heard, and parks when it runs again."""
    workload = a_claimed(airflow_state="failed")
    await store.put(workload)
    await store.phase.record_parked(workload.workload_id, "mine", STEP, NOW)
    assert store.workload(workload.workload_id).airflow_state is None


@pytest.mark.parametrize(
    ("intent", "ti_state", "told"),
    [
        ("success", "success", True),
        ("failed", "failed", True),
        ("up_for_retry", "gone", True),
        ("up_for_retry", "cleared", False),
        ("success", "gone", False),
        ("success", "failed", False),
        ("success", "running", False),
        ("success", "cleared", False),
        (None, "success", False),
        (None, "gone", False),
    ],
)
@pytest.mark.parametrize("kind", CLAIMED)
async def test_a_refused_try_whose_report_had_arrived_is_finished(
    store: Store, kind: WorkloadState, intent: str | None, ti_state: str, told: bool
) -> None:
    """The answer was lost, or the phase died behind its report: what it was about to say stands in the row.

    A failure with retries left, like a clearing, gives the task instance another id.
    """
    workload = a_claimed(kind, airflow_state=intent)
    await store.put(workload)
    if ti_state == "cleared":
        store.task_instances.put(UNKNOWN, workload.key, "restarting")
    elif ti_state != "gone":
        store.task_instances.put(workload.workload_id, workload.key, ti_state)
    await store.phase.record_gone(workload.workload_id, "mine", "409 invalid_state", NOW)
    found = store.workload(workload.workload_id)
    if told:
        assert found == replace(
            workload,
            state=WorkloadState.FINISHED,
            finished_at=NOW,
            claim_token=None,
            claim_beat=0,
            version=6,
        )
    else:
        assert (found.target, found.cancel_reason) == (WorkloadTarget.CANCEL, "409 invalid_state")
    before = f"Airflow has the try as {intent}: it was told so before, and the answer was not heard"
    line = ("told_before", before) if told else ("no_longer_wanted", "409 invalid_state")
    assert [(entry.event, entry.text) for entry in store.rows().history] == [line]


@pytest.mark.parametrize(("attempts", "pause_s"), [(1, 5), (3, 20), (9, 60)])
@pytest.mark.parametrize("ti_state", ["scheduled", "queued"])
@pytest.mark.parametrize("kind", CLAIMED)
async def test_a_refused_try_that_airflow_queues_again_waits_where_it_stands(
    store: Store, kind: WorkloadState, ti_state: str, attempts: int, pause_s: int
) -> None:
    """Stuck in queued: SCHEDULED and then QUEUED again, under the same id and number."""
    workload = a_claimed(kind, phase_attempts=attempts)
    await store.put(workload)
    store.task_instances.put(workload.workload_id, workload.key, ti_state)
    await store.phase.record_gone(workload.workload_id, "mine", "409 invalid_state", NOW)
    assert store.workload(workload.workload_id) == replace(
        workload,
        state=CLAIMED[kind],
        not_before=at(pause_s),
        claim_token=None,
        claim_beat=0,
        version=6,
    )
    note = "Airflow took the try back (stuck in queued) and queues it again: 409 invalid_state"
    assert [(entry.event, entry.text) for entry in store.rows().history] == [("phase_retried", note)]


def phase_writes(store: Store, workload_id: WorkloadId, token: str) -> dict[str, Any]:
    phase, agent = store.phase, store.agent
    return {
        "renew": lambda: phase.renew_claim(workload_id, token),
        "parked": lambda: phase.record_parked(workload_id, token, STEP, NOW),
        "intent": lambda: phase.record_intent(workload_id, token, "success"),
        "agent intent": lambda: agent.record_intent(workload_id, token, "failed"),
        "over": lambda: phase.record_over(workload_id, token, "success", NOW),
        "retry": lambda: phase.record_retry(workload_id, token, NOW, "note", now=NOW),
        "gone": lambda: phase.record_gone(workload_id, token, "why", NOW),
        "agent over": lambda: agent.record_over(workload_id, token, "success", NOW),
        "agent gone": lambda: agent.record_gone(workload_id, token, "why", NOW),
    }


async def test_a_lost_claim_writes_nothing(store: Store) -> None:
    taken = a_claimed(claim_token="theirs")
    freed, finished = a_workload(version=3), an_over()
    # A token that was left behind says nothing where no phase is.
    left = a_parked(claim_token="mine")
    await store.put(taken, freed, finished, left)
    before = store.rows()
    for workload_id in (*(w.workload_id for w in (taken, freed, finished, left)), UNKNOWN):
        for write in phase_writes(store, workload_id, "mine").values():
            with pytest.raises(StaleWriter, match=f"{workload_id} is lost: its phase runs elsewhere"):
                await write()
        assert not await store.agent.free_claim(workload_id, "mine", 3, None)
    assert store.rows() == before


async def test_only_a_prepare_phase_parks(store: Store) -> None:
    workload = a_claimed(WorkloadState.FINISHING)
    await store.put(workload)
    with pytest.raises(StaleWriter):
        await store.phase.record_parked(workload.workload_id, "mine", STEP, NOW)
    assert store.workload(workload.workload_id) == workload


@pytest.mark.parametrize("not_before", [None, at(5)])
@pytest.mark.parametrize("kind", CLAIMED)
async def test_a_silent_claim_is_freed_and_its_phase_refused(
    store: Store, kind: WorkloadState, not_before: Any
) -> None:
    workload = a_claimed(kind, not_before=at(-5))
    await store.put(workload)
    seen = (workload.workload_id, "mine", 3)
    await store.phase.renew_claim(workload.workload_id, "mine")
    assert not await store.agent.free_claim(*seen, not_before)
    assert await store.agent.claims() == ((workload.workload_id, "mine", 4),)
    assert await store.agent.free_claim(workload.workload_id, "mine", 4, not_before)
    assert store.workload(workload.workload_id) == replace(
        workload, state=CLAIMED[kind], not_before=not_before, claim_token=None, claim_beat=0, version=6
    )
    assert await store.agent.claims() == ()
    with pytest.raises(StaleWriter):
        await store.phase.renew_claim(workload.workload_id, "mine")
    assert not await store.agent.free_claim(workload.workload_id, "mine", 4, not_before)

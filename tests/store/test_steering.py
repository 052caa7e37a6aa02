"""What the steering agent may rely on: its snapshot, its guarded writes, what it purges."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from emr_executor.core.states import (
    ClusterState,
    ClusterTarget,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.transitions import Row
from emr_executor.errors import InvalidTransition, StaleWriter
from emr_executor.store.change_store import Change, key_of
from emr_executor.store.history_store import PURGE_BATCH, Purged, purge
from tests.store.builders import ME, NOW, SCHEDULER, STEP, a_cluster, a_parked, a_submission, a_workload, at
from tests.store.contract_builders import (
    LINE,
    LIVE,
    OUTCOME,
    an_over,
    claim_all,
    placed,
)
from tests.store.whole_store import Rows, Store, lean

STRAYS = [a_cluster(), a_parked(), a_submission(a_parked(), a_cluster(), state=SubmissionState.LOST)]


async def test_a_snapshot_holds_all_that_lives_and_nothing_else(store: Store) -> None:
    up, ended, unsettled = (
        a_cluster(),
        a_cluster(state=ClusterState.TERMINATED),
        a_cluster(state=ClusterState.TERMINATED_WITH_ERRORS, ended_at=NOW),
    )
    riding, lost = a_parked(state=WorkloadState.SUBMITTED), a_parked(state=WorkloadState.SUBMITTED)
    live = [a_submission(riding, up), a_submission(lost, unsettled, state=SubmissionState.RUNNING)]
    dead = [a_submission(riding, ended, 2, state=s) for s in (SubmissionState.LOST,)]
    cancelled = [a_parked(state=s, target=WorkloadTarget.CANCEL) for s in LIVE]
    ready = a_parked(workload={"big": 1}, executor_config={"pod": 2})
    others = [a_parked(state=s) for s in WorkloadState if s not in {"READY", "SUBMITTED"}]
    await store.put(up, ended, unsettled, *live, *dead, riding, lost, *cancelled, ready, *others)
    seen = await store.agent.snapshot(NOW, 10)
    assert seen.now == NOW
    assert {c.cluster_uuid for c in seen.clusters} == {up.cluster_uuid, unsettled.cluster_uuid}
    assert sorted(seen.submissions, key=lambda s: s.submission_id) == sorted(
        live, key=lambda s: s.submission_id
    )
    assert seen.workloads[0] == lean(ready)
    engaged = sorted(seen.workloads[1:], key=lambda w: w.workload_id)
    assert engaged == [*map(lean, [riding, lost, *cancelled])]
    assert seen.ready_beyond == 0


async def test_ready_ones_come_by_turn_within_the_limit_and_the_rest_is_counted(store: Store) -> None:
    ready = [a_parked(accepted_at=at(-n % 3), priority_weight=n % 2) for n in range(7)]
    await store.put(*ready)
    turns = sorted(ready, key=lambda w: (-w.priority_weight, w.accepted_at, w.workload_id))
    seen = await store.agent.snapshot(NOW, 3)
    assert seen.workloads == tuple(map(lean, turns[:3]))
    assert seen.ready_beyond == 4
    # A new hand-over with another priority is another turn.
    await store.scheduler.accept([replace(turns[-1], priority_weight=9)])
    seen = await store.agent.snapshot(NOW, 1)
    assert [w.workload_id for w in seen.workloads] == [turns[-1].workload_id]


async def test_a_tick_is_written_with_new_versions_in_the_order_given(store: Store) -> None:
    workload, cluster = a_parked(version=3, executor_config={"pod": 1}), a_cluster()
    token = await store.put(workload, cluster)
    submission = a_submission(workload, cluster)
    read = lean(workload)
    draining = replace(cluster, target=ClusterTarget.DRAIN)
    changes = [
        Change(old=read, new=placed(read)),
        Change(old=None, new=submission),
        Change(old=cluster, new=draining),
    ]
    written = await store.agent.apply(token, changes, [LINE])
    assert written == (replace(placed(read), version=4), submission, replace(draining, version=1))
    rows = store.rows()
    assert rows.workloads == ((replace(placed(workload), version=4), 0),)
    assert (rows.submissions, rows.clusters, rows.history) == ((submission,), (written[2],), (LINE,))


async def test_fields_that_did_not_change_are_left_to_their_writers(store: Store) -> None:
    workload = a_parked(state=WorkloadState.SUBMITTED)
    token = await store.put(workload)
    (read,) = (await store.agent.snapshot(NOW, 10)).workloads
    await store.scheduler.accept([replace(workload, scheduler_job_id=99, priority_weight=5)])
    ended = replace(read, state=WorkloadState.FINISHABLE, outcome=OUTCOME, losses=1)
    assert await store.agent.apply(token, [Change(old=read, new=ended)]) == (replace(ended, version=1),)
    assert store.workload(workload.workload_id) == replace(
        workload,
        state=WorkloadState.FINISHABLE,
        outcome=OUTCOME,
        losses=1,
        version=1,
        scheduler_job_id=99,
        priority_weight=5,
    )


async def test_one_refusal_refuses_all(store: Store) -> None:
    kept, moved, cluster = a_parked(), a_parked(), a_cluster()
    there = a_submission(kept, cluster)
    token = await store.put(kept, moved, cluster, there)
    await store.agent.ask_cancel([moved.workload_id], "cleared")
    before = store.rows()
    good = [
        Change(old=kept, new=placed(kept)),
        Change(old=cluster, new=replace(cluster, idle_since=NOW)),
        Change(old=None, new=a_submission(kept, cluster, 2)),
        Change(old=None, new=a_cluster(state=ClusterState.INTENDED)),
    ]
    unknown = a_parked()
    refused = {
        f"{moved.workload_id} .read at version 0, now 1": Change(old=moved, new=placed(moved)),
        f"{unknown.workload_id} .read at version 0, now deleted": Change(old=unknown, new=placed(unknown)),
        there.submission_id: Change(old=None, new=there),
        cluster.cluster_uuid: Change(old=None, new=replace(cluster, state=ClusterState.INTENDED)),
    }
    for key, change in refused.items():
        with pytest.raises(StaleWriter, match=key) as stale:
            await store.agent.apply(token, [*good[:1], change, *good[2:]], [LINE])
        assert f"{kept.workload_id} (read" not in str(stale.value)
    for another in (token - 1, token + 1):
        with pytest.raises(StaleWriter, match="another agent has taken over"):
            await store.agent.apply(another, good, [LINE])
    assert store.rows() == before
    assert len(await store.agent.apply(token, good, [LINE])) == 4


@pytest.mark.parametrize(
    "stray", [a_cluster(), a_submission(a_parked(), a_cluster(), state="LOST"), a_parked()]
)
async def test_a_new_row_in_a_state_where_none_begins_is_a_bug(store: Store, stray: Row) -> None:
    token = await store.put()
    with pytest.raises(InvalidTransition, match=key_of(stray)):
        await store.agent.apply(
            token,
            [Change(old=None, new=a_cluster(state=ClusterState.INTENDED)), Change(old=None, new=stray)],
            [LINE],
        )
    assert store.rows() == Rows(workloads=(), submissions=(), clusters=(), history=())


async def test_a_move_that_no_table_has_is_a_bug_and_writes_nothing(store: Store) -> None:
    workload, ended = a_parked(), a_cluster(state=ClusterState.TERMINATED)
    token = await store.put(workload, ended)
    before = store.rows()
    good = Change(old=workload, new=placed(workload))
    for old, new in (
        (workload, replace(workload, state=WorkloadState.FINISHED)),
        (ended, replace(ended, state=ClusterState.WAITING)),
    ):
        with pytest.raises(InvalidTransition, match=key_of(old)):
            await store.agent.apply(token, [good, Change(old=old, new=new)], [LINE])
    assert store.rows() == before


async def test_clusters_are_found_by_their_uuid_over_or_not(store: Store) -> None:
    up, ended, other = a_cluster(), a_cluster(state=ClusterState.TERMINATED), a_cluster()
    await store.put(up, ended, other)
    asked = [ended.cluster_uuid, "unknown", up.cluster_uuid, up.cluster_uuid]
    assert sorted(await store.agent.clusters(asked), key=key_of) == [up, ended]
    assert await store.agent.clusters([]) == ()


async def test_without_a_lease_ever_taken_nothing_is_written(store: Store) -> None:
    with pytest.raises(StaleWriter, match="lease"):
        await store.agent.apply(0, [], [LINE])
    assert store.rows().history == ()


async def test_a_change_of_nothing_is_never_stale(store: Store) -> None:
    workload = a_parked()
    token = await store.put(workload)
    await store.agent.ask_cancel([workload.workload_id], "cleared")
    before = store.rows()
    assert await store.agent.apply(token, [Change(old=workload, new=workload)]) == (workload,)
    assert store.rows() == before


async def test_several_changes_of_one_row_count_as_one(store: Store) -> None:
    workload, cluster = a_parked(), a_cluster()
    token = await store.put(workload)
    between = placed(workload)
    last = replace(between, not_before=NOW)
    submission = a_submission(workload, cluster)
    running = replace(submission, state=SubmissionState.RUNNING)
    changes = [
        Change(old=workload, new=between),
        Change(old=None, new=submission),
        Change(old=between, new=last),
        Change(old=submission, new=running),
    ]
    written = await store.agent.apply(token, changes)
    assert written == (replace(last, version=1), running, replace(last, version=1), running)
    assert (store.rows().workloads, store.rows().submissions) == (((written[0], 0),), (running,))


async def test_a_purge_takes_what_has_long_been_over_and_leaves_what_lives(store: Store) -> None:
    old, young = an_over(finished_at=at(-61)), an_over(WorkloadState.CANCELLED, finished_at=at(-60))
    dead = {"state": ClusterState.TERMINATED, "ended_at": at(-61)}
    used, unused, recent = a_cluster(**dead), a_cluster(**dead), a_cluster(**{**dead, "ended_at": at(-60)})
    never_ended = a_cluster(state=ClusterState.NEVER_LAUNCHED)
    living = a_parked(state=WorkloadState.SUBMITTED, accepted_at=at(-999))
    ended = {"state": SubmissionState.COMPLETED}
    gone = [a_submission(old, unused, n, **ended) for n in (1, 2)]
    kept = [a_submission(young, used, **ended)]
    lines = [replace(LINE, at=at(-61)), replace(LINE, at=at(-60))]
    await store.put(old, young, used, unused, recent, never_ended, living, *gone, *kept)
    await store.agent.append(lines)
    purged = await store.agent.purge(NOW, 60.0)
    assert purged == Purged(workloads=1, submissions=2, clusters=1, history=1, more=False)
    rows = store.rows()
    assert [w for w, _ in rows.workloads] == sorted([young, living], key=lambda w: w.workload_id)
    assert rows.submissions == tuple(sorted(kept, key=lambda s: s.submission_id))
    assert [c.cluster_uuid for c in rows.clusters] == sorted(
        c.cluster_uuid for c in (used, recent, never_ended)
    )
    assert rows.history == (lines[1],)
    assert await store.agent.purge(NOW, 60.0) == Purged(
        workloads=0, submissions=0, clusters=0, history=0, more=False
    )


async def test_one_accepted_again_since_it_ended_is_not_purged(store: Store) -> None:
    workload = an_over(finished_at=at(-100))
    await store.put(workload)
    again = a_workload(workload_id=workload.workload_id, key=workload.key)
    await store.scheduler.accept([again])
    assert (await store.agent.purge(NOW, 60.0)).workloads == 0
    await store.agent.claim(WorkloadState.PREPARING, 1, ME, now=NOW, new_token=lambda: "t")
    await store.phase.record_over(workload.workload_id, "t", "success", at(-50))
    assert (await store.agent.purge(NOW, 60.0)).workloads == 0
    assert (await store.agent.purge(NOW + timedelta(seconds=11), 60.0)).workloads == 1
    assert store.rows().workloads == ()


async def test_a_purge_works_in_batches_the_first_end_first(store: Store) -> None:
    ended = [an_over(finished_at=at(-100 - n)) for n in range(PURGE_BATCH + 1)]
    await store.put(*ended)
    assert await store.agent.purge(NOW, 60.0) == Purged(
        workloads=PURGE_BATCH, submissions=0, clusters=0, history=0, more=True
    )
    assert [w for w, _ in store.rows().workloads] == [ended[0]]
    assert (await store.agent.purge(NOW, 60.0)).more is False
    assert store.rows().workloads == ()


async def test_a_batch_of_the_story_is_bounded_too(store: Store) -> None:
    await store.put(*(an_over(finished_at=at(-9)) for _ in range(5)))
    await store.agent.append([replace(LINE, at=at(-9))] * 3)
    batches = [store.transact(purge, NOW, 1.0, 2) for _ in range(3)]
    sizes = [(purged.workloads, purged.history, purged.more) for purged in batches]
    assert sizes == [(2, 2, True), (2, 1, True), (1, 0, False)]
    assert (store.rows().workloads, store.rows().history) == ((), ())


async def test_the_story_is_kept_in_its_order(store: Store) -> None:
    lines = [replace(LINE, text=str(n), at=at(-n)) for n in range(5)]
    await store.agent.append([])
    await store.agent.append(lines[:2])
    await store.agent.append(lines[2:])
    assert store.rows().history == tuple(lines)


async def test_numbers_of_submissions_are_kept_through_all(store: Store) -> None:
    """The whole life, twice, by the stores alone."""
    given, cluster = a_workload(), a_cluster()
    token = await store.put(cluster)
    for n in (1, 2):
        await store.scheduler.accept([given])
        (mine,) = await claim_all(store, WorkloadState.PREPARING)
        await store.phase.record_parked(mine.workload_id, mine.claim_token, STEP, NOW)
        (ready,) = (await store.agent.snapshot(NOW, 10)).workloads
        assert ready.submissions == n - 1
        submission = a_submission(ready, cluster, n)
        rides = [Change(old=ready, new=placed(ready)), Change(old=None, new=submission)]
        riding, live = await store.agent.apply(token, rides)
        done = replace(live, state=SubmissionState.COMPLETED)
        finishable = replace(riding, state=WorkloadState.FINISHABLE, outcome=OUTCOME)
        await store.agent.apply(token, [Change(old=riding, new=finishable), Change(old=live, new=done)])
        assert (await store.agent.snapshot(NOW, 10)).workloads == ()
        (mine,) = await claim_all(store, WorkloadState.FINISHING)
        await store.phase.record_over(mine.workload_id, mine.claim_token, "success", at(n))
        (outcome,) = await store.scheduler.take_outcomes(SCHEDULER, 10)
        assert outcome.airflow_state == "success"
    assert [s.n for s in store.rows().submissions] == [1, 2]

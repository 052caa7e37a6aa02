"""A quarantined workload: nobody's turn, nobody's phase, alive for Airflow."""

from __future__ import annotations

from dataclasses import replace

from emr_executor.core.states import WorkloadState
from emr_executor.store.change_store import Change
from tests.store.builders import ME, NOW, a_cluster, a_parked, a_submission
from tests.store.whole_store import Store

WHY = "no edge from READY on step_completed"


async def ready_ones(store: Store, limit: int = 10) -> tuple[list[str], int]:
    found = await store.agent.snapshot(NOW, limit)
    return [w.workload_id for w in found.workloads], found.ready_beyond


async def test_a_quarantined_one_takes_nobodys_place_in_line(store: Store) -> None:
    held = [a_parked(priority_weight=9, quarantine=WHY) for _ in range(3)]
    waits = a_parked()
    await store.put(*held, waits)
    assert await ready_ones(store, 1) == ([waits.workload_id], 0)


async def test_one_that_airflow_does_not_want_any_more_is_seen_again(store: Store) -> None:
    held = a_parked(quarantine=WHY)
    await store.put(held)
    assert await ready_ones(store) == ([], 0)
    assert await store.agent.ask_cancel([held.workload_id], "cleared") == 1
    assert await ready_ones(store) == ([held.workload_id], 0)


async def test_one_with_a_submission_stays_in_sight(store: Store) -> None:
    held, cluster = a_parked(state=WorkloadState.SUBMITTED, quarantine=WHY), a_cluster(quarantine=WHY)
    ride = a_submission(held, cluster, quarantine=WHY)
    await store.put(held, cluster, ride)
    found = await store.agent.snapshot(NOW, 10)
    assert [row.quarantine for row in (*found.workloads, *found.clusters, *found.submissions)] == [WHY] * 3


async def test_airflow_hears_of_it_and_is_asked_whether_it_wants_it(store: Store) -> None:
    held = a_parked(quarantine=WHY)
    await store.put(held)
    assert await store.agent.heartbeat_targets() == ((held.workload_id, ME),)
    assert await store.agent.unwanted() == ((held.workload_id, None),)


async def test_the_quarantine_is_written_and_the_row_counts_no_more(store: Store) -> None:
    workload = a_parked()
    token = await store.put(workload)
    held = replace(workload, quarantine=WHY)
    assert await store.agent.apply(token, [Change(old=workload, new=held)]) == (replace(held, version=1),)
    assert await ready_ones(store) == ([], 0)

"""What no order of turns shows (``test_interleavings``): who need not wait, and who fails leaves nothing."""

from __future__ import annotations

from sqlalchemy import Engine

from emr_executor.core.states import WorkloadState
from emr_executor.store.phase_store import claim
from emr_executor.store.scheduler_store import accept, live
from tests.store.builders import ME, NOW, a_workload, store, stored
from tests.store.contract_builders import OTHER


def test_two_sessions_that_claim_at_once_get_different_workloads(postgres: Engine) -> None:
    workloads = [a_workload() for _ in range(4)]
    with postgres.begin() as conn:
        store(conn, *workloads)
    with postgres.begin() as one, postgres.begin() as two:
        first = claim(one, WorkloadState.PREPARING, 2, ME, now=NOW, new_token=lambda: "t")
        second = claim(two, WorkloadState.PREPARING, 4, OTHER, now=NOW, new_token=lambda: "t")
    ids = [w.workload_id for w in workloads]
    assert [w.workload_id for w in first] == ids[:2]
    assert [w.workload_id for w in second] == ids[2:]
    with postgres.begin() as conn:
        assert [stored(conn, i) for i in ids] == [*first, *second]


def test_accept_leaves_nothing_when_the_scheduler_rolls_back(engine: Engine) -> None:
    workload = a_workload()
    with engine.connect() as conn:
        transaction = conn.begin()
        accept(conn, [workload])
        transaction.rollback()
    with engine.begin() as conn:
        assert live(conn, [workload.workload_id]) == set()

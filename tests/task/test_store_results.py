"""The real results: a phase's row in a database, guarded by its claim."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from emr_executor.core.model import Workload
from emr_executor.core.states import WorkloadState, WorkloadTarget
from emr_executor.errors import StaleWriter
from emr_executor.store.dialect import engine_for
from emr_executor.store.schema import AIRFLOW, METADATA
from emr_executor.task.results import PhaseResults, backoff_s
from tests.store.builders import ME, NOW, STEP, a_workload, store, stored


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    url = f"sqlite:///{tmp_path}/airflow.db"
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
    engine = engine_for(url)
    METADATA.create_all(engine)
    AIRFLOW.create_all(engine)
    return engine


@pytest.fixture
def claimed(engine: Engine) -> Workload:
    workload = a_workload(
        state=WorkloadState.PREPARING, identity=ME, started_at=NOW, claim_token="mine", phase_attempts=1
    )
    with engine.begin() as conn:
        store(conn, workload)
    return workload


def now_stored(engine: Engine, workload: Workload) -> Workload:
    with engine.begin() as conn:
        return stored(conn, workload.workload_id)


def test_a_parked_step_is_stored_after_signs_of_life(engine: Engine, claimed: Workload) -> None:
    results = PhaseResults(claimed.workload_id, "mine")
    results.renew()
    assert now_stored(engine, claimed).claim_beat == 1
    results.parked(STEP)
    row = now_stored(engine, claimed)
    assert (row.state, row.step, row.claim_token) == (WorkloadState.READY, STEP, None)
    with pytest.raises(StaleWriter):
        results.renew()


def test_an_end_a_retry_and_a_try_that_is_gone(engine: Engine, claimed: Workload) -> None:
    PhaseResults(claimed.workload_id, "mine").retry(60, "no answer")
    row = now_stored(engine, claimed)
    assert row.state is WorkloadState.ACCEPTED
    assert row.not_before is not None
    for write, state in (("over", WorkloadState.FINISHED), ("gone", WorkloadState.CANCELLED)):
        other = a_workload(state=WorkloadState.PREPARING, identity=ME, started_at=NOW, claim_token="mine")
        with engine.begin() as conn:
            store(conn, other)
        getattr(PhaseResults(other.workload_id, "mine"), write)("why")
        assert now_stored(engine, other).state is state
    assert now_stored(engine, other).target is WorkloadTarget.CANCEL


def test_a_claim_that_is_not_ours_writes_nothing(engine: Engine, claimed: Workload) -> None:
    results = PhaseResults(claimed.workload_id, "another")
    with pytest.raises(StaleWriter):
        results.parked(STEP)
    assert now_stored(engine, claimed) == claimed


def test_backoff_grows_from_five_seconds_to_five_minutes() -> None:
    assert [backoff_s(attempts) for attempts in (0, 1, 2, 3, 4, 60, -1)] == [5, 10, 20, 40, 60, 60, 5]

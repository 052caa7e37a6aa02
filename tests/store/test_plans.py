"""With thousands of workloads parked and ten times as many over, what runs often reads few rows."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from emr_executor.core.states import WorkloadState
from emr_executor.store import queries
from emr_executor.store.dialect import engine_for
from emr_executor.store.phase_store import claim, claimable, claims
from emr_executor.store.reference_store import live_submissions, named_by_live_steps
from emr_executor.store.scheduler_store import accept, adopt, live, take_outcomes
from emr_executor.store.schema import AIRFLOW, METADATA
from emr_executor.store.snapshot_store import heartbeat_targets, line, snapshot, unwanted
from tests.postgres import fresh_database
from tests.store.builders import ME, NOW, SCHEDULER, a_workload

# 300 workloads accepted, 300 submitted on 10 clusters, 3,400 ready, the others over, 20 of them unread.
FILL = """
INSERT INTO emr_workload (workload_id, dag_id, task_id, run_id, try_number, map_index, cluster_pool, queue,
  priority_weight, accepted_at, scheduler_job_id, state, target, version, claim_beat,
  hostname, unixname, pid, submissions, losses, phase_attempts, finished_at, reported)
SELECT lpad(to_hex(n), 8, '0') || '-0000-0000-0000-000000000000', 'd' || n % 50, 't' || n, 'r', 1, -1,
  'default', 'emr', n % 3, timestamptz '2031-01-01' + n * interval '1 second', 11,
  CASE WHEN n > 4000 THEN 'FINISHED' WHEN n > 600 THEN 'READY' WHEN n > 300 THEN 'SUBMITTED'
    ELSE 'ACCEPTED' END, 'RUN', 0, 0, 'host-a', 'airflow', 1, 0, 0, 0,
  CASE WHEN n > 4000 THEN now() END, CASE WHEN n BETWEEN 4001 AND :total - 20 THEN 2 ELSE 0 END
FROM generate_series(1, :total) AS n;
INSERT INTO task_instance (id, dag_id, task_id, run_id, map_index, try_number, state)
SELECT (lpad(to_hex(n), 8, '0') || '-0000-0000-0000-000000000000')::uuid, 'd' || n % 50, 't' || n,
  'r', -1, 1, 'running'
FROM generate_series(1, :total) AS n;
INSERT INTO emr_submission (submission_id, workload_id, n, cluster_uuid, state, intended_at, version,
  timed_out, wrapper_ended, wrapper_reason, cause, output_chunks)
SELECT workload_id || '-1', workload_id, 1, 'c' || CASE WHEN state = 'SUBMITTED' THEN right(task_id, 1)
  ELSE task_id END, CASE WHEN state = 'SUBMITTED' THEN 'RUNNING' ELSE 'COMPLETED' END, now(), 0,
  false, false, '', '', 0
FROM emr_workload WHERE state IN ('SUBMITTED', 'FINISHED');
INSERT INTO emr_cluster (cluster_uuid, cluster_pool, name, template_hash, slots, state, intended_at, target,
  version)
SELECT DISTINCT cluster_uuid, 'default', cluster_uuid, 'h', 30, CASE WHEN state = 'RUNNING' THEN 'RUNNING'
  ELSE 'TERMINATED' END, now(), 'KEEP', 0
FROM emr_submission;
"""
SOME = [str(uuid.UUID(int=n << 96)) for n in range(1, 50)]


@pytest.fixture(scope="module")
def full() -> Iterator[Engine]:
    """Nine in ten workloads are over."""
    yield from filled(40_000)


@pytest.fixture(scope="module")
def young() -> Iterator[Engine]:
    """As many workloads are parked as are over."""
    yield from filled(8_000)


def filled(total: int) -> Iterator[Engine]:
    engine = engine_for(fresh_database())
    METADATA.create_all(engine)
    AIRFLOW.create_all(engine)
    with engine.begin() as conn:
        conn.execute(text(FILL), {"total": total})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE"))
    yield engine
    engine.dispose()


def rows_read(plan: dict[str, Any]) -> int:
    """Rows that the plan's scans touched, kept or not."""
    own = 0
    if "Scan" in plan["Node Type"] and plan["Node Type"] not in {
        "Subquery Scan",
        "CTE Scan",
        "Bitmap Index Scan",
    }:
        touched = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        own = int(touched * plan["Actual Loops"])
    return own + sum(rows_read(child) for child in plan.get("Plans", ()))


def cost(engine: Engine, call: Callable[[Connection], Any]) -> int:
    """Rows that all single statements of a call read."""
    recorded: list[tuple[str, Any]] = []

    def record(
        _conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool
    ) -> None:
        if not executemany:
            recorded.append((statement, parameters))

    total = 0
    with engine.connect() as conn:
        event.listen(engine, "before_cursor_execute", record)
        call(conn)
        event.remove(engine, "before_cursor_execute", record)
        conn.rollback()
        assert recorded
        for statement, parameters in recorded:
            explained = conn.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            total += rows_read(explained.scalar_one()[0]["Plan"])
        conn.rollback()
    return total


CALLS = {
    "accept": (10, lambda conn: accept(conn, [a_workload() for _ in range(1)])),
    "take_outcomes": (60, lambda conn: take_outcomes(conn, SCHEDULER, 100)),
    "adopt": (200, lambda conn: adopt(conn, SOME, 12)),
    "live": (60, lambda conn: live(conn, SOME)),
    "claim": (40, lambda conn: claim(conn, WorkloadState.PREPARING, 8, ME, now=NOW, new_token=lambda: "t")),
    "claimable": (10, lambda conn: claimable(conn, NOW)),
    "claims": (10, claims),
    # 10 clusters, 300 steps, 300 submitted, 200 ready by turn, and a count of the 3,400 that wait; then the
    # values of these 810, of which later ones read what changed.
    "first_snapshot": (5_100, lambda conn: snapshot(conn, NOW, 200)),
    # 4,000 that are parked or wait, each with its task instance; of the parked ones, 3,700, no more is asked.
    "unwanted": (8_000, unwanted),
    # 4,000 that live.
    "line": (4_100, line),
    "heartbeat_targets": (4_300, heartbeat_targets),
    "workloads_of": (1_300, lambda conn: queries.workloads_of(conn, dag_id="d7", task_id="t57")),
    "status": (4_400, queries.status),
    "named_by_live_steps": (8_100, lambda conn: named_by_live_steps(conn, lambda _: ())),
    "live_submissions": (100, lambda conn: live_submissions(conn, [f"{i}-1" for i in SOME])),
}


@pytest.mark.parametrize(("rows", "call"), CALLS.values(), ids=CALLS)
def test_what_runs_often_reads_few_rows(full: Engine, rows: int, call: Callable[[Connection], Any]) -> None:
    assert cost(full, call) <= rows


def test_a_scheduler_reads_few_rows_also_where_most_are_parked(young: Engine) -> None:
    assert cost(young, lambda conn: take_outcomes(conn, SCHEDULER, 100)) <= 60


def test_reading_a_whole_table_would_be_noticed(full: Engine) -> None:
    everything = text("SELECT count(*) FROM emr_workload WHERE queue = 'x'")
    assert cost(full, lambda conn: conn.execute(everything)) == 40_000

"""Rows of every release are understood, and survive every way up and down, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, text

from emr_executor.core.states import (
    LIVE_SUBMISSION_STATES,
    OVER_CLUSTER_STATES,
    ClusterState,
    ClusterTarget,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.store import queries
from emr_executor.store.change_store import Change, apply
from emr_executor.store.db_manager import EmrExecutorDBManager
from emr_executor.store.dialect import engine_for
from emr_executor.store.health_store import agents
from emr_executor.store.history_store import purge
from emr_executor.store.lease_store import read_lease, take_lease
from emr_executor.store.phase_store import claim, claims
from emr_executor.store.reference_store import live_submissions, named_by_live_steps
from emr_executor.store.revision import REVISIONS, tables_problem
from emr_executor.store.rows import cluster_from, mapping_of, submission_from, workload_from
from emr_executor.store.scheduler_store import adopt, deployment_id, take_outcomes
from emr_executor.store.schema import (
    AIRFLOW,
    CLUSTER,
    METADATA,
    STEERING,
    SUBMISSION,
    VERSION_TABLE,
    WORKLOAD,
)
from emr_executor.store.snapshot_store import heartbeat_targets, snapshot
from tests.postgres import fresh_database
from tests.store import golden
from tests.store.golden import JOB, ME, MOMENT, STEP, config_for, dump, load, rows_of
from tests.store.test_migrations import differences

STATES = {"emr_workload": WorkloadState, "emr_submission": SubmissionState, "emr_cluster": ClusterState}
NEXT = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "next", "{head}", None, None
BROKEN = {broken}

def upgrade():
    with op.batch_alter_table("emr_workload") as batch:
        batch.add_column(sa.Column("cost", sa.Integer(), nullable=False, server_default="7"))
        batch.alter_column("queue", new_column_name="airflow_queue")
        batch.create_index("emr_workload_cost", ["cost"])
    op.create_table("emr_new", sa.Column("id", sa.Integer(), primary_key=True))
    if BROKEN:
        op.execute("SELECT no_such_column FROM emr_workload")

def downgrade():
    op.drop_table("emr_new")
    with op.batch_alter_table("emr_workload") as batch:
        batch.drop_index("emr_workload_cost")
        batch.drop_column("cost")
        batch.alter_column("airflow_queue", new_column_name="queue")
    if BROKEN:
        op.execute("SELECT no_such_column FROM emr_workload")
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    """A database with nothing but those tables of Airflow's that we read."""
    url = fresh_database() if request.param == "postgresql" else f"sqlite:///{tmp_path / 'airflow.db'}"
    engine = engine_for(url)
    AIRFLOW.create_all(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture(params=REVISIONS)
def old(request: pytest.FixtureRequest) -> str:
    """Each revision that there has been."""
    return str(request.param)


@pytest.fixture
def conn(empty: Connection, old: str) -> Connection:
    """Rows of a revision, brought to the present one."""
    command.upgrade(config_for(empty), old)
    load(empty, old)
    command.upgrade(config_for(empty), "head")
    return empty


def ids(old: str, table: str, key: str, **columns: Any) -> set[str]:
    """Keys of a revision's rows that have these values."""
    return {
        row[key]
        for row in rows_of(old)[table]
        if all(row[name] in wanted for name, wanted in columns.items())
    }


def workloads(old: str, **columns: Any) -> set[str]:
    return ids(old, "emr_workload", "workload_id", **columns)


# -- the files -----------------------------------------------------------------------------------


def test_the_present_revisions_file_is_what_this_release_writes() -> None:
    written = golden.written_now()
    assert written == rows_of(REVISIONS[-1]), "see docs/development.md, 'A new revision of the tables'"


def test_revisions_are_listed_in_order() -> None:
    script = ScriptDirectory.from_config(Config(golden.STORE / "alembic.ini"))
    assert script.get_heads() == [REVISIONS[-1]]
    assert [revision.revision for revision in script.walk_revisions()] == list(reversed(REVISIONS))
    assert set(EmrExecutorDBManager.revision_heads_map.values()) <= set(REVISIONS)
    assert list(EmrExecutorDBManager.revision_heads_map.values())[-1] == REVISIONS[-1]


def test_a_file_has_every_table_and_every_state(old: str) -> None:
    rows = rows_of(old)
    assert all(rows.values())
    assert {row["target"] for row in rows["emr_workload"]} == set(WorkloadTarget)
    assert {row["target"] for row in rows["emr_cluster"]} == set(ClusterTarget)
    if old == REVISIONS[-1]:
        assert rows.keys() == METADATA.tables.keys()
        for table, states in STATES.items():
            assert {row["state"] for row in rows[table]} == set(states)


# -- today's code on old rows ----------------------------------------------------------------------


def test_the_tables_are_those_of_this_release(conn: Connection) -> None:
    assert tables_problem(conn) is None
    assert differences(conn) == []


@pytest.mark.parametrize(
    ("table", "from_row"), [(WORKLOAD, workload_from), (SUBMISSION, submission_from), (CLUSTER, cluster_from)]
)
def test_each_row_is_read_whole(conn: Connection, old: str, table: Any, from_row: Any) -> None:
    (key,) = table.primary_key.columns
    told = {row[key.name]: row for row in rows_of(old)[table.name]}
    values = [from_row(row) for row in conn.execute(select(table)).mappings()]
    assert {getattr(value, key.name) for value in values} == told.keys()
    for value in values:
        row = told[getattr(value, key.name)]
        assert value.quarantine == row.get("quarantine")
        assert (value.state, value.version) == (row["state"], row["version"])
        assert mapping_of(type(value)).changed_columns(value, value) == {}


def test_a_step_and_an_outcome_are_as_they_were(conn: Connection, old: str) -> None:
    for row in rows_of(old)["emr_workload"]:
        workload = queries.workload(conn, row["workload_id"])
        assert workload is not None
        assert workload.step == (STEP if row["step"] else None)
        assert (workload.outcome is None) == (row["outcome"] is None)
        if workload.outcome is not None:
            assert workload.outcome.verdict == row["outcome"]["verdict"]
            assert workload.outcome.cause == row["outcome"]["cause"]
        assert workload.workload == row["workload"]
        assert workload.executor_config == row["executor_config"]


def test_what_lives_is_in_the_snapshot(conn: Connection, old: str) -> None:
    found = snapshot(conn, MOMENT, 100)
    live_states = set(ClusterState) - OVER_CLUSTER_STATES
    assert {s.submission_id for s in found.submissions} == ids(
        old, "emr_submission", "submission_id", state=LIVE_SUBMISSION_STATES
    )
    assert {c.cluster_uuid for c in found.clusters} == ids(
        old, "emr_cluster", "cluster_uuid", state=live_states
    )
    live = set(WorkloadState) - {WorkloadState.FINISHED, WorkloadState.CANCELLED}
    engaged = workloads(old, state={"READY"}, target={"RUN"}, quarantine={None})
    engaged |= workloads(old, state={"SUBMITTED"}, target={"RUN"}) | workloads(
        old, state=live, target={"CANCEL"}
    )
    assert {w.workload_id for w in found.workloads} == engaged
    assert len(heartbeat_targets(conn)) == 3
    assert live_submissions(conn, [s.submission_id for s in found.submissions])
    assert named_by_live_steps(conn, lambda words: ["step"] if STEP.spec_uri in words else []) == {"step"}


@pytest.mark.parametrize(
    ("kind", "waiting"),
    [(WorkloadState.PREPARING, "ACCEPTED"), (WorkloadState.FINISHING, "FINISHABLE")],
)
def test_phases_can_be_claimed(conn: Connection, old: str, kind: WorkloadState, waiting: str) -> None:
    held = {workload_id for workload_id, _, _ in claims(conn)}
    assert held == workloads(old, state={"PREPARING", "FINISHING"})
    tokens = (f"new-{n}" for n in count())
    claimed = claim(conn, kind, 10, ME, now=MOMENT, new_token=lambda: next(tokens))
    assert {w.workload_id for w in claimed} == workloads(old, state={waiting}, target={"RUN"})
    assert all(w.quarantine is None for w in claimed)


def test_the_steering_agent_can_write_them(conn: Connection) -> None:
    token = take_lease(conn, STEERING, "me", read_lease(conn, STEERING))
    assert token == 2
    found = snapshot(conn, MOMENT, 100)
    changes = [
        *(Change(old=c, new=replace(c, slots=9)) for c in found.clusters),
        *(Change(old=s, new=replace(s, output_chunks=9)) for s in found.submissions),
        *(Change(old=w, new=replace(w, losses=2)) for w in found.workloads),
    ]
    written = apply(conn, token, changes, [])
    assert [value.version for value in written] == [
        change.old.version + 1 for change in changes if change.old
    ]


def test_the_scheduler_can_read_and_adopt_them(conn: Connection, old: str) -> None:
    over = workloads(old, state={"FINISHED", "CANCELLED"}, reported={0})
    assert {outcome.workload_id for outcome in take_outcomes(conn, JOB, 100)} == over
    everything = workloads(old)
    live = workloads(old, state=set(WorkloadState) - {"FINISHED", "CANCELLED"})
    assert adopt(conn, everything, JOB + 1) == live  # type: ignore[arg-type]
    assert deployment_id(conn) == "d" * 36


def test_people_can_read_them_and_old_ones_go(conn: Connection, old: str) -> None:
    assert sum(w.count for w in queries.status(conn).workloads) == len(
        workloads(old, state=set(WorkloadState) - {"FINISHED", "CANCELLED"})
    )
    assert len(queries.clusters(conn, over=10)) == len(ClusterState)
    assert len(queries.live_steps(conn, 10) + queries.past_steps(conn, 10)) == len(SubmissionState)
    assert [agent.holder for agent in agents(conn)] == ["host-a/17/aa"]
    assert len(queries.recent_history(conn, 10)) == 4
    purged = purge(conn, MOMENT.replace(year=2032), 86_400.0)
    assert purged.workloads == len(workloads(old, state={"FINISHED", "CANCELLED"}))
    assert (purged.history, purged.submissions) == (4, 0)


# -- up and down -----------------------------------------------------------------------------------


def test_rows_survive_the_way_down_and_up_again(conn: Connection, old: str) -> None:
    before = dump(conn)
    command.downgrade(config_for(conn), old)
    assert dump_of(conn, old) == rows_of(old)
    command.upgrade(config_for(conn), "head")
    assert dump(conn) == before


def dump_of(conn: Connection, revision: str) -> dict[str, list[dict[str, Any]]]:
    """All rows, of the tables that a revision has."""
    present = set(inspect(conn).get_table_names())
    conn.rollback()
    return {name: rows for name, rows in dump(conn).items() if name in present & rows_of(revision).keys()}


def test_the_way_to_nothing_takes_all_rows_and_leaves_airflows(conn: Connection) -> None:
    command.downgrade(config_for(conn), "base")
    assert set(inspect(conn).get_table_names()) == {VERSION_TABLE, *AIRFLOW.tables}


@pytest.fixture
def next_revision(tmp_path: Path) -> Iterator[Any]:
    """Makes a revision behind the last one, as the next release may bring it."""
    folder = tmp_path / "versions"
    folder.mkdir()

    def config(connection: Connection, *, broken: bool = False) -> Config:
        (folder / "next.py").write_text(NEXT.format(head=REVISIONS[-1], broken=broken))
        made = config_for(connection)
        made.set_main_option("path_separator", "newline")
        own = golden.STORE / "migrations" / "versions"
        made.set_main_option("version_locations", f"{own}\n{folder}")
        return made

    return config


def test_a_next_revision_changes_tables_with_rows_in_them_and_back(
    conn: Connection, next_revision: Any
) -> None:
    before = dump(conn)
    command.upgrade(next_revision(conn), "next")
    costs = conn.execute(text("SELECT cost, airflow_queue FROM emr_workload")).all()
    assert set(costs) == {(7, "emr")}
    assert "revision next" in (tables_problem(conn) or "")
    conn.rollback()
    command.downgrade(next_revision(conn), REVISIONS[-1])
    assert dump(conn) == before
    assert differences(conn) == []


def test_a_revision_that_fails_leaves_the_tables_as_they_were(conn: Connection, next_revision: Any) -> None:
    before = dump(conn)
    with pytest.raises(Exception, match="no_such_column"):
        command.upgrade(next_revision(conn, broken=True), "next")
    conn.rollback()
    assert dump(conn) == before
    assert tables_problem(conn) is None
    assert differences(conn) == []
    conn.rollback()
    command.upgrade(next_revision(conn), "next")
    after = conn.execute(text("SELECT * FROM emr_workload ORDER BY workload_id")).all()
    conn.rollback()
    with pytest.raises(Exception, match="no_such_column"):
        command.downgrade(next_revision(conn, broken=True), REVISIONS[-1])
    conn.rollback()
    assert conn.execute(text("SELECT * FROM emr_workload ORDER BY workload_id")).all() == after

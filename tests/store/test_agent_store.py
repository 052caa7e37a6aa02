"""The agent's store: one transaction a call, in a thread or on the spot, and errors that say what to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from emr_executor.errors import ConfigError, StoreBusy
from emr_executor.store import dialect
from emr_executor.store.dialect import engine_for, upsert
from emr_executor.store.runner import ThreadRunner, transact
from emr_executor.store.schema import WORKLOAD
from tests.store.builders import a_parked, a_workload, store, stored


@pytest.fixture
def threaded(url: str) -> Iterator[ThreadRunner]:
    runner = ThreadRunner(engine_for(url))
    yield runner
    runner.close()


async def test_work_that_raises_leaves_nothing(threaded: ThreadRunner, engine: Engine) -> None:
    workload = a_workload()

    def work(conn: Connection) -> None:
        store(conn, workload)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await threaded.run(work)
    with engine.begin() as conn:
        assert conn.execute(WORKLOAD.select()).all() == []


async def test_the_event_loop_runs_while_a_transaction_does(threaded: ThreadRunner) -> None:
    release = threading.Event()

    def wait(_conn: Connection) -> str:
        assert release.wait(timeout=10)
        return "done"

    waiting = asyncio.ensure_future(threaded.run(wait))
    await asyncio.sleep(0)
    release.set()
    assert await waiting == "done"


async def test_a_database_that_is_away_is_a_busy_store() -> None:
    runner = ThreadRunner(engine_for("postgresql+psycopg2://postgres@127.0.0.1:1/none"))
    with pytest.raises(StoreBusy, match="metadata database"):
        await runner.read(lambda conn: conn.execute(text("SELECT 1")))
    runner.close()


def test_a_connection_that_was_cut_between_two_transactions_goes_unnoticed(postgres: Engine) -> None:
    def pid(conn: Connection) -> int:
        return int(conn.execute(text("SELECT pg_backend_pid()")).scalar_one())

    first = transact(postgres, pid)
    other = engine_for(str(postgres.url))
    transact(other, lambda conn: conn.execute(text(f"SELECT pg_terminate_backend({first}, 5000)")))
    other.dispose()
    assert transact(postgres, pid) != first


def test_a_locked_sqlite_is_a_busy_store_and_readers_go_on(
    tmp_path: Path, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "BUSY_TIMEOUT_S", 0)
    path = tmp_path / "a.db"
    path.write_bytes(sqlite_template.read_bytes())
    one, two = engine_for(f"sqlite:///{path}"), engine_for(f"sqlite:///{path}")
    workload = a_parked()
    with one.begin() as conn:
        store(conn, workload)
        with pytest.raises(StoreBusy, match="locked"):
            transact(two, stored, workload.workload_id)
        assert transact(two, lambda c: c.execute(WORKLOAD.select()).all(), read_only=True) == []
    assert transact(two, stored, workload.workload_id) == workload
    one.dispose()
    two.dispose()


def test_another_database_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="move Airflow's metadata database to PostgreSQL"):
        upsert("mysql", WORKLOAD)

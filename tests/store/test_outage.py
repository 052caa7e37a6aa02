"""A PostgreSQL that goes away and comes back: what the first transaction meets, and what a write says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from emr_executor.errors import StoreBusy
from emr_executor.store.dialect import LIBPQ_BOUNDS, engine_for
from emr_executor.store.runner import transact
from tests.postgres import PostgresServer


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    made = PostgresServer()
    yield made
    made.stop()


def test_a_restart_between_two_transactions_goes_unnoticed(server: PostgresServer) -> None:
    engine = engine_for(server.url("postgres"))
    ask = text("select 1")
    assert transact(engine, lambda conn: conn.execute(ask).scalar_one()) == 1
    server.halt()
    with pytest.raises(StoreBusy, match="metadata database"):
        transact(engine, lambda conn: conn.execute(ask).scalar_one())
    server.resume()
    assert transact(engine, lambda conn: conn.execute(ask).scalar_one()) == 1
    server.halt()
    server.resume()
    assert transact(engine, lambda conn: conn.execute(ask).scalar_one()) == 1
    engine.dispose()


def test_a_connection_that_is_cut_in_a_transaction_is_a_busy_store(server: PostgresServer) -> None:
    engine = engine_for(server.url("postgres"))

    def cut(conn: object) -> None:
        server.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where pid <> pg_backend_pid() and backend_type = 'client backend'"
        )
        conn.execute(text("select 1"))  # type: ignore[attr-defined]

    with pytest.raises(StoreBusy):
        transact(engine, cut)
    engine.dispose()


def test_a_standby_that_takes_no_writes_yet_is_a_busy_store(server: PostgresServer) -> None:
    engine = engine_for(server.url("postgres"))
    with pytest.raises(StoreBusy, match="read-only"):
        transact(
            engine,
            lambda conn: (
                conn.execute(text("set transaction read only")),
                conn.execute(text("create table t (i int)")),
            ),
        )
    engine.dispose()


def test_nobody_waits_long_for_a_dead_host_and_the_url_has_the_last_word() -> None:
    engine = engine_for("postgresql+psycopg2://u@h/d?connect_timeout=3")
    seen: dict[str, object] = {}

    def connect(*_args: object, **kwargs: object) -> None:
        seen.update(kwargs)
        raise engine.dialect.dbapi.OperationalError  # type: ignore[union-attr]

    engine.dialect.connect = connect  # type: ignore[method-assign]
    with pytest.raises(StoreBusy):
        transact(engine, lambda conn: conn)
    assert seen["connect_timeout"] in (3, "3")
    assert seen["tcp_user_timeout"] == LIBPQ_BOUNDS["tcp_user_timeout"]

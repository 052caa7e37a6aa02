"""Alembic's entry: runs revisions over the connection it is given, or Airflow's own engine."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection

from emr_executor.store.dialect import engine_for
from emr_executor.store.schema import METADATA, VERSION_TABLE


def _is_ours(_item: object, name: str | None, kind: str, *_: object) -> bool:
    # The database is Airflow's: autogenerate must not propose to drop its tables.
    return kind != "table" or name in METADATA.tables


_OPTIONS: dict[str, Any] = {
    "target_metadata": METADATA,
    "version_table": VERSION_TABLE,
    "include_object": _is_ours,
    # SQLite cannot alter a column: batch mode copies the table.
    "render_as_batch": True,
}


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True, **_OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


def _print_sql() -> None:
    url = context.config.get_main_option("sqlalchemy.url")
    context.configure(url=url, literal_binds=True, **_OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


def _run() -> None:
    if context.is_offline_mode():
        _print_sql()
        return
    given = context.config.attributes.get("connection")
    if given is not None:
        _migrate(given)
        return
    from airflow import settings

    engine = settings.get_engine()
    if engine.dialect.name == "sqlite":
        # Airflow's engine would commit each CREATE TABLE by itself: ours makes a revision one transaction.
        engine = engine_for(str(engine.url))
    with engine.connect() as connection:
        _migrate(connection)


_run()

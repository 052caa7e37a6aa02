"""Finds our tables for ``airflow db migrate``, ``db reset`` and ``db-manager`` (provider key db-managers)."""

from __future__ import annotations

from pathlib import Path

from airflow.utils.db_manager import BaseDBManager

from emr_executor.store.schema import METADATA, VERSION_TABLE

_HERE = Path(__file__).resolve().parent


class EmrExecutorDBManager(BaseDBManager):
    """Creates, migrates and drops the tables of this package in Airflow's metadata database."""

    metadata = METADATA
    version_table_name = VERSION_TABLE
    migration_dir = str(_HERE / "migrations")
    alembic_file = str(_HERE / "alembic.ini")
    supports_table_dropping = True
    revision_heads_map = {"0.1.0": "0001"}  # noqa: RUF012 - the base class declares it so

    def downgrade(
        self, to_revision: str, from_revision: str | None = None, show_sql_only: bool = False
    ) -> None:
        """Take revisions back to ``to_revision`` (``base``: no table is left), or print the SQL of it.

        ``from_revision`` is for printing only: what is really done starts from what is there.
        """
        from alembic import command

        if from_revision and not show_sql_only:
            raise ValueError("from_revision is only for show_sql_only: a downgrade starts from what is there")
        config = self.get_alembic_config()
        revision = to_revision
        if show_sql_only:
            revision = f"{from_revision or self.get_current_revision()}:{to_revision}"
        # Alembic works on a connection of its own: let go of what looking up the revision has locked.
        self.session.commit()
        command.downgrade(config, revision, sql=show_sql_only)

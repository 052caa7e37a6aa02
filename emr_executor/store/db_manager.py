"""Finds our tables for ``airflow db migrate``, ``db reset`` and ``db-manager`` (provider key db-managers).

Tables are made and changed by the revisions alone, never from the metadata beside them: so there is one way
to a schema, and a migration that was broken off goes on (each revision is one transaction, on SQLite too).
"""

from __future__ import annotations

from pathlib import Path

from airflow.utils.db_manager import BaseDBManager
from sqlalchemy import Engine

from emr_executor.errors import ConfigError
from emr_executor.store.migration_lock import migrating_alone
from emr_executor.store.revision import REVISIONS, revision_problem
from emr_executor.store.schema import METADATA, VERSION_TABLE

_HERE = Path(__file__).resolve().parent


class EmrExecutorDBManager(BaseDBManager):
    """Creates, migrates and drops the tables of this package in Airflow's metadata database."""

    metadata = METADATA
    version_table_name = VERSION_TABLE
    migration_dir = str(_HERE / "migrations")
    alembic_file = str(_HERE / "alembic.ini")
    supports_table_dropping = True
    revision_heads_map = {"0.1.0": "0002"}  # noqa: RUF012 - the base class declares it so

    def initdb(self, use_migration_files: bool = True) -> None:  # noqa: ARG002 - they are always used
        """Make the tables, or bring them to the newest revision."""
        self.upgradedb()

    def upgradedb(
        self,
        to_revision: str | None = None,
        from_revision: str | None = None,
        show_sql_only: bool = False,
        use_migration_files: bool = True,  # noqa: ARG002 - they are always used
    ) -> None:
        """Bring the tables to ``to_revision``, the newest by default, or print the SQL of it.

        A second migration at the same time waits and finds nothing to do. Raises ConfigError where a newer
        release has migrated them. ``from_revision`` is for printing only.
        """
        from alembic import command

        config = self.get_alembic_config()
        wanted = to_revision or "head"
        if show_sql_only:
            start = from_revision or self.get_current_revision() or "base"
            command.upgrade(config, revision=f"{start}:{wanted}", sql=True)
            return
        with migrating_alone(self._engine):
            current = self.get_current_revision()
            self._refuse_unknown(current)
            if current is None and self._has_existing_manager_tables():
                # Made by somebody from the metadata, without a revision.
                self._stamp_base_revision(config)
            self._let_go()
            command.upgrade(config, revision=wanted)

    def downgrade(
        self, to_revision: str, from_revision: str | None = None, show_sql_only: bool = False
    ) -> None:
        """Take revisions back to ``to_revision`` (``base``: no table is left), or print the SQL of it.

        ``from_revision`` is for printing only: what is really done starts from what is there. Raises
        ConfigError where a newer release has migrated them: only that one knows the way back.
        """
        from alembic import command

        if from_revision and not show_sql_only:
            raise ValueError("from_revision is only for show_sql_only: a downgrade starts from what is there")
        config = self.get_alembic_config()
        if show_sql_only:
            start = from_revision or self.get_current_revision()
            command.downgrade(config, f"{start}:{to_revision}", sql=True)
            return
        with migrating_alone(self._engine):
            self._refuse_unknown(self.get_current_revision())
            self._let_go()
            command.downgrade(config, to_revision)

    @property
    def _engine(self) -> Engine:
        return self.session.get_bind().engine

    def _let_go(self) -> None:
        # Alembic works on a connection of its own: let go of what looking up the revision has locked.
        self.session.commit()

    def _refuse_unknown(self, current: str | None) -> None:
        if current is not None and current not in REVISIONS:
            raise ConfigError([str(revision_problem(current))])

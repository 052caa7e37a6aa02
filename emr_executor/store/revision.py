"""Whether the tables are those that this release works with, and what to do when they are not."""

from __future__ import annotations

from sqlalchemy import Connection, String, column, inspect, select, table

from emr_executor.store.schema import METADATA, VERSION_TABLE

REVISIONS = ("0001", "0002")
"""Every revision of the tables in order; the last one is what this release works with."""


def tables_problem(conn: Connection) -> str | None:
    """One sentence with the command that helps, or None: the tables are there and of this release."""
    present = set(inspect(conn).get_table_names())
    if missing := sorted(METADATA.tables.keys() - present):
        return f"the database has no table {', '.join(missing)}: run `airflow db migrate`"
    if VERSION_TABLE not in present:
        return None
    asked = select(column("version_num", String)).select_from(table(VERSION_TABLE))
    found = conn.execute(asked).scalars().first()
    return None if found is None else revision_problem(found)


def revision_problem(found: str) -> str | None:
    """What to do where the tables are of another revision than this release's."""
    wanted = REVISIONS[-1]
    if found == wanted:
        return None
    said = f"the tables of emr_executor are of revision {found}, this release works with {wanted}"
    if found in REVISIONS:
        return f"{said}: run `airflow db migrate`"
    return (
        f"{said} and does not know the other: a newer release has migrated them. Upgrade the package "
        "emr-executor on this host, or let the newer release take them back (docs/operations.md)"
    )

"""Leases: what one agent holds alone.

No clock is compared between hosts. A holder changes ``beat``; whoever wants the lease watches it with its own
monotonic clock and, when it has stood still for long enough, takes the lease by naming exactly what it saw.
``token`` grows with each change of hands, so whatever an old holder still writes is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, bindparam, select, update

from emr_executor.errors import StaleWriter
from emr_executor.store.dialect import upsert
from emr_executor.store.schema import LEASE, STEERING


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """A lease as seen; holder None: nobody has it, take it at once."""

    holder: str | None = None
    token: int = 0
    beat: int = 0


_HELD = (
    select(LEASE.c.token)
    .where(LEASE.c.name == bindparam("its_name"), LEASE.c.token == bindparam("its_token"))
    .with_for_update(read=True)
)


_ITS = and_(
    LEASE.c.name == bindparam("its_name"),
    LEASE.c.token == bindparam("its_token"),
    LEASE.c.holder == bindparam("its_holder"),
)
_READ = select(LEASE).where(LEASE.c.name == bindparam("its_name"))
_BEATEN = update(LEASE).where(_ITS).values(beat=LEASE.c.beat + 1)
_RELEASED = update(LEASE).where(_ITS).values(holder=None, token=LEASE.c.token + 1, beat=0)


def read_lease(conn: Connection, name: str) -> LeaseRow:
    """The lease as it stands."""
    row = conn.execute(_READ, {"its_name": name}).one_or_none()
    if row is None:
        return LeaseRow()
    return LeaseRow(holder=row.holder, token=row.token, beat=row.beat)


def take_lease(conn: Connection, name: str, holder: str, seen: LeaseRow) -> int | None:
    """The new token, or None when the lease is no longer as it was seen."""
    token = seen.token + 1
    if seen.token == 0:
        row = {"name": name, "holder": holder, "token": token, "beat": 0}
        insert = (
            upsert(conn.dialect.name, LEASE).values(row).on_conflict_do_nothing().returning(LEASE.c.token)
        )
        return conn.execute(insert).scalar_one_or_none()
    taken = conn.execute(
        update(LEASE)
        .where(LEASE.c.name == name, LEASE.c.token == seen.token, LEASE.c.beat == seen.beat)
        .values(holder=holder, token=token, beat=0)
    )
    return token if taken.rowcount else None


def beat_lease(conn: Connection, name: str, holder: str, token: int) -> bool:
    """Give a sign of life; False when the lease is lost."""
    its = {"its_name": name, "its_token": token, "its_holder": holder}
    return bool(conn.execute(_BEATEN, its).rowcount)


def release_lease(conn: Connection, name: str, holder: str, token: int) -> None:
    """Let go, so that another need not wait; nothing when it is lost already."""
    conn.execute(_RELEASED, {"its_name": name, "its_token": token, "its_holder": holder})


def hold_lease(conn: Connection, token: int, name: str = STEERING) -> None:
    """Keep the lease from changing hands until this transaction ends. Raises StaleWriter when it is lost."""
    if conn.execute(_HELD, {"its_name": name, "its_token": token}).scalar_one_or_none() is None:
        raise StaleWriter(f"the lease {name!r} with token {token} is lost: another agent has taken over")

"""The append-only story, and the end of what is old."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, Table, delete, insert, select

from emr_executor.core.model import HistoryEntry
from emr_executor.core.states import OVER_CLUSTER_STATES
from emr_executor.store.clauses import OVER_WORKLOAD_STATES
from emr_executor.store.schema import CLUSTER, HISTORY, SUBMISSION, WORKLOAD

PURGE_BATCH = 1000
"""Rows that one transaction deletes from each table at most."""


_NEW_LINE = insert(HISTORY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What one purge deleted; ``more`` when a batch was full, so that it should be called again."""

    workloads: int
    submissions: int
    clusters: int
    history: int
    more: bool


def append(conn: Connection, entries: Sequence[HistoryEntry]) -> None:
    """Add lines to the story."""
    if entries:
        conn.execute(_NEW_LINE, [asdict(entry) for entry in entries])


def purge(conn: Connection, now: datetime, keep_s: float, batch: int = PURGE_BATCH) -> Purged:
    """Delete one batch of what has been over for more than ``keep_s``; what lives is never touched."""
    before = now - timedelta(seconds=keep_s)
    old_workloads = (
        select(WORKLOAD.c.workload_id)
        .where(WORKLOAD.c.finished_at < before, WORKLOAD.c.state.in_(OVER_WORKLOAD_STATES))
        .order_by(WORKLOAD.c.finished_at)
        .limit(batch)
        .with_for_update(skip_locked=True)
    )
    workload_ids = list(conn.execute(old_workloads).scalars())
    their_submissions = (
        select(SUBMISSION.c.submission_id)
        .where(SUBMISSION.c.workload_id.in_(workload_ids))
        .order_by(SUBMISSION.c.submission_id)
        .with_for_update()
    )
    submissions = _delete(conn, SUBMISSION, their_submissions)
    workloads = conn.execute(delete(WORKLOAD).where(WORKLOAD.c.workload_id.in_(workload_ids))).rowcount
    old_clusters = (
        select(CLUSTER.c.cluster_uuid)
        .where(CLUSTER.c.state.in_(OVER_CLUSTER_STATES), CLUSTER.c.ended_at < before)
        .where(~select(SUBMISSION.c.n).where(SUBMISSION.c.cluster_uuid == CLUSTER.c.cluster_uuid).exists())
        .limit(batch)
        .with_for_update(skip_locked=True)
    )
    clusters = _delete(conn, CLUSTER, old_clusters)
    old_history = (
        select(HISTORY.c.id)
        .where(HISTORY.c.at < before)
        .order_by(HISTORY.c.at)
        .limit(batch)
        .with_for_update(skip_locked=True)
    )
    history = _delete(conn, HISTORY, old_history)
    return Purged(
        workloads=workloads,
        submissions=submissions,
        clusters=clusters,
        history=history,
        more=max(workloads, clusters, history) >= batch,
    )


def _delete(conn: Connection, table: Table, keys: Select[Any]) -> int:
    """Delete the rows whose keys are selected, locked beforehand as the selection says.

    A DELETE alone takes its rows in any order, and two that meet in different orders end in a deadlock.
    """
    (key,) = table.primary_key.columns
    # As a CTE the selection is made once, whatever the planner thinks of joins. Counted by what comes back,
    # since SQLite's driver counts no rows of a statement that begins with WITH.
    deleted = delete(table).where(key.in_(select(keys.cte("locked")))).returning(key)
    return len(conn.execute(deleted).all())

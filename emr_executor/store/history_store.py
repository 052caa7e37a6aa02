"""The append-only story, and the end of what is old."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Table, delete, insert, select

from emr_executor.core.model import HistoryEntry
from emr_executor.core.states import OVER_CLUSTER_STATES
from emr_executor.store.clauses import OVER_WORKLOAD_STATES
from emr_executor.store.rows import history_columns
from emr_executor.store.schema import CLUSTER, HISTORY, SUBMISSION, WORKLOAD

PURGE_BATCH = 1000
"""Rows that one transaction deletes from each table at most."""


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
        conn.execute(insert(HISTORY), [history_columns(entry) for entry in entries])


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
    submissions = _delete(conn, SUBMISSION, SUBMISSION.c.workload_id.in_(workload_ids))
    workloads = _delete(conn, WORKLOAD, WORKLOAD.c.workload_id.in_(workload_ids))
    old_clusters = (
        select(CLUSTER.c.cluster_uuid)
        .where(CLUSTER.c.state.in_(OVER_CLUSTER_STATES), CLUSTER.c.ended_at < before)
        .where(~select(SUBMISSION.c.n).where(SUBMISSION.c.cluster_uuid == CLUSTER.c.cluster_uuid).exists())
        .limit(batch)
    )
    clusters = _delete(conn, CLUSTER, CLUSTER.c.cluster_uuid.in_(old_clusters))
    old_history = select(HISTORY.c.id).where(HISTORY.c.at < before).order_by(HISTORY.c.at).limit(batch)
    history = _delete(conn, HISTORY, HISTORY.c.id.in_(old_history))
    return Purged(
        workloads=workloads,
        submissions=submissions,
        clusters=clusters,
        history=history,
        more=max(workloads, clusters, history) >= batch,
    )


def _delete(conn: Connection, table: Table, which: ColumnElement[bool]) -> int:
    return conn.execute(delete(table).where(which)).rowcount

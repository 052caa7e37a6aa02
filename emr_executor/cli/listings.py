"""``airflow emr clusters`` and ``airflow emr steps``: one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text
from sqlalchemy import Connection

from emr_executor.cli import quarantine
from emr_executor.cli.formatting import since, table
from emr_executor.core.model import Submission
from emr_executor.core.settle import ENDED_BY_US, why_ended
from emr_executor.core.states import LIVE_SUBMISSION_STATES, StepState
from emr_executor.store import queries

STEPS_SHOWN = 1000
"""Live steps listed at most."""
PAST_SHOWN = 50
"""Clusters or steps that are over and listed with ``--all``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRow:
    """A cluster; slots_used counts the steps that run, steps all that are live.

    quarantine: the bug that the executor met on it, in one line
    """

    cluster_id: str | None
    cluster_uuid: str
    cluster_pool: str
    state: str
    target: str
    slots_used: int
    slots: int
    steps: int
    intended_at: datetime
    ready_at: datetime | None
    idle_since: datetime | None
    ended_at: datetime | None
    reason: str | None
    quarantine: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """A submission; started_at is when its step was first seen running, quarantine as of a cluster."""

    submission_id: str
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    cluster_id: str | None
    step_id: str | None
    state: str
    intended_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    losses: int
    cause: str
    quarantine: str | None


def read_clusters(conn: Connection, *, with_past: bool) -> tuple[ClusterRow, ...]:
    """Clusters that are not over, after the last that are."""
    loads = queries.clusters(conn, over=PAST_SHOWN if with_past else 0)
    ours = [("cluster", load.cluster.cluster_uuid) for load in loads if load.cluster.end_asked_at is not None]
    told = queries.history_of(conn, ours) if ours else ()
    why = {line.subject_id: line.text for line in told if line.event in ("draining", "ending")}
    return tuple(cluster_row(load, _why_we_ended(load, why)) for load in loads)


def _why_we_ended(load: queries.ClusterLoad, told: Mapping[str, str]) -> str:
    cluster = load.cluster
    if why_ended(cluster) != ENDED_BY_US or cluster.cluster_uuid not in told:
        return ""
    return f"{ENDED_BY_US}: {told[cluster.cluster_uuid].partition(': ')[2]}"


def cluster_row(load: queries.ClusterLoad, ended_because: str = "") -> ClusterRow:
    """A cluster with its load as one row. ``ended_because``: why the agent ended it."""
    cluster = load.cluster
    return ClusterRow(
        cluster_id=cluster.cluster_id,
        cluster_uuid=cluster.cluster_uuid,
        cluster_pool=cluster.cluster_pool,
        state=cluster.state,
        target=cluster.target,
        slots_used=load.running,
        slots=cluster.slots,
        steps=load.live,
        intended_at=cluster.intended_at,
        ready_at=cluster.ready_at,
        idle_since=cluster.idle_since,
        ended_at=cluster.ended_at,
        reason=ended_because or why_ended(cluster) or None,
        quarantine=_bug(cluster.quarantine),
    )


def clusters_view(rows: tuple[ClusterRow, ...], now: datetime) -> RenderableType:
    """A table, and under it the reason of each cluster that has one."""
    if not rows:
        return Text("No cluster of this deployment is up. `--all` shows those that are over.")
    cells = [
        (
            row.cluster_id or "(launching)",
            row.cluster_pool,
            row.state,
            row.target,
            f"{row.slots_used}/{row.slots}",
            since(row.intended_at, row.ended_at or now),
            since(row.ready_at, row.ended_at or now),
            since(row.idle_since, row.ended_at or now),
        )
        for row in rows
    ]
    columns = ("cluster", "pool", "state", "target", "slots", "age", "ready for", "idle for")
    reasons = [f"{row.cluster_id or row.cluster_uuid}: {row.reason}" for row in rows if row.reason]
    held = [
        _held(row.cluster_id or row.cluster_uuid, "cluster", row.quarantine, row.cluster_id)
        for row in rows
        if row.quarantine
    ]
    return _with_lines(table(columns, cells), [*reasons, *held])


def read_steps(conn: Connection, *, with_past: bool, dag_id: str | None) -> tuple[StepRow, ...]:
    """Live steps, after the last that are over."""
    past = queries.past_steps(conn, PAST_SHOWN, dag_id=dag_id) if with_past else ()
    return tuple(map(_step_row, (*past, *queries.live_steps(conn, STEPS_SHOWN, dag_id=dag_id))))


def steps_view(rows: tuple[StepRow, ...], now: datetime) -> RenderableType:
    """A table, and under it the cause of each step that has one."""
    if not rows:
        return Text("No step is live. `--all` shows those that are over.")
    cells = [
        (
            f"{_task(row)}\n{row.run_id}",
            str(row.try_number),
            f"{row.step_id or '-'}\n{row.cluster_id or '(launching)'}",
            f"{row.state}\n{since(row.started_at, row.ended_at or now)}",
            str(row.losses),
        )
        for row in rows
    ]
    columns = ("task and run", "try", "step and cluster", "state and time", "losses")
    causes = [f"{_task(row)} try {row.try_number} {row.state}: {row.cause}" for row in rows if row.cause]
    held = [
        _held(f"{_task(row)} try {row.try_number}", "submission", row.quarantine, row.cluster_id)
        for row in rows
        if row.quarantine
    ]
    more = [f"Only the first {STEPS_SHOWN} live steps are shown."] if _is_cut(rows) else []
    return _with_lines(
        table(columns, cells, right=("try", "losses"), whole=columns[1:]), [*causes, *held, *more]
    )


def _step_row(step: queries.StepView) -> StepRow:
    submission: Submission = step.submission
    return StepRow(
        submission_id=submission.submission_id,
        dag_id=step.key.dag_id,
        task_id=step.key.task_id,
        run_id=step.key.run_id,
        map_index=step.key.map_index,
        try_number=step.key.try_number,
        cluster_id=step.cluster_id,
        step_id=submission.step_id,
        state=shown_state(submission),
        intended_at=submission.intended_at,
        started_at=submission.started_at,
        ended_at=submission.ended_at,
        losses=step.losses,
        cause=submission.cause,
        quarantine=_bug(submission.quarantine),
    )


def shown_state(submission: Submission) -> str:
    """The submission's state; EMR's own word where EMR is asked to cancel its step."""
    is_leaving = submission.step_state is StepState.CANCEL_PENDING and submission.is_live
    return StepState.CANCEL_PENDING if is_leaving else submission.state


def _bug(of_row: str | None) -> str | None:
    return None if of_row is None else quarantine.reason(of_row)


def _held(name: str, entity: str, bug: str, cluster_id: str | None) -> str:
    return f"{name} is in quarantine: {bug}. {quarantine.what_to_do(entity, cluster_id=cluster_id)}"


def _task(row: StepRow) -> str:
    mapped = f"[{row.map_index}]" if row.map_index >= 0 else ""
    return f"{row.dag_id}.{row.task_id}{mapped}"


def _is_cut(rows: tuple[StepRow, ...]) -> bool:
    live = {*LIVE_SUBMISSION_STATES, StepState.CANCEL_PENDING}
    return sum(row.state in live for row in rows) >= STEPS_SHOWN


def _with_lines(view: RenderableType, lines: list[str]) -> RenderableType:
    if not lines:
        return view
    return Group(view, Text(""), *(Text(line, overflow="fold") for line in lines))

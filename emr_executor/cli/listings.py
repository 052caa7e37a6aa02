"""``airflow emr clusters`` and ``airflow emr steps``: one row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from sqlalchemy import Connection

from emr_executor.cli import quarantine
from emr_executor.cli.formatting import filled, since, table, task_name
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
    """Clusters that are not over, after the last that are, those that the agent ended with its reason."""
    loads = queries.clusters(conn, over=PAST_SHOWN if with_past else 0)
    ours = [("cluster", load.cluster.cluster_uuid) for load in loads if load.cluster.end_asked_at is not None]
    lines = queries.history_of(conn, ours) if ours else ()
    told = {line.subject_id: line.text for line in lines if line.event in ("draining", "ending")}
    return tuple(cluster_row(load, told.get(load.cluster.cluster_uuid, "")) for load in loads)


def cluster_row(load: queries.ClusterLoad, told: str = "") -> ClusterRow:
    """A cluster with its load as one row. ``told``: the line of history on why the agent ends it."""
    reason = why_ended(load.cluster) or None
    if reason == ENDED_BY_US and told:
        reason = f"{ENDED_BY_US}: {told.partition(': ')[2]}"
    return filled(
        ClusterRow,
        load.cluster,
        slots_used=load.running,
        steps=load.live,
        reason=reason,
        quarantine=_bug(load.cluster.quarantine),
    )


def clusters_view(rows: Sequence[ClusterRow], now: datetime) -> RenderableType:
    """A table, and under it the reason of each cluster that has one."""
    if not rows:
        return "No cluster of this deployment is up. `--all` shows those that are over."
    cells = [
        (
            row.cluster_id or "(launching)",
            row.cluster_pool,
            row.state,
            row.target,
            f"{row.slots_used}/{row.slots}",
            *(since(at, row.ended_at or now) for at in (row.intended_at, row.ready_at, row.idle_since)),
        )
        for row in rows
    ]
    columns = ("cluster", "pool", "state", "target", "slots", "age", "ready for", "idle for")
    reasons = [f"{row.cluster_id or row.cluster_uuid}: {row.reason}" for row in rows if row.reason]
    held = [_held(row.cluster_id or row.cluster_uuid, "cluster", row) for row in rows if row.quarantine]
    return _with_lines(table(columns, cells), [*reasons, *held])


def read_steps(conn: Connection, *, with_past: bool, dag_id: str | None) -> tuple[StepRow, ...]:
    """Live steps, after the last that are over."""
    past = queries.past_steps(conn, PAST_SHOWN, dag_id=dag_id) if with_past else ()
    return tuple(map(_step_row, (*past, *queries.live_steps(conn, STEPS_SHOWN, dag_id=dag_id))))


def _step_row(step: queries.StepView) -> StepRow:
    return filled(
        StepRow,
        step.submission,
        **asdict(step.key),
        cluster_id=step.cluster_id,
        state=StepState.CANCEL_PENDING if is_leaving(step.submission) else step.submission.state,
        losses=step.losses,
        quarantine=_bug(step.submission.quarantine),
    )


def steps_view(rows: Sequence[StepRow], now: datetime) -> RenderableType:
    """A table, and under it the cause of each step that has one."""
    if not rows:
        return "No step is live. `--all` shows those that are over."
    cells = [
        (
            f"{task_name(row)}\n{row.run_id}",
            str(row.try_number),
            f"{row.step_id or '-'}\n{row.cluster_id or '(launching)'}",
            f"{row.state}\n{since(row.started_at, row.ended_at or now)}",
            str(row.losses),
        )
        for row in rows
    ]
    columns = ("task and run", "try", "step and cluster", "state and time", "losses")
    named = [(f"{task_name(row)} try {row.try_number}", row) for row in rows]
    causes = [f"{name} {row.state}: {row.cause}" for name, row in named if row.cause]
    held = [_held(name, "submission", row) for name, row in named if row.quarantine]
    live = {*LIVE_SUBMISSION_STATES, StepState.CANCEL_PENDING}
    is_cut = sum(row.state in live for row in rows) >= STEPS_SHOWN
    more = [f"Only the first {STEPS_SHOWN} live steps are shown."] if is_cut else []
    return _with_lines(
        table(columns, cells, right=("try", "losses"), whole=columns[1:]), [*causes, *held, *more]
    )


def is_leaving(submission: Submission) -> bool:
    """Whether EMR is asked to cancel its step, which may still run."""
    return submission.is_live and submission.step_state is StepState.CANCEL_PENDING


def _bug(of_row: str | None) -> str | None:
    return None if of_row is None else quarantine.reason(of_row)


def _held(name: str, entity: str, row: ClusterRow | StepRow) -> str:
    name = f"{name} is in quarantine"
    return quarantine.sentences(name, row.quarantine or "", entity, cluster_id=row.cluster_id)


def _with_lines(view: RenderableType, lines: Sequence[str]) -> RenderableType:
    return Group(view, "", *lines) if lines else view

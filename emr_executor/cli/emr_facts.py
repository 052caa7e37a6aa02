"""Our half of ``explain``: what the store has on a task instance, and what the plan would do with it.

The reason why a step waits is not stored: it is decided anew by ``core.plan`` from what the store holds,
with the very function that the agent runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from emr_executor.agent.launch_backoff import LONGEST_HOLD_S, hold_after_s, is_failed_launch, why_failed
from emr_executor.agent.steering import limits_of, without_new
from emr_executor.agent.waiting_lines import READY_LIMIT
from emr_executor.cli.formatting import filled
from emr_executor.cli.health import is_silent
from emr_executor.cli.listings import ClusterRow, cluster_row, is_leaving
from emr_executor.config import Settings
from emr_executor.core.fact_ages import ages_by_rows
from emr_executor.core.model import (
    Cluster,
    HistoryEntry,
    StepOutcome,
    Submission,
    Workload,
    WorkloadId,
)
from emr_executor.core.plan import plan
from emr_executor.core.states import CAPPED_CLUSTER_STATES, OVER_CLUSTER_STATES, WorkloadState
from emr_executor.core.waiting import Hold, Holds, reasons
from emr_executor.core.waiting_in_line import beyond
from emr_executor.store import health_store, queries
from emr_executor.store.lease_store import read_lease
from emr_executor.store.schema import STEERING
from emr_executor.store.snapshot_store import snapshot

if TYPE_CHECKING:
    from emr_executor.cli.airflow_facts import AirflowFacts

PAST_CLUSTERS = 100
"""Clusters that are over and looked at for launches that failed."""

_AWAITED = (WorkloadState.READY, WorkloadState.SUBMITTED)
_IN_LINE = (WorkloadState.ACCEPTED, WorkloadState.READY, WorkloadState.FINISHABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """One time that the workload was put on a cluster.

    is_leaving: EMR shows its step CANCEL_PENDING
    quarantine: of the submission
    """

    n: int
    cluster_id: str | None
    cluster_state: str | None
    step_id: str | None
    state: str
    intended_at: datetime
    submitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    cause: str
    is_leaving: bool
    quarantine: str | None
    cluster_quarantine: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadFacts:
    """The workload without what user code would fill (command, environment, Airflow's own JSON)."""

    workload_id: str
    try_number: int
    cluster_pool: str
    state: str
    target: str
    accepted_at: datetime
    ready_at: datetime | None
    not_before: datetime | None
    phase_attempts: int
    losses: int
    host: str | None
    cancel_reason: str | None
    airflow_state: str | None
    finished_at: datetime | None
    outcome: StepOutcome | None
    stays: tuple[Stay, ...]
    quarantine: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Why a workload waits. Of a READY one neither ``why`` nor ``goes_to``: without the configuration.

    why: the sentence of ``core.waiting``; None for a step that runs
    goes_to: the cluster that the next plan puts it on
    launch: why the next plan launches a cluster
    """

    why: str | None = None
    goes_to: str | None = None
    launch: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """The workload's pool: its clusters that are not over, against the cap, and launches that failed.

    failed_launches: in a row since the last cluster that came up
    held_until: when the next launch may be tried after them
    """

    cluster_pool: str
    max_clusters: int | None
    max_submissions: int | None
    counted: int
    clusters: tuple[ClusterRow, ...]
    failed_launches: int
    last_failure: str | None
    last_failed_at: datetime | None
    held_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OurFacts:
    """All that ``explain`` says of us.

    serves: whether the task's queue is one of ours; None where the configuration cannot be read
    earlier: the newest earlier try that we had, when there is none for this one
    ahead: how many have their turn before it in its state
    """

    serves: bool | None
    queues: tuple[str, ...]
    config_problems: tuple[str, ...]
    agent: str | None
    task_runner_parallelism: int | None
    finish_attempts: int | None
    workload: WorkloadFacts | None = None
    earlier: WorkloadFacts | None = None
    ahead: int | None = None
    waiting: Waiting | None = None
    pool: PoolFacts | None = None
    story: tuple[HistoryEntry, ...] = ()


def read_ours(
    conn: Connection,
    airflow: AirflowFacts,
    settings: Settings | None,
    config_problems: tuple[str, ...],
    now: datetime,
) -> OurFacts:
    """What the store has of a task instance."""
    facts = OurFacts(
        serves=None if settings is None else settings.pool_of_queue(airflow.queue or "") is not None,
        queues=tuple(q for pool in settings.cluster_pools for q in pool.queues) if settings else (),
        config_problems=config_problems,
        agent=read_lease(conn, STEERING).holder,
        task_runner_parallelism=settings.task_runner_parallelism if settings else None,
        finish_attempts=settings.finish_attempts if settings else None,
    )
    current = queries.workload(conn, WorkloadId(airflow.ti_id))
    told = current or _last_try(conn, airflow)
    if told is None:
        return facts
    loads = queries.clusters(conn, over=PAST_CLUSTERS)
    submissions = queries.submissions_of(conn, told.workload_id)
    workload = _workload_facts(told, submissions, {load.cluster.cluster_uuid: load.cluster for load in loads})
    if current is None:
        return replace(facts, earlier=workload, story=_story(conn, told, submissions, ()))
    pool = pool_facts(loads, current.cluster_pool, settings)
    # The story of clusters that are not up yet is the waiting step's.
    coming = [
        row.cluster_uuid
        for row in pool.clusters
        if current.state is WorkloadState.READY and row.state in CAPPED_CLUSTER_STATES and not row.ready_at
    ]
    return replace(
        facts,
        workload=workload,
        ahead=queries.ahead_of(conn, current) if current.state in _IN_LINE else None,
        waiting=_waiting(conn, current, settings, pool, now) if current.state in _AWAITED else None,
        pool=pool,
        story=_story(conn, current, submissions, coming),
    )


def _last_try(conn: Connection, airflow: AirflowFacts) -> Workload | None:
    found = queries.workloads_of(
        conn,
        dag_id=airflow.dag_id,
        task_id=airflow.task_id,
        run_id=airflow.run_id,
        map_index=airflow.map_index,
        over=True,
        limit=1,
    )
    return found[0] if found else None


def _workload_facts(
    workload: Workload, submissions: Iterable[Submission], clusters: dict[str, Cluster]
) -> WorkloadFacts:
    placed = [(submission, clusters.get(submission.cluster_uuid)) for submission in submissions]
    return filled(
        WorkloadFacts,
        workload,
        try_number=workload.key.try_number,
        host=workload.identity.hostname if workload.identity else None,
        stays=tuple(
            filled(
                Stay,
                submission,
                cluster_id=cluster.cluster_id if cluster else None,
                cluster_state=cluster.state if cluster else None,
                is_leaving=is_leaving(submission),
                cluster_quarantine=cluster.quarantine if cluster else None,
            )
            for submission, cluster in placed
        ),
    )


def _waiting(
    conn: Connection, workload: Workload, settings: Settings | None, pool: PoolFacts, now: datetime
) -> Waiting:
    if settings is None:
        return Waiting()
    holds = _holds(conn, pool, now)
    state = snapshot(conn, now, READY_LIMIT)
    place_held = {cluster.cluster_uuid for cluster in state.clusters if holds.budget_until}
    state = replace(
        state, launch_held=frozenset(holds.launch), place_held=frozenset(place_held | holds.place.keys())
    )
    limits = limits_of(settings)
    ages = ages_by_rows(state.clusters, state.submissions, now=state.now)
    decided = plan(state, limits, ages)
    launch = next((one.why for one in decided.launch if one.cluster_pool == workload.cluster_pool), None)
    cluster_ids = {cluster.cluster_uuid: cluster.cluster_id for cluster in state.clusters}
    if holds.away:
        decided = without_new(decided)
    for placement in decided.place:
        if workload.workload_id in placement.workload_ids:
            return Waiting(goes_to=cluster_ids.get(placement.cluster_uuid))
    found = reasons(state, decided, limits, ages, holds, loss_hold_s=settings.loss_hold_s)
    why = next((one.why for one in found if one.workload_id == workload.workload_id), None)
    if workload.state is WorkloadState.SUBMITTED:
        return Waiting(why=why)
    return Waiting(why=why or beyond(READY_LIMIT), launch=launch)


def _holds(conn: Connection, pool: PoolFacts, now: datetime) -> Holds:
    """What the agent that steers does not ask of EMR now, by its own word; launches by their rows too."""
    agents = health_store.agents(conn)
    told = next((one.holds for one in agents if one.steering and not is_silent(one, now)), Holds())
    launch = {name: hold for name, hold in told.launch.items() if hold.until > now}
    if pool.last_failure and pool.held_until and pool.held_until > now:
        hold = Hold(why=pool.last_failure, until=pool.held_until, longest_s=LONGEST_HOLD_S)
        launch = {pool.cluster_pool: hold, **launch}
    return replace(
        told,
        launch=launch,
        place={key: hold for key, hold in told.place.items() if hold.until > now},
        budget_until=told.budget_until if told.budget_until and told.budget_until > now else None,
    )


def pool_facts(loads: Sequence[queries.ClusterLoad], name: str, settings: Settings | None) -> PoolFacts:
    """What is known of a pool, from the clusters that are not over and the last that are, of all pools."""
    configured = settings.pool_named(name) if settings else None
    loads = [load for load in loads if load.cluster.cluster_pool == name]
    alive = [load for load in loads if load.cluster.state not in OVER_CLUSTER_STATES]
    failed = _failed_launches([load.cluster for load in loads])
    ended_at, last = failed[-1] if failed else (None, None)
    return PoolFacts(
        cluster_pool=name,
        max_clusters=configured.max_clusters if configured else None,
        max_submissions=configured.max_submissions if configured else None,
        counted=sum(load.cluster.state in CAPPED_CLUSTER_STATES for load in alive),
        clusters=tuple(map(cluster_row, alive)),
        failed_launches=len(failed),
        last_failure=why_failed(last) if last else None,
        last_failed_at=ended_at,
        held_until=ended_at + timedelta(seconds=hold_after_s(len(failed))) if ended_at else None,
    )


def _failed_launches(clusters: Sequence[Cluster]) -> list[tuple[datetime, Cluster]]:
    """Launches that failed since a cluster last came up, by the time of their end, oldest first."""
    last_ready = max((c.ready_at for c in clusters if c.ready_at is not None), default=None)
    failed = [
        (c.ended_at, c)
        for c in clusters
        if c.state in OVER_CLUSTER_STATES and c.ended_at is not None and is_failed_launch(c)
    ]
    since_then = [(at, c) for at, c in failed if last_ready is None or at > last_ready]
    return sorted(since_then, key=lambda pair: (pair[0], pair[1].cluster_uuid))


def _story(
    conn: Connection, workload: Workload, submissions: Iterable[Submission], cluster_uuids: Iterable[str]
) -> tuple[HistoryEntry, ...]:
    """What happened to it, and to its clusters in its own time."""
    subjects = {("workload", str(workload.workload_id)), *(("cluster", uuid) for uuid in cluster_uuids)}
    for submission in submissions:
        subjects |= {("submission", submission.submission_id), ("cluster", submission.cluster_uuid)}
    began, over = workload.accepted_at, workload.finished_at
    return tuple(
        line
        for line in queries.history_of(conn, sorted(subjects))
        if line.subject != "cluster" or (began <= line.at and (over is None or line.at <= over))
    )

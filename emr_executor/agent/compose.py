"""Puts an agent together from its surroundings: the same in production and in the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from emr_executor.agent.claims import Claims
from emr_executor.agent.cluster_tracker import ClusterTracker
from emr_executor.agent.dependencies import Dependencies, watched
from emr_executor.agent.emr_actions import EmrActions
from emr_executor.agent.heartbeats import Heartbeats
from emr_executor.agent.intents import Intents
from emr_executor.agent.launch_backoff import LaunchBackoff
from emr_executor.agent.lease import LeaseKeeper
from emr_executor.agent.loops import Agent
from emr_executor.agent.outcomes import Outcomes
from emr_executor.agent.phases import Phases
from emr_executor.agent.placement_backoff import PlacementBackoff
from emr_executor.agent.record_poll import RecordPoll
from emr_executor.agent.retention_db import DatabaseRetention
from emr_executor.agent.retention_s3 import S3Retention
from emr_executor.agent.steering import READY_LIMIT, Steering, limits_of
from emr_executor.agent.tracker import Tracker
from emr_executor.agent.waiting_lines import LinesBetweenTicks, WaitingLines
from emr_executor.config import Settings
from emr_executor.core.health import Dependency
from emr_executor.core.model import ClusterUuid, Identity
from emr_executor.ports import Clock, EmrApi, StepRecords, TaskApi, TaskHost, TaskLog
from emr_executor.store.agent_store import AgentStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Everything that an agent reaches outside of its own memory.

    records_uri: where the wrappers of this deployment write, for the steps' arguments
    identity: under which Airflow knows the tries that this agent prepares
    holder: names this agent in the lease, unique for its life
    new_id: a fresh UUID as text, for clusters and claims
    expiry: what ends old objects in S3; None: nothing does
    dependencies: where is kept what cannot be reached; None: the agent keeps its own
    """

    settings: Settings
    clock: Clock
    store: AgentStore
    host: TaskHost
    api: TaskApi
    emr: EmrApi
    records: StepRecords
    records_uri: str
    region: str
    task_log: TaskLog
    identity: Identity
    holder: str
    deployment_id: str
    new_id: Callable[[], str]
    expiry: S3Retention | None = None
    dependencies: Dependencies | None = None


def compose(around: Surroundings) -> Agent:
    """An agent that has done nothing yet."""
    settings, clock, task_log = around.settings, around.clock, around.task_log
    dependencies = around.dependencies or Dependencies(clock)
    store = watched(around.store, Dependency.DATABASE, dependencies)
    api = watched(around.api, Dependency.API, dependencies)
    emr = watched(around.emr, Dependency.EMR, dependencies)
    records = watched(around.records, Dependency.S3, dependencies)
    wake_steering, wake_phases = asyncio.Event(), asyncio.Event()

    def wake_all() -> None:
        wake_steering.set()
        wake_phases.set()

    phases = Phases(
        store=store,
        host=around.host,
        api=api,
        task_log=task_log,
        clock=clock,
        settings=settings,
        identity=around.identity,
        new_token=around.new_id,
        on_ended=wake_all,
    )
    holds, placing = LaunchBackoff(clock), PlacementBackoff(clock)
    outcomes = Outcomes(
        loss_hold_s=settings.loss_hold_s,
        max_submissions={pool.name: pool.max_submissions for pool in settings.cluster_pools},
        on_cluster_over=holds.cluster_over,
        on_cluster_ready=holds.cluster_ready,
    )
    actions = EmrActions(
        emr=emr,
        store=store,
        task_log=task_log,
        clock=clock,
        settings=settings,
        holds=holds,
        placing=placing,
        deployment_id=around.deployment_id,
        records_uri=around.records_uri,
        region=around.region,
        wake=wake_steering.set,
    )
    record_poll = RecordPoll(
        records,
        clock,
        outcomes,
        interval_s=settings.records_interval_s,
        masks=phases.masks,
        records_uri=around.records_uri,
        wake=wake_steering.set,
    )
    tracker = Tracker(
        emr=emr,
        records=record_poll,
        claims=Claims(records, clock),
        clusters=ClusterTracker(
            emr=emr,
            store=store,
            outcomes=outcomes,
            clock=clock,
            settings=settings,
            deployment_id=around.deployment_id,
            terminate=actions.terminate,
        ),
        outcomes=outcomes,
        clock=clock,
        settings=settings,
    )
    waiting_lines, limits = WaitingLines(), limits_of(settings)
    steering = Steering(
        store=store,
        tracker=tracker,
        outcomes=outcomes,
        actions=actions,
        holds=holds,
        placing=placing,
        records=record_poll,
        task_log=task_log,
        clock=clock,
        limits=limits,
        intents=Intents(
            limits=limits,
            deployment_id=around.deployment_id,
            new_cluster_uuid=lambda: ClusterUuid(around.new_id()),
        ),
        loss_hold_s=settings.loss_hold_s,
        waiting_lines=waiting_lines,
        held=dependencies.held,
    )
    lease = LeaseKeeper(store, clock, holder=around.holder, lease_s=settings.lease_s)
    return Agent(
        settings=settings,
        clock=clock,
        lease=lease,
        steering=steering,
        records=record_poll,
        actions=actions,
        phases=phases,
        heartbeats=Heartbeats(
            store, api, clock, interval_s=settings.task_heartbeat_interval_s, wake=wake_steering.set
        ),
        housekeeping=DatabaseRetention(
            store=store, expiry=around.expiry, lease=lease, clock=clock, settings=settings
        ),
        between_ticks=LinesBetweenTicks(
            store=store,
            task_log=task_log,
            clock=clock,
            waiting_lines=waiting_lines,
            ready_limit=READY_LIMIT,
            at_once=around.host.capacity,
            no_runner=lambda: phases.no_runner,
        ),
        wake_steering=wake_steering,
        wake_phases=wake_phases,
    )

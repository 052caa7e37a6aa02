"""Puts an agent together from its surroundings: the same in production and in the simulator."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from emr_executor.agent.claims import Claims
from emr_executor.agent.cluster_tracker import ClusterTracker
from emr_executor.agent.dependencies import Dependencies, watched
from emr_executor.agent.emr_actions import EmrActions
from emr_executor.agent.heartbeats import Heartbeats
from emr_executor.agent.launch_backoff import LaunchBackoff
from emr_executor.agent.lease import LeaseKeeper
from emr_executor.agent.loops import Agent
from emr_executor.agent.outcomes import Outcomes
from emr_executor.agent.phases import Phases
from emr_executor.agent.placement_backoff import PlacementBackoff
from emr_executor.agent.record_poll import RecordPoll
from emr_executor.agent.retention_db import DatabaseRetention
from emr_executor.agent.steering import Steering
from emr_executor.agent.surroundings import Surroundings
from emr_executor.agent.tracker import Tracker
from emr_executor.agent.waiting_lines import LinesBetweenTicks, WaitingLines
from emr_executor.core.health import Dependency


def compose(around: Surroundings) -> Agent:
    """An agent that has done nothing yet."""
    clock = around.clock
    dependencies = around.dependencies or Dependencies(clock)
    around = replace(
        around,
        store=watched(around.store, Dependency.DATABASE, dependencies),
        api=watched(around.api, Dependency.API, dependencies),
        emr=watched(around.emr, Dependency.EMR, dependencies),
        records=watched(around.records, Dependency.S3, dependencies),
        dependencies=dependencies,
    )
    wake_steering, wake_phases = asyncio.Event(), asyncio.Event()

    def wake_all() -> None:
        wake_steering.set()
        wake_phases.set()

    phases = Phases(around, on_ended=wake_all)
    holds, placing = LaunchBackoff(clock), PlacementBackoff(clock)
    outcomes = Outcomes(
        around.settings, on_cluster_over=holds.cluster_over, on_cluster_ready=holds.cluster_ready
    )
    actions = EmrActions(around, holds, placing, wake=wake_steering.set)
    records = RecordPoll(around, outcomes, masks=phases.masks, wake=wake_steering.set)
    clusters = ClusterTracker(around, outcomes, terminate=actions.terminate)
    tracker = Tracker(around, records, Claims(around.records, clock), clusters, outcomes)
    waiting_lines = WaitingLines()
    lease = LeaseKeeper(around.store, clock, holder=around.holder, lease_s=around.settings.lease_s)
    return Agent(
        around,
        lease=lease,
        steering=Steering(
            around,
            tracker=tracker,
            outcomes=outcomes,
            actions=actions,
            holds=holds,
            placing=placing,
            records=records,
            waiting_lines=waiting_lines,
            held=dependencies.held,
        ),
        records=records,
        actions=actions,
        phases=phases,
        heartbeats=Heartbeats(around, wake=wake_steering.set),
        housekeeping=DatabaseRetention(around, lease),
        between_ticks=LinesBetweenTicks(around, waiting_lines, no_runner=lambda: phases.no_runner),
        wake_steering=wake_steering,
        wake_phases=wake_phases,
    )

"""The configuration as checked, frozen values with their units. Reads nothing: ``config_load`` does.

Every bound of the executor stands here.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

EMR_ACTIVE_STEP_LIMIT = 256
"""PENDING, RUNNING and CANCEL_PENDING steps of one cluster (EMR Management Guide, "Work with steps")."""
EMR_STEP_CHARACTERS = 10_240
"""All strings of one HadoopJarStep together (botocore emr, AddJobFlowSteps)."""
AUTO_TERMINATION_MIN_S = 60
AUTO_TERMINATION_MAX_S = 604_800
"""Bounds of AutoTerminationPolicy.IdleTimeout (botocore emr)."""
EMR_IDLE_TIMEOUT_S = 3_600
"""EMR's own IdleTimeout of a policy that names none."""

CLUSTER_TAG_PREFIX = "airflow-emr:"
"""Tags of this executor's own on its clusters."""

KEEP_HISTORY_AT_LEAST_S = 86_400.0
"""Younger than this, an end may still be unread, or wanted by ``airflow emr explain``."""
KEEP_STAGING_AT_LEAST_S = 7 * 86_400.0
"""A rule between all deployments with one ``staging_uri`` (aws.layout): change it and they disagree."""

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SecondsOrNever = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""0 has a meaning of its own."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AwsAccess(_Frozen):
    """How the agent reaches AWS; all None is botocore's own chain."""

    aws_conn_id: str | None = None
    region_name: str | None = None
    endpoint_url: str | None = None


class ClusterPool(_Frozen):
    """Clusters with one template, serving one or more Airflow queues.

    template: a RunJobFlow request as the template file holds it
    slots: StepConcurrencyLevel of the template; its only key for slots
    prefetch: steps put on a cluster beyond its slots, so that a slot never waits for a call: by default one
        that is left, and eight that are added in one call
    auto_termination_s: EMR's own idle timeout, the dead man's switch, well above idle_timeout_s
    deploy_mode, yarn_queue: used where neither operator nor connection names one
    """

    name: str = "default"
    queues: tuple[str, ...] = ("emr",)
    template: dict[str, Any]
    max_clusters: Annotated[int, Field(ge=1, le=500)] = 1
    min_clusters: Annotated[int, Field(ge=0, le=500)] = 0
    idle_timeout_s: Seconds = 300.0
    queue_timeout_s: Seconds | None = None
    max_submissions: Annotated[int, Field(ge=1, le=100)] = 3
    prefetch: Annotated[int, Field(ge=0, le=EMR_ACTIVE_STEP_LIMIT)] = 9
    launch_unknown_s: Seconds = 180.0
    deploy_mode: Literal["client", "cluster"] = "client"
    yarn_queue: str | None = None

    @property
    def slots(self) -> int:
        """Steps that one cluster runs at once."""
        return int(self.template.get("StepConcurrencyLevel", 1))

    @property
    def template_hash(self) -> str:
        """Changes when the template does: clusters with another hash are drained (drift)."""
        canonical = json.dumps(self.template, sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def auto_termination_s(self) -> int:
        """EMR's idle timeout for a cluster of this pool, unless the template sets its own."""
        wanted = max(3600.0, 4 * self.idle_timeout_s)
        return int(min(max(wanted, AUTO_TERMINATION_MIN_S), AUTO_TERMINATION_MAX_S))


class Settings(_Frozen):
    """Everything that airflow.cfg says of this executor.

    staging_uri: ``s3://bucket/prefix/`` for staged files, step specs, records and output
    agent: ``child`` of the scheduler, or a ``service`` of its own (``airflow emr agent``)
    task_runner_parallelism: prepare and finish phases at once on one agent's host
    task_heartbeat_interval_s: how often a parked try is heartbeaten; a third of
        Airflow's ``[scheduler] task_instance_heartbeat_timeout`` or less
    task_heartbeat_timeout_s: that option of Airflow's: after it Airflow fails a silent try
    similar_queue: read by the policy alone
    agent_hang_s: how long an agent's event loop may stand still before it is ended and started anew
    lease_s: how long the steering agent may be silent before another takes over
    claim_s: how long a phase's process may be silent before its phase is run again
    output_interval_s: cadence of driver output from the cluster to the task log
    output_max_bytes: driver output kept of one submission
    records_interval_s: how often records are listed while steps are live
    sweep_interval_s: how often ListSteps is asked of each cluster with live steps
    cluster_poll_interval_s: how often ListClusters is asked while clusters are not over
    loss_hold_s: how long a step that ended without its wrapper's last words is held before
        it counts as failed: EMR shows the loss of a cluster a minute or two after its steps
    tick_interval_s: pause between two looks at the store while there is work
    finish_attempts: how often a finish phase is tried before the try fails terminally
    refusal_hold_s: how long a task stays queued while the configuration cannot be used; 0 fails it at once
    keep_history_s: how long rows are kept of what is over; 0 for ever
    keep_staging_s: how long objects are kept in S3 that no live step needs; 0 for ever
    """

    staging_uri: str
    aws: AwsAccess = AwsAccess()
    cluster_pools: tuple[ClusterPool, ...]
    similar_queue: Literal["warn", "refuse"] = "warn"
    agent: Literal["child", "service"] = "child"
    task_runner_parallelism: Annotated[int, Field(ge=1, le=256)] = 4
    task_heartbeat_interval_s: Seconds = 60.0
    task_heartbeat_timeout_s: Seconds = 300.0
    agent_hang_s: Annotated[float, Field(ge=5, allow_inf_nan=False)] = 30.0
    lease_s: Seconds = 20.0
    claim_s: Seconds = 45.0
    output_interval_s: Seconds = 15.0
    output_max_bytes: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024
    records_interval_s: Seconds = 2.0
    sweep_interval_s: Seconds = 60.0
    cluster_poll_interval_s: Seconds = 15.0
    loss_hold_s: Seconds = 150.0
    tick_interval_s: Seconds = 1.0
    finish_attempts: Annotated[int, Field(ge=1)] = 60
    refusal_hold_s: SecondsOrNever = 600.0
    keep_history_s: SecondsOrNever = 30 * 86_400.0
    keep_staging_s: SecondsOrNever = 14 * 86_400.0

    @property
    def outage_s(self) -> float:
        """How long Airflow's API server may be away without a harm to a try that has just been heard of."""
        return max(self.task_heartbeat_timeout_s - self.task_heartbeat_interval_s, 0.0)

    def pool_of_queue(self, queue: str) -> ClusterPool | None:
        """The cluster pool that serves an Airflow queue, or None."""
        return next((pool for pool in self.cluster_pools if queue in pool.queues), None)

    def pool_named(self, name: str) -> ClusterPool | None:
        """A cluster pool by its name, or None when the configuration no longer has it."""
        return next((pool for pool in self.cluster_pools if pool.name == name), None)

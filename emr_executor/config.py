"""The configuration as checked, frozen values with their units. Reads nothing: ``config_load`` does.

Every option of ``[emr_executor]`` stands here once, at the field that it fills: its words to users, its
default and its bounds. Airflow's own documentation, ``docs/configuration.md`` and the parser are made of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from emr_executor.options import Option, duration_s, names, size_bytes, written

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

Seconds = Annotated[float, BeforeValidator(duration_s), Field(gt=0, allow_inf_nan=False)]
SecondsOrNever = Annotated[float, BeforeValidator(duration_s), Field(ge=0, allow_inf_nan=False)]
"""0 has a meaning of its own."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AwsAccess(_Frozen):
    """How the agent reaches AWS; all None is botocore's own chain."""

    aws_conn_id: Annotated[
        str | None,
        Option(
            "The Airflow connection to AWS, which agent and tasks use: its credentials or role, region, "
            "endpoints (service_config too), verify and config_kwargs. Unset means the AWS SDK's own "
            "chain. region_name and endpoint_url here win over the connection's.",
            example="aws_default",
        ),
    ] = None
    region_name: Annotated[
        str | None,
        Option(
            "The AWS region. Unset means that of the connection or of the AWS SDK's own chain.",
            example="eu-west-1",
        ),
    ] = None
    endpoint_url: Annotated[
        str | None,
        Option(
            "Another address for EMR and S3, such as that of emr-local. Unset means AWS.",
            example="http://127.0.0.1:5555",
            tuning=True,
        ),
    ] = None


class ClusterPool(_Frozen):
    """Clusters with one template, serving one or more Airflow queues."""

    name: str = "default"
    queues: Annotated[
        tuple[str, ...],
        BeforeValidator(names),
        Option(
            "The Airflow queue, or several separated by commas, whose tasks run as EMR steps.",
            example="emr,emr-nightly",
            name="queue",
        ),
    ] = ("emr",)
    template: Annotated[
        dict[str, Any],
        Option(
            "A YAML or JSON file with a plain RunJobFlow request: how a cluster is launched. Its "
            "StepConcurrencyLevel is the number of steps that one cluster runs at once. The executor "
            "sets Name and Steps. A relative path starts at AIRFLOW_HOME.",
            example="config/clusters/spark.yaml",
            name="cluster_template",
        ),
    ]
    max_clusters: Annotated[
        int,
        Field(ge=1, le=500),
        Option(
            "How many clusters there may be at once, from STARTING to WAITING. It is never exceeded.",
            example="4",
        ),
    ] = 1
    min_clusters: Annotated[
        int, Field(ge=0, le=500), Option("How many clusters are kept while there is no work.", example="1")
    ] = 0
    idle_timeout_s: Annotated[
        Seconds,
        Option(
            "How long a cluster beyond min_clusters may be without a step before it is ended.", example="5m"
        ),
    ] = 300.0
    queue_timeout_s: Annotated[
        Seconds | None,
        Option(
            "How long a step may wait for a cluster before its task fails. Unset means for ever.",
            example="2h",
        ),
    ] = None
    max_submissions: Annotated[
        int,
        Field(ge=1, le=100),
        Option(
            "How often one try may be put on a cluster when AWS takes its cluster or node away. After "
            "that the try fails.",
            example="5",
        ),
    ] = 3
    prefetch: Annotated[
        int,
        Field(ge=0, le=EMR_ACTIVE_STEP_LIMIT),
        Option(
            "How many steps are put on a cluster beyond its slots, so that no slot waits for a call. A "
            "small number makes more calls of AddJobFlowSteps, of which EMR takes one in two seconds.",
            example="4",
            tuning=True,
        ),
    ] = 9
    launch_unknown_s: Annotated[
        Seconds,
        Option(
            "How long the cluster of a RunJobFlow call that got no answer is looked for before the call "
            "counts as never made.",
            example="3m",
            name="launch_unknown_timeout",
            tuning=True,
        ),
    ] = 180.0
    deploy_mode: Annotated[
        Literal["client", "cluster"],
        Option(
            "Spark's deploy mode, client or cluster, where neither the task, its connection nor the "
            "cluster's spark-defaults name one.",
            example="cluster",
        ),
    ] = "client"
    yarn_queue: Annotated[
        str | None,
        Option(
            "The YARN queue, where neither the task, its connection nor the cluster's spark-defaults "
            "name one.",
            example="nightly",
            tuning=True,
        ),
    ] = None

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

    task_heartbeat_timeout_s: Airflow's own option, after which it fails a silent try
    """

    staging_uri: Annotated[
        str,
        Option(
            "Where the executor keeps staged files, step specifications, records and driver output: "
            "s3://bucket/prefix/. Agent, tasks and clusters read and write below it; docs/staging.md has "
            "the policy for clusters.",
            example="s3://my-bucket/airflow-emr/",
        ),
    ]
    aws: AwsAccess = AwsAccess()
    cluster_pools: tuple[ClusterPool, ...]
    similar_queue: Annotated[
        Literal["warn", "refuse"],
        Option(
            "What is done about a Spark task whose queue is nearly an EMR queue (emrr, EMR), and which "
            "therefore runs on a host of Airflow's: warn in the logs, or refuse it as an import error.",
            example="refuse",
            tuning=True,
        ),
    ] = "warn"
    agent: Annotated[
        Literal["child", "service"],
        Option(
            "Who runs the agent. child: the scheduler starts and restarts it. service: you run 'airflow "
            "emr agent', where the scheduler's host has no DAG files.",
            example="service",
        ),
    ] = "child"
    task_runner_parallelism: Annotated[
        int,
        Field(ge=1, le=256),
        Option(
            "How many processes run user code (what comes before and after a step) at once on one "
            "agent's host.",
            example="8",
            tuning=True,
        ),
    ] = 4
    task_heartbeat_interval_s: Annotated[
        Seconds,
        Option(
            "How often Airflow hears of a task whose step waits or runs. It is at most a third of "
            "[scheduler] task_instance_heartbeat_timeout.",
            example="60",
            tuning=True,
        ),
    ] = 60.0
    task_heartbeat_timeout_s: Seconds = 300.0
    agent_hang_s: Annotated[
        float,
        BeforeValidator(duration_s),
        Field(ge=5, allow_inf_nan=False),
        Option(
            "How long an agent may stand still before it is ended and started again: by the scheduler "
            "whose child it is, or by itself as a service. It is at least 5 seconds.",
            example="30",
            name="agent_hang_timeout",
            tuning=True,
        ),
    ] = 30.0
    lease_s: Annotated[
        Seconds,
        Option(
            "How long the agent that steers clusters may be silent before another agent takes over.",
            example="20",
            name="lease_timeout",
            tuning=True,
        ),
    ] = 20.0
    claim_s: Annotated[
        Seconds,
        Option(
            "How long a process that runs user code may be silent before that work is done again.",
            example="45",
            name="claim_timeout",
            tuning=True,
        ),
    ] = 45.0
    output_interval_s: Annotated[
        Seconds,
        Option("How often a cluster sends the driver's output to the task's log.", example="15", tuning=True),
    ] = 15.0
    output_max_bytes: Annotated[
        int,
        BeforeValidator(size_bytes),
        Field(ge=0),
        Option(
            "How much driver output of one step reaches the task's log, in bytes or as '16 MiB'.",
            example="64 MiB",
            name="output_max_size",
            tuning=True,
        ),
    ] = 16 * 1024 * 1024
    records_interval_s: Annotated[
        Seconds,
        Option(
            "How often S3 is asked for news of live steps. One listing serves them all.",
            example="2",
            tuning=True,
        ),
    ] = 2.0
    step_poll_interval_s: Annotated[
        Seconds,
        Option("How often ListSteps is asked of a cluster with live steps.", example="60", tuning=True),
    ] = 60.0
    cluster_poll_interval_s: Annotated[
        Seconds,
        Option("How often ListClusters is asked while there are clusters.", example="15", tuning=True),
    ] = 15.0
    loss_hold_s: Annotated[
        Seconds,
        Option(
            "How long a step that EMR shows over, and whose wrapper wrote no last record, is held before "
            "it counts as failed. EMR shows the loss of a cluster a minute or two after its steps.",
            example="2.5m",
            tuning=True,
        ),
    ] = 150.0
    tick_interval_s: Annotated[
        Seconds,
        Option(
            "How long the agent pauses between two looks at its tables while there is work.",
            example="1",
            tuning=True,
        ),
    ] = 1.0
    finish_attempts: Annotated[
        int,
        Field(ge=1),
        Option(
            "How often the work after a step is tried before the task fails without it.",
            example="60",
            tuning=True,
        ),
    ] = 60
    refusal_hold_s: Annotated[
        SecondsOrNever,
        Option(
            "How long tasks stay queued while this configuration cannot be used, before they fail: time "
            "to correct it and restart the scheduler. 0 fails them at once. Airflow itself takes a task "
            "back after [scheduler] task_queued_timeout and queues it again, twice by default.",
            example="1h",
            tuning=True,
        ),
    ] = 600.0
    keep_history_s: Annotated[
        SecondsOrNever,
        Option(
            "How long the database keeps tasks, steps and clusters that are over, and their history: at "
            "least 1d. 0 means for ever.",
            example="90d",
            tuning=True,
        ),
    ] = 30 * 86_400.0
    keep_staging_s: Annotated[
        SecondsOrNever,
        Option(
            "How long staging_uri keeps driver output, records and staged files that no waiting or "
            "running step needs: at least 7d. 0 means for ever.",
            example="30d",
        ),
    ] = 14 * 86_400.0

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


def _options() -> Iterator[Option]:
    for part in (ClusterPool, Settings, AwsAccess):
        for name, info in part.model_fields.items():
            for about in info.metadata:
                if isinstance(about, Option):
                    default = None if info.is_required() else written(name, info.default)
                    yield replace(
                        about,
                        name=about.name or name.removesuffix("_s"),
                        part=part.__name__,
                        field=name,
                        default=default,
                        is_required=info.is_required(),
                        is_whole=info.annotation is int and not name.endswith("_bytes"),
                    )


OPTIONS = tuple(sorted(_options(), key=lambda option: (option.tuning, not option.is_required)))
"""The required ones first, then those that users set, then those for tuning."""

"""The options of ``[emr_executor]``: one table for Airflow's documentation and for our parser.

Standard library only: ``provider_info`` is imported by every ``airflow`` command.
Defaults stand in ``config``; this table repeats them for people, and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SECTION = "emr_executor"

Kind = Literal["text", "names", "whole", "duration", "size", "template"]
Part = Literal["settings", "pool", "aws"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: how it is written, and which field of ``config`` it fills.

    default: as a user would write it; None means that leaving it out means "none"
    required: there is no default that could work
    """

    name: str
    part: Part
    field: str
    kind: Kind
    description: str
    default: str | None = None
    example: str | None = None
    required: bool = False
    version_added: str = "0.1.0"


OPTIONS: tuple[Option, ...] = (
    Option(
        name="queue",
        part="pool",
        field="queues",
        kind="names",
        default="emr",
        example="emr,emr-nightly",
        description="The Airflow queue, or queues separated by commas, whose tasks run as EMR steps.",
    ),
    Option(
        name="similar_queue",
        part="settings",
        field="similar_queue",
        kind="text",
        default="warn",
        example="refuse",
        description=(
            "What is done about a Spark task whose queue is nearly an EMR queue (emrr, EMR), so that it\n"
            "runs on a host of Airflow's: warn in the logs, or refuse it as an import error."
        ),
    ),
    Option(
        name="cluster_template",
        part="pool",
        field="template",
        kind="template",
        required=True,
        example="config/clusters/spark.yaml",
        description=(
            "A YAML or JSON file with a plain RunJobFlow request: how a cluster of the pool is launched.\n"
            "Its StepConcurrencyLevel is the number of steps that one cluster runs at once. Name and Steps\n"
            "are set by the executor. A relative path starts at AIRFLOW_HOME."
        ),
    ),
    Option(
        name="staging_uri",
        part="settings",
        field="staging_uri",
        kind="text",
        required=True,
        example="s3://my-bucket/airflow-emr/",
        description=(
            "Where the executor keeps staged files, step specifications, records and driver output:\n"
            "s3://bucket/prefix/. The agent and the clusters read and write below it."
        ),
    ),
    Option(
        name="max_clusters",
        part="pool",
        field="max_clusters",
        kind="whole",
        default="1",
        example="4",
        description="Clusters of the pool at once, from STARTING to WAITING; never exceeded.",
    ),
    Option(
        name="min_clusters",
        part="pool",
        field="min_clusters",
        kind="whole",
        default="0",
        example="1",
        description="Clusters of the pool that are kept even while there is no work.",
    ),
    Option(
        name="idle_timeout",
        part="pool",
        field="idle_timeout_s",
        kind="duration",
        default="300",
        example="5m",
        description="How long a cluster beyond min_clusters may be without a step before it is ended.",
    ),
    Option(
        name="queue_timeout",
        part="pool",
        field="queue_timeout_s",
        kind="duration",
        example="2h",
        description="How long a step may wait for a cluster before its task fails; unset means for ever.",
    ),
    Option(
        name="max_submissions",
        part="pool",
        field="max_submissions",
        kind="whole",
        default="3",
        example="5",
        description="How often one try may be put on a cluster when AWS takes its cluster or node away.",
    ),
    Option(
        name="prefetch",
        part="pool",
        field="prefetch",
        kind="whole",
        default="9",
        example="4",
        description=(
            "Steps put on a cluster beyond its slots, so that a slot never waits for a call. "
            "A small number makes more calls of AddJobFlowSteps, of which EMR takes one in two seconds."
        ),
    ),
    Option(
        name="deploy_mode",
        part="pool",
        field="deploy_mode",
        kind="text",
        default="client",
        example="cluster",
        description="client or cluster, where neither task, connection nor the cluster's defaults say.",
    ),
    Option(
        name="yarn_queue",
        part="pool",
        field="yarn_queue",
        kind="text",
        example="nightly",
        description="The YARN queue, where neither the operator, its connection nor the cluster's "
        "spark-defaults name one.",
    ),
    Option(
        name="launch_unknown_timeout",
        part="pool",
        field="launch_unknown_s",
        kind="duration",
        default="180",
        example="3m",
        description=(
            "How long a RunJobFlow call without an answer is looked for among EMR's clusters before it\n"
            "counts as never made."
        ),
    ),
    Option(
        name="aws_conn_id",
        part="aws",
        field="aws_conn_id",
        kind="text",
        example="aws_default",
        description=(
            "The Airflow connection to AWS, for agent and staged files alike: its credentials or role,\n"
            "region, endpoints (service_config too), verify and config_kwargs. Unset means the AWS SDK's\n"
            "own chain. region_name and endpoint_url here win over the connection's."
        ),
    ),
    Option(
        name="region_name",
        part="aws",
        field="region_name",
        kind="text",
        example="eu-west-1",
        description="The AWS region; unset means that of the connection or of the AWS SDK's own chain.",
    ),
    Option(
        name="endpoint_url",
        part="aws",
        field="endpoint_url",
        kind="text",
        example="http://127.0.0.1:5555",
        description="Another address for EMR and S3, as that of emr-local; unset means AWS.",
    ),
    Option(
        name="agent",
        part="settings",
        field="agent",
        kind="text",
        default="child",
        example="service",
        description=(
            "child: the scheduler starts and restarts the agent. service: it runs on its own, as\n"
            "'airflow emr agent', where the scheduler's host has no DAG files."
        ),
    ),
    Option(
        name="task_runner_parallelism",
        part="settings",
        field="task_runner_parallelism",
        kind="whole",
        default="4",
        example="8",
        description="Processes that run user code (before and after the step) at once on one agent's host.",
    ),
    Option(
        name="task_heartbeat_interval",
        part="settings",
        field="task_heartbeat_interval_s",
        kind="duration",
        default="60",
        example="60",
        description=(
            "How often Airflow hears of a task whose step waits or runs. At most a third of\n"
            "[scheduler] task_instance_heartbeat_timeout."
        ),
    ),
    Option(
        name="agent_hang_timeout",
        part="settings",
        field="agent_hang_s",
        kind="duration",
        default="30",
        example="30",
        description=(
            "How long an agent may stand still, blocked or stopped, before it is ended and started again:\n"
            "by the scheduler whose child it is, by itself as a service. At least 5 seconds."
        ),
    ),
    Option(
        name="lease_timeout",
        part="settings",
        field="lease_s",
        kind="duration",
        default="20",
        example="20",
        description="How long the steering agent may be silent before another agent takes over.",
    ),
    Option(
        name="claim_timeout",
        part="settings",
        field="claim_s",
        kind="duration",
        default="45",
        example="45",
        description="How long a process that runs user code may be silent before that work is done again.",
    ),
    Option(
        name="output_interval",
        part="settings",
        field="output_interval_s",
        kind="duration",
        default="15",
        example="15",
        description="How often a cluster sends the driver's output to the task log.",
    ),
    Option(
        name="output_max_size",
        part="settings",
        field="output_max_bytes",
        kind="size",
        default="16777216",
        example="64 MiB",
        description="How much driver output of one step reaches the task log, in bytes or as '16 MiB'.",
    ),
    Option(
        name="records_interval",
        part="settings",
        field="records_interval_s",
        kind="duration",
        default="2",
        example="2",
        description="How often S3 is asked for news of live steps: one listing for all of them.",
    ),
    Option(
        name="sweep_interval",
        part="settings",
        field="sweep_interval_s",
        kind="duration",
        default="60",
        example="60",
        description="How often ListSteps is asked of a cluster with live steps.",
    ),
    Option(
        name="cluster_poll_interval",
        part="settings",
        field="cluster_poll_interval_s",
        kind="duration",
        default="15",
        example="15",
        description="How often ListClusters is asked while clusters of ours are not over.",
    ),
    Option(
        name="loss_hold",
        part="settings",
        field="loss_hold_s",
        kind="duration",
        default="150",
        example="2.5m",
        description=(
            "How long a step that ended without a word of its own is held before it counts as failed:\n"
            "EMR shows the loss of a cluster a minute or two after its steps."
        ),
    ),
    Option(
        name="tick_interval",
        part="settings",
        field="tick_interval_s",
        kind="duration",
        default="1",
        example="1",
        description="Pause of the agent between two looks at its tables while there is work.",
    ),
    Option(
        name="finish_attempts",
        part="settings",
        field="finish_attempts",
        kind="whole",
        default="60",
        example="60",
        description="How often the work after a step is tried before the task fails without it.",
    ),
    Option(
        name="refusal_hold",
        part="settings",
        field="refusal_hold_s",
        kind="duration",
        default="10m",
        example="1h",
        description=(
            "How long tasks stay queued while this configuration cannot be used, before they fail: time to\n"
            "correct it and restart the scheduler. 0 fails them at once. Airflow itself takes a task back\n"
            "after [scheduler] task_queued_timeout and queues it again, twice by default."
        ),
    ),
    Option(
        name="keep_history",
        part="settings",
        field="keep_history_s",
        kind="duration",
        default="30d",
        example="90d",
        description=(
            "How long the database keeps tasks, steps and clusters that are over, and their history: at\n"
            "least 1d; 0 means for ever."
        ),
    ),
    Option(
        name="keep_staging",
        part="settings",
        field="keep_staging_s",
        kind="duration",
        default="14d",
        example="30d",
        description=(
            "How long staging_uri keeps driver output, records and staged files that no waiting or running\n"
            "step needs: at least 7d; 0 means for ever."
        ),
    ),
)

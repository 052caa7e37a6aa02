"""The configuration as checked, frozen values with their units. Reads nothing: ``config_load`` does.

Every option of ``[emr_executor]`` stands here once, at the field that it fills: its words to users below it,
its default and its bounds. Airflow's own documentation, ``docs/configuration.md`` and the parser are made of
it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

SECTION = "emr_executor"
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
_UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "": 1}
_SIZES = {"GIB": 2**30, "MIB": 2**20, "KIB": 2**10, "B": 1, "": 1}


def duration_s(given: Any) -> Any:
    """Seconds of ``90``, ``90s``, ``1.5m``, ``2h`` or ``1d``; what is no text stays. Raises ValueError."""
    if not isinstance(given, str):
        return given
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", given.strip())
    if match is None:
        raise ValueError("it must be seconds, or a number with s, m, h or d, such as 90 or 1.5m")
    return float(match[1]) * _UNITS_S[match[2]]


def size_bytes(given: Any) -> Any:
    """Bytes of ``4096`` or ``16 MiB``; what is no text stays. Raises ValueError."""
    if not isinstance(given, str):
        return given
    match = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", given)
    if match is None or match[2].upper() not in _SIZES:
        raise ValueError("it must be bytes, or a whole number with KiB, MiB or GiB")
    return int(match[1]) * _SIZES[match[2].upper()]


def names(given: Any) -> Any:
    """The names in a text with commas between them; what is no text stays. Raises ValueError."""
    if not isinstance(given, str):
        return given
    found = tuple(part.strip() for part in given.split(","))
    if not all(found):
        raise ValueError("an empty name; separate the names by single commas")
    if len(set(found)) != len(found):
        raise ValueError("each name may stand there once")
    return found


def option(
    default: Any, *, example: str, name: str | None = None, is_tuning: bool = False, **bounds: Any
) -> Any:
    """A field that an option fills; its words to users stand below it.

    default: ``...`` where there is none that could work
    name: the option's, where it is not the field's without its unit
    is_tuning: the default fits nearly everybody
    bounds: as ``pydantic.Field`` takes them
    """
    return Field(
        default, title=name, examples=[example], json_schema_extra={"is_tuning": is_tuning}, **bounds
    )


tuning = partial(option, is_tuning=True)


Seconds = Annotated[float, BeforeValidator(duration_s), Field(gt=0, allow_inf_nan=False)]
SecondsOrNever = Annotated[float, BeforeValidator(duration_s), Field(ge=0, allow_inf_nan=False)]
"""0 has a meaning of its own."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class AwsAccess(_Frozen):
    """How the agent reaches AWS; all None is botocore's own chain."""

    aws_conn_id: str | None = option(None, example="aws_default")
    """The Airflow connection to AWS, which agent and tasks use: its credentials or role, region, endpoints
    (service_config too), verify and config_kwargs. Unset means the AWS SDK's own chain. region_name and
    endpoint_url here win over the connection's."""
    region_name: str | None = option(None, example="eu-west-1")
    """The AWS region. Unset means that of the connection or of the AWS SDK's own chain."""
    endpoint_url: str | None = tuning(None, example="http://127.0.0.1:5555")
    """Another address for EMR and S3, such as that of emr-local. Unset means AWS."""


class ClusterPool(_Frozen):
    """Clusters with one template, serving one or more Airflow queues."""

    name: str = "default"
    queues: Annotated[tuple[str, ...], BeforeValidator(names)] = option(
        ("emr",), example="emr,emr-nightly", name="queue"
    )
    """The Airflow queue, or several separated by commas, whose tasks run as EMR steps."""
    template: dict[str, Any] = option(..., example="config/clusters/spark.yaml", name="cluster_template")
    """A YAML or JSON file with a plain RunJobFlow request: how a cluster is launched. Its
    StepConcurrencyLevel is the number of steps that one cluster runs at once. The executor sets Name and
    Steps. A relative path starts at AIRFLOW_HOME."""
    max_clusters: int = option(1, example="4", ge=1, le=500)
    """How many clusters there may be at once, from STARTING to WAITING. It is never exceeded."""
    min_clusters: int = option(0, example="1", ge=0, le=500)
    """How many clusters are kept while there is no work."""
    idle_timeout_s: Seconds = option(300.0, example="5m")
    """How long a cluster beyond min_clusters may be without a step before it is ended."""
    queue_timeout_s: Seconds | None = option(None, example="2h")
    """How long a step may wait for a cluster before its task fails. Unset means for ever."""
    max_submissions: int = option(3, example="5", ge=1, le=100)
    """How often one try may be put on a cluster when AWS takes its cluster or node away. After that the try
    fails."""
    prefetch: int = tuning(9, example="4", ge=0, le=EMR_ACTIVE_STEP_LIMIT)
    """How many steps are put on a cluster beyond its slots, so that no slot waits for a call. A small number
    makes more calls of AddJobFlowSteps, of which EMR takes one in two seconds."""
    launch_unknown_s: Seconds = tuning(180.0, example="3m", name="launch_unknown_timeout")
    """How long the cluster of a RunJobFlow call that got no answer is looked for before the call counts as
    never made."""
    deploy_mode: Literal["client", "cluster"] = option("client", example="cluster")
    """Spark's deploy mode, client or cluster, where neither the task, its connection nor the cluster's
    spark-defaults name one."""
    yarn_queue: str | None = tuning(None, example="nightly")
    """The YARN queue, where neither the task, its connection nor the cluster's spark-defaults name one."""

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

    staging_uri: str = option(..., example="s3://my-bucket/airflow-emr/")
    """Where the executor keeps staged files, step specifications, records and driver output:
    s3://bucket/prefix/. Agent, tasks and clusters read and write below it; docs/staging.md has the policy for
    clusters."""
    aws: AwsAccess = AwsAccess()
    cluster_pools: tuple[ClusterPool, ...]
    similar_queue: Literal["warn", "refuse"] = tuning("warn", example="refuse")
    """What is done about a Spark task whose queue is nearly an EMR queue (emrr, EMR), and which therefore
    runs on a host of Airflow's: warn in the logs, or refuse it as an import error."""
    agent: Literal["child", "service"] = option("child", example="service")
    """Who runs the agent. child: the scheduler starts and restarts it. service: you run 'airflow emr agent',
    where the scheduler's host has no DAG files."""
    task_runner_parallelism: int = tuning(4, example="8", ge=1, le=256)
    """How many processes run user code (what comes before and after a step) at once on one agent's host."""
    task_heartbeat_interval_s: Seconds = tuning(60.0, example="60")
    """How often Airflow hears of a task whose step waits or runs. It is at most a third of [scheduler]
    task_instance_heartbeat_timeout."""
    task_heartbeat_timeout_s: Seconds = 300.0
    agent_hang_s: Seconds = tuning(30.0, example="30", name="agent_hang_timeout", ge=5)
    """How long an agent may stand still before it is ended and started again: by the scheduler whose child it
    is, or by itself as a service. It is at least 5 seconds."""
    lease_s: Seconds = tuning(20.0, example="20", name="lease_timeout")
    """How long the agent that steers clusters may be silent before another agent takes over."""
    claim_s: Seconds = tuning(45.0, example="45", name="claim_timeout")
    """How long a process that runs user code may be silent before that work is done again."""
    output_interval_s: Seconds = tuning(15.0, example="15")
    """How often a cluster sends the driver's output to the task's log."""
    output_max_bytes: Annotated[int, BeforeValidator(size_bytes)] = tuning(
        16 * 1024 * 1024, example="64 MiB", name="output_max_size", ge=0
    )
    """How much driver output of one step reaches the task's log, in bytes or as '16 MiB'."""
    records_interval_s: Seconds = tuning(2.0, example="2")
    """How often S3 is asked for news of live steps. One listing serves them all."""
    step_poll_interval_s: Seconds = tuning(60.0, example="60")
    """How often ListSteps is asked of a cluster with live steps."""
    cluster_poll_interval_s: Seconds = tuning(15.0, example="15")
    """How often ListClusters is asked while there are clusters."""
    loss_hold_s: Seconds = tuning(150.0, example="2.5m")
    """How long a step that EMR shows over, and whose wrapper wrote no last record, is held before it counts
    as failed. EMR shows the loss of a cluster a minute or two after its steps."""
    tick_interval_s: Seconds = tuning(1.0, example="1")
    """How long the agent pauses between two looks at its tables while there is work."""
    finish_attempts: int = tuning(60, example="60", ge=1)
    """How often the work after a step is tried before the task fails without it."""
    refusal_hold_s: SecondsOrNever = tuning(600.0, example="1h")
    """How long tasks stay queued while this configuration cannot be used, before they fail: time to correct
    it and restart the scheduler. 0 fails them at once. Airflow itself takes a task back after [scheduler]
    task_queued_timeout and queues it again, twice by default."""
    keep_history_s: SecondsOrNever = tuning(30 * 86_400.0, example="90d")
    """How long the database keeps tasks, steps and clusters that are over, and their history: at least 1d. 0
    means for ever."""
    keep_staging_s: SecondsOrNever = option(14 * 86_400.0, example="30d")
    """How long staging_uri keeps driver output, records and staged files that no waiting or running step
    needs: at least 7d. 0 means for ever."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option as users meet it, and where it goes.

    default: as a user would write it; None means that leaving it out means "none"
    part, field: the class of its value and its field there
    """

    name: str
    description: str
    example: str
    tuning: bool
    default: str | None
    is_required: bool
    is_whole: bool
    part: str
    field: str


def _options() -> Iterator[Option]:
    for part in (ClusterPool, Settings, AwsAccess):
        for field, info in part.model_fields.items():
            if info.examples:
                yield Option(
                    name=info.title or field.removesuffix("_s"),
                    description=" ".join(str(info.description).split()),
                    example=info.examples[0],
                    tuning=info.json_schema_extra == {"is_tuning": True},
                    default=None if info.is_required() else _written(field, info.default),
                    is_required=info.is_required(),
                    is_whole=info.annotation is int and not field.endswith("_bytes"),
                    part=part.__name__,
                    field=field,
                )


def _written(field: str, value: Any) -> str | None:
    """A field's value as a user would write it."""
    if isinstance(value, tuple):
        return ",".join(value)
    if field.endswith("_bytes"):
        return f"{value // _SIZES['MIB']} MiB"
    if field.endswith("_s") and value is not None:
        unit = next(unit for unit, size in _UNITS_S.items() if value >= size and value % size == 0)
        return f"{value / _UNITS_S[unit]:g}{unit.replace('s', '')}"
    return None if value is None else str(value)


OPTIONS = tuple(sorted(_options(), key=lambda one: (one.tuning, not one.is_required)))
"""The required ones first, then those that users set, then those for tuning."""

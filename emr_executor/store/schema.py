"""The tables, in a MetaData of their own beside Airflow's, and the little of Airflow's that is read.

Columns follow the dataclasses of ``core.model`` (``rows`` maps them). Three rules hold for all writers:

- ``version`` grows by one with every write that a guarded writer must not overlook.
- ``priority_weight``, ``scheduler_job_id``, ``claim_beat`` and ``reported`` change without it: no guarded
  writer writes them, so nobody's work is thrown away for a sign of life.
- Nothing refers to Airflow's tables by a foreign key: a deleted DAG run must not touch a live step.
"""

from __future__ import annotations

from enum import IntEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    text,
)

from emr_executor.store.types import CleanText, UtcTime

ID_LENGTH = 36
AIRFLOW_ID_LENGTH = 250
"""Airflow's own bound of dag_id, task_id and run_id (airflow/models/base.py, ID_LEN)."""
NAME_LENGTH = 256
"""Airflow's bound of a queue, EMR's of a cluster's name."""

METADATA = MetaData()
VERSION_TABLE = "alembic_version_emr_executor"
"""Where Alembic keeps our revision, beside Airflow's own ``alembic_version``."""

STEERING = "steering"
"""The lease of the one agent that steers clusters and sends heartbeats."""


class ReportState(IntEnum):
    """Whether the scheduler has read how a workload ended."""

    UNREAD = 0
    """The scheduler still has to read it."""
    OFFERED = 1
    """Read, and offered again as long as Airflow holds the task instance in RESTARTING."""
    DONE = 2
    """Nothing more to tell."""


def _state(name: str) -> Column[str]:
    return Column(name, String(24), nullable=False)


def _json(name: str) -> Column[object]:
    # SQL NULL for None: a JSON null would be a value that IS NULL does not find.
    return Column(name, JSON(none_as_null=True), nullable=True)


DEPLOYMENT = Table(
    "emr_deployment",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("deployment_id", String(ID_LENGTH), nullable=False),
)
"""One row, with id 1."""

WORKLOAD = Table(
    "emr_workload",
    METADATA,
    Column("workload_id", String(ID_LENGTH), primary_key=True),
    Column("dag_id", String(AIRFLOW_ID_LENGTH), nullable=False),
    Column("task_id", String(AIRFLOW_ID_LENGTH), nullable=False),
    Column("run_id", String(AIRFLOW_ID_LENGTH), nullable=False),
    Column("try_number", Integer, nullable=False),
    Column("map_index", Integer, nullable=False),
    Column("cluster_pool", String(NAME_LENGTH), nullable=False),
    Column("queue", String(NAME_LENGTH), nullable=False),
    Column("priority_weight", Integer, nullable=False),
    Column("accepted_at", UtcTime, nullable=False),
    Column("scheduler_job_id", Integer),
    _json("workload"),
    _json("executor_config"),
    Column("log_path", CleanText),
    _state("state"),
    _state("target"),
    Column("version", Integer, nullable=False),
    Column("claim_token", String(64)),
    Column("claim_beat", Integer, nullable=False),
    Column("hostname", String(1000)),
    Column("unixname", String(1000)),
    Column("pid", Integer),
    Column("started_at", UtcTime),
    _json("step"),
    Column("ready_at", UtcTime),
    Column("submissions", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("phase_attempts", Integer, nullable=False),
    Column("not_before", UtcTime),
    _json("outcome"),
    Column("cancel_reason", CleanText),
    Column("airflow_state", String(24)),
    Column("finished_at", UtcTime),
    Column("quarantine", CleanText),
    Column("reported", Integer, nullable=False, default=int(ReportState.UNREAD)),
)
"""One row for each task instance that was accepted."""

# Serves every query by state, and hands out ACCEPTED, READY and FINISHABLE rows in their order of turn.
Index(
    "emr_workload_turn",
    WORKLOAD.c.state,
    WORKLOAD.c.target,
    WORKLOAD.c.priority_weight.desc(),
    WORKLOAD.c.accepted_at,
)
IS_UNREAD_END = text("reported < 2 AND state IN ('FINISHED', 'CANCELLED')")
"""What a scheduler has to read: over, and below ReportState.DONE. For queries of this table alone.

The words of the index: SQLite uses it for a query that says them alike, without parameters.
"""
# A few rows, however many are parked or over. With these as columns PostgreSQL would expect many (most rows
# are over, and what is parked is unread), and read the whole table.
Index(
    "emr_workload_report",
    WORKLOAD.c.scheduler_job_id,
    postgresql_where=IS_UNREAD_END,
    sqlite_where=IS_UNREAD_END,
)
Index("emr_workload_task", WORKLOAD.c.dag_id, WORKLOAD.c.task_id)
Index("emr_workload_finished_at", WORKLOAD.c.finished_at)

SUBMISSION = Table(
    "emr_submission",
    METADATA,
    Column("submission_id", String(64), primary_key=True),
    Column("workload_id", String(ID_LENGTH), nullable=False),
    Column("n", Integer, nullable=False),
    Column("cluster_uuid", String(ID_LENGTH), nullable=False),
    _state("state"),
    Column("intended_at", UtcTime, nullable=False),
    Column("version", Integer, nullable=False),
    Column("step_id", String(64)),
    Column("step_state", String(24)),
    Column("submitted_at", UtcTime),
    Column("started_at", UtcTime),
    Column("ended_at", UtcTime),
    Column("cancel_asked_at", UtcTime),
    Column("exit_code", Integer),
    Column("timed_out", Boolean, nullable=False),
    Column("wrapper_ended", Boolean, nullable=False),
    Column("wrapper_reason", CleanText, nullable=False),
    Column("cause", CleanText, nullable=False),
    Column("output_chunks", Integer, nullable=False),
    Column("record_mark", String(128)),
    Column("quarantine", CleanText),
    Index("emr_submission_state", "state"),
    Index("emr_submission_workload", "workload_id"),
    Index("emr_submission_cluster", "cluster_uuid"),
)
"""One row for each time a workload was put on a cluster; the primary key makes an id happen once."""

CLUSTER = Table(
    "emr_cluster",
    METADATA,
    Column("cluster_uuid", String(ID_LENGTH), primary_key=True),
    Column("cluster_pool", String(NAME_LENGTH), nullable=False),
    Column("name", String(NAME_LENGTH), nullable=False),
    Column("template_hash", String(64), nullable=False),
    Column("slots", Integer, nullable=False),
    _state("state"),
    Column("intended_at", UtcTime, nullable=False),
    _state("target"),
    Column("version", Integer, nullable=False),
    Column("cluster_id", String(64)),
    Column("ready_at", UtcTime),
    Column("idle_since", UtcTime),
    Column("end_asked_at", UtcTime),
    Column("ended_at", UtcTime),
    Column("reason_code", String(NAME_LENGTH)),
    Column("reason", CleanText),
    Column("quarantine", CleanText),
    Index("emr_cluster_state", "state"),
)
"""One row for each RunJobFlow of ours."""

LEASE = Table(
    "emr_lease",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("holder", String(NAME_LENGTH)),
    Column("token", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
)
"""Who holds what alone. ``token`` grows with each change of hands and is never reused."""

AGENT = Table(
    "emr_agent",
    METADATA,
    Column("holder", String(NAME_LENGTH), primary_key=True),
    Column("host", String(1000), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", String(64), nullable=False),
    Column("steering", Boolean, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("told_at", UtcTime, nullable=False),
    _json("away"),
    _json("holds"),
)
"""One row for each agent process, written by it alone; who steers is the lease's to say."""

HISTORY = Table(
    "emr_history",
    METADATA,
    # SQLite numbers rows by itself only where the key is its INTEGER.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", UtcTime, nullable=False),
    Column("subject", String(24), nullable=False),
    Column("subject_id", String(64), nullable=False),
    Column("event", String(64), nullable=False),
    Column("text", CleanText, nullable=False),
    Index("emr_history_subject", "subject", "subject_id", "id"),
    Index("emr_history_at", "at"),
)
"""The append-only story of workloads, submissions, clusters and agents."""

AIRFLOW = MetaData()
"""Not ours: what we read of Airflow's tables, never created or migrated in production."""

TASK_INSTANCE = Table(
    "task_instance",
    AIRFLOW,
    Column("id", Uuid, primary_key=True),
    Column("dag_id", String(AIRFLOW_ID_LENGTH), nullable=False),
    Column("task_id", String(AIRFLOW_ID_LENGTH), nullable=False),
    Column("run_id", String(AIRFLOW_ID_LENGTH), nullable=False),
    Column("map_index", Integer, nullable=False),
    Column("try_number", Integer),
    Column("state", String(20)),
    Column("last_heartbeat_at", UtcTime),
    Index("task_instance_composite_key", "dag_id", "task_id", "run_id", "map_index", unique=True),
)
"""Airflow 3.3's task_instance, the columns that are read (airflow/models/taskinstance.py)."""

"""The first tables: workloads, submissions, clusters, leases, deployment identity, history."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = (
    "emr_workload",
    "emr_submission",
    "emr_cluster",
    "emr_lease",
    "emr_deployment",
    "emr_agent",
    "emr_history",
)


def _time() -> sa.DateTime:
    return sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create all tables."""
    _workloads()
    _submissions()
    _clusters()
    _leases()
    _deployment()
    _agents()
    _history()


def downgrade() -> None:
    """Drop all tables; nothing else of the database is touched."""
    for name in _TABLES:
        op.drop_table(name)


def _workloads() -> None:
    op.create_table(
        "emr_workload",
        sa.Column("workload_id", sa.String(length=36), nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("task_id", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=False),
        sa.Column("try_number", sa.Integer(), nullable=False),
        sa.Column("map_index", sa.Integer(), nullable=False),
        sa.Column("cluster_pool", sa.String(length=256), nullable=False),
        sa.Column("queue", sa.String(length=256), nullable=False),
        sa.Column("priority_weight", sa.Integer(), nullable=False),
        sa.Column("accepted_at", _time(), nullable=False),
        sa.Column("scheduler_job_id", sa.Integer(), nullable=True),
        sa.Column("workload", sa.JSON(), nullable=True),
        sa.Column("executor_config", sa.JSON(), nullable=True),
        sa.Column("log_path", sa.Text(), nullable=True),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("target", sa.String(length=24), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("claim_token", sa.String(length=64), nullable=True),
        sa.Column("claim_beat", sa.Integer(), nullable=False),
        sa.Column("hostname", sa.String(length=1000), nullable=True),
        sa.Column("unixname", sa.String(length=1000), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("started_at", _time(), nullable=True),
        sa.Column("step", sa.JSON(), nullable=True),
        sa.Column("ready_at", _time(), nullable=True),
        sa.Column("submissions", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("phase_attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", _time(), nullable=True),
        sa.Column("outcome", sa.JSON(), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("airflow_state", sa.String(length=24), nullable=True),
        sa.Column("finished_at", _time(), nullable=True),
        sa.Column("quarantine", sa.Text(), nullable=True),
        sa.Column("reported", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("workload_id"),
    )
    op.create_index(
        "emr_workload_turn",
        "emr_workload",
        ["state", "target", sa.text("priority_weight DESC"), "accepted_at"],
    )
    unread_end = sa.text("reported < 2 AND state IN ('FINISHED', 'CANCELLED')")
    op.create_index(
        "emr_workload_report",
        "emr_workload",
        ["scheduler_job_id"],
        postgresql_where=unread_end,
        sqlite_where=unread_end,
    )
    op.create_index("emr_workload_task", "emr_workload", ["dag_id", "task_id"])
    op.create_index("emr_workload_finished_at", "emr_workload", ["finished_at"])


def _submissions() -> None:
    op.create_table(
        "emr_submission",
        sa.Column("submission_id", sa.String(length=64), nullable=False),
        sa.Column("workload_id", sa.String(length=36), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("cluster_uuid", sa.String(length=36), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("intended_at", _time(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("step_id", sa.String(length=64), nullable=True),
        sa.Column("step_state", sa.String(length=24), nullable=True),
        sa.Column("submitted_at", _time(), nullable=True),
        sa.Column("started_at", _time(), nullable=True),
        sa.Column("ended_at", _time(), nullable=True),
        sa.Column("cancel_asked_at", _time(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("timed_out", sa.Boolean(), nullable=False),
        sa.Column("wrapper_ended", sa.Boolean(), nullable=False),
        sa.Column("wrapper_reason", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("output_chunks", sa.Integer(), nullable=False),
        sa.Column("record_mark", sa.String(length=128), nullable=True),
        sa.Column("quarantine", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("submission_id"),
    )
    op.create_index("emr_submission_state", "emr_submission", ["state"])
    op.create_index("emr_submission_workload", "emr_submission", ["workload_id"])
    op.create_index("emr_submission_cluster", "emr_submission", ["cluster_uuid"])


def _clusters() -> None:
    op.create_table(
        "emr_cluster",
        sa.Column("cluster_uuid", sa.String(length=36), nullable=False),
        sa.Column("cluster_pool", sa.String(length=256), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("template_hash", sa.String(length=64), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("intended_at", _time(), nullable=False),
        sa.Column("target", sa.String(length=24), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("cluster_id", sa.String(length=64), nullable=True),
        sa.Column("ready_at", _time(), nullable=True),
        sa.Column("idle_since", _time(), nullable=True),
        sa.Column("end_asked_at", _time(), nullable=True),
        sa.Column("ended_at", _time(), nullable=True),
        sa.Column("reason_code", sa.String(length=256), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("quarantine", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("cluster_uuid"),
    )
    op.create_index("emr_cluster_state", "emr_cluster", ["state"])


def _leases() -> None:
    op.create_table(
        "emr_lease",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=256), nullable=True),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def _deployment() -> None:
    op.create_table(
        "emr_deployment",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("deployment_id", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _agents() -> None:
    op.create_table(
        "emr_agent",
        sa.Column("holder", sa.String(length=256), nullable=False),
        sa.Column("host", sa.String(length=1000), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("steering", sa.Boolean(), nullable=False),
        sa.Column("started_at", _time(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("told_at", _time(), nullable=False),
        sa.Column("away", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("holder"),
    )


def _history() -> None:
    op.create_table(
        "emr_history",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("at", _time(), nullable=False),
        sa.Column("subject", sa.String(length=24), nullable=False),
        sa.Column("subject_id", sa.String(length=64), nullable=False),
        sa.Column("event", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("emr_history_subject", "emr_history", ["subject", "subject_id", "id"])
    op.create_index("emr_history_at", "emr_history", ["at"])

"""Rows as releases wrote them: ``golden/<revision>.json`` holds every table in every state.

``python -m tests.store.golden`` writes the file of the present revision. A file of an earlier revision is
never written again: it is what today's code must go on understanding.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import JSON, Connection, DateTime, MetaData, Table, insert, select, update

from emr_executor.core.health import AgentHealth, Away, Dependency
from emr_executor.core.model import (
    Cluster,
    ClusterId,
    HistoryEntry,
    Identity,
    StepId,
    StepOutcome,
    StepPlan,
    Submission,
    TaskKey,
    Workload,
    WorkloadId,
    submission_id_of,
)
from emr_executor.core.states import (
    LIVE_SUBMISSION_STATES,
    OVER_CLUSTER_STATES,
    ClusterState,
    ClusterTarget,
    StepState,
    SubmissionState,
    Verdict,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.waiting import Hold, Holds
from emr_executor.store import schema
from emr_executor.store.dialect import engine_for
from emr_executor.store.health_store import tell_health
from emr_executor.store.history_store import append
from emr_executor.store.lease_store import read_lease, take_lease
from emr_executor.store.revision import REVISIONS
from emr_executor.store.rows import mapping_of
from emr_executor.store.schema import METADATA, STEERING, WORKLOAD

FOLDER = Path(__file__).parent / "golden"
STORE = Path(schema.__file__).parent
MOMENT = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
JOB = 11
ME = Identity(hostname="host-a", unixname="airflow", pid=4711)
STEP = StepPlan(
    command=("spark-submit", "--conf", "a=ä b", "s3://b/af/files/2031-05-04/" + "ab" * 32 + "/job.py"),
    env={"PYSPARK_PYTHON": "python3"},
    spec_uri="s3://b/af/specs/2031-05-04/" + "cd" * 32 + ".json",
    wrapper_uri="s3://b/af/wrapper/2031-05-04/" + "ef" * 32 + "/emr_step_wrapper.py",
    execution_timeout_s=90.5,
    translator="spark_submit",
    rendered_fields={"conf": {"a": "ä b"}, "application": "job.py"},
)
_PHASES = {WorkloadState.PREPARING, WorkloadState.FINISHING}
_BEFORE_STEP = {WorkloadState.ACCEPTED, WorkloadState.PREPARING}
_WITH_OUTCOME = {WorkloadState.FINISHABLE, WorkloadState.FINISHING, WorkloadState.FINISHED}


def path_of(revision: str) -> Path:
    """Where a revision's rows stand."""
    return FOLDER / f"{revision}.json"


def rows_of(revision: str) -> dict[str, list[dict[str, Any]]]:
    """A revision's rows by table, as JSON."""
    found: dict[str, list[dict[str, Any]]] = json.loads(path_of(revision).read_text())
    return found


def config_for(connection: Connection) -> Config:
    """Alembic's configuration for our revisions on a connection."""
    config = Config(STORE / "alembic.ini")
    config.attributes["connection"] = connection
    return config


def load(connection: Connection, revision: str) -> None:
    """Insert a revision's rows into tables that are of that revision."""
    insert_rows(connection, rows_of(revision))


def insert_rows(connection: Connection, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Insert rows as ``dump`` gave them into tables of their revision."""
    for name, rows in tables.items():
        table = _reflected(connection, name)
        if rows:
            connection.execute(insert(table), [_to_database(connection, table, row) for row in rows])
    connection.commit()


def dump(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """All rows of our tables as JSON, in the order of their keys."""
    dumped = {}
    for name in sorted(METADATA.tables):
        table = _reflected(connection, name)
        rows = connection.execute(select(table).order_by(*table.primary_key.columns)).mappings()
        dumped[name] = [{column: _to_json(value) for column, value in row.items()} for row in rows]
    connection.rollback()
    return dumped


def written_now() -> dict[str, list[dict[str, Any]]]:
    """What this release writes: every table, every state."""
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_for(f"sqlite:///{folder}/golden.db")
        with engine.connect() as connection:
            command.upgrade(config_for(connection), REVISIONS[-1])
            _write(connection)
            connection.commit()
            dumped = dump(connection)
        engine.dispose()
    return dumped


def _reflected(connection: Connection, name: str) -> Table:
    # As the database has it, not as today's schema says.
    table = Table(name, MetaData(), autoload_with=connection)
    for column in table.columns:
        if isinstance(column.type, JSON):
            column.type = JSON(none_as_null=True)
    return table


def _to_database(connection: Connection, table: Table, row: dict[str, Any]) -> dict[str, Any]:
    def value(column: str, found: Any) -> Any:
        if found is None or not isinstance(table.c[column].type, DateTime):
            return found
        moment = datetime.fromisoformat(found)
        return moment.replace(tzinfo=None) if connection.dialect.name == "sqlite" else moment

    return {column: value(column, found) for column, found in row.items()}


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    return value


# -- the rows ------------------------------------------------------------------------------------


def _write(connection: Connection) -> None:
    clusters = list(_clusters())
    submissions = list(_submissions(clusters[0]))
    for value in (*_workloads(), *clusters, *submissions):
        mapping = mapping_of(type(value))
        connection.execute(insert(mapping.table), [mapping.columns(value)])
    over = WORKLOAD.c.state == WorkloadState.CANCELLED
    connection.execute(update(WORKLOAD).where(over, WORKLOAD.c.run_id == "run-CANCEL").values(reported=1))
    connection.execute(update(WORKLOAD).where(WORKLOAD.c.task_id == "quarantined").values(reported=2))
    take_lease(connection, STEERING, "host-a/17/aa", read_lease(connection, STEERING))
    connection.execute(insert(schema.DEPLOYMENT).values(id=1, deployment_id="d" * 36))
    tell_health(
        connection,
        AgentHealth(
            holder="host-a/17/aa",
            host="host-a",
            pid=17,
            version="0.1.0",
            steering=True,
            started_at=MOMENT,
            beat=412,
            told_at=MOMENT,
            away=(Away(dependency=next(iter(Dependency)), since=MOMENT, error="no answer"),),
            holds=Holds(
                launch={"default": Hold(why="ä", until=MOMENT, longest_s=600.0)}, budget_until=MOMENT
            ),
        ),
    )
    subjects = ("workload", "submission", "cluster", "agent")
    append(
        connection,
        [HistoryEntry(at=MOMENT, subject=s, subject_id=f"{s}-1", event="placed", text="ä") for s in subjects],
    )


def _workload_id(n: int) -> WorkloadId:
    return WorkloadId(f"00000000-0000-4000-8000-{n:012}")


def _workloads() -> Iterator[Workload]:
    number = 0
    for target in WorkloadTarget:
        for state in WorkloadState:
            number += 1
            yield _workload(number, state, target)
    lost = StepOutcome(verdict=Verdict.LOST, submissions=3)
    quarantined = _workload(number + 1, WorkloadState.READY, WorkloadTarget.RUN)
    yield replace(
        quarantined,
        key=replace(quarantined.key, task_id="quarantined", map_index=3),
        quarantine="a bug\n2031-05-06 07:08:09 placed: on j-1",
        outcome=lost,
        identity=None,
        log_path=None,
    )


def _workload(number: int, state: WorkloadState, target: WorkloadTarget) -> Workload:
    over = state in {WorkloadState.FINISHED, WorkloadState.CANCELLED}
    fresh = state is WorkloadState.ACCEPTED
    outcome = StepOutcome(
        verdict=list(Verdict)[number % len(Verdict)],
        cause="ValueError: no such column",
        exit_code=1,
        cluster_id=ClusterId("j-1"),
        step_id=StepId("s-1"),
        submissions=2,
        started_at=MOMENT,
        ended_at=MOMENT,
    )
    return Workload(
        workload_id=_workload_id(number),
        key=TaskKey(dag_id="salaries", task_id=state.lower(), run_id=f"run-{target}", try_number=2),
        cluster_pool="default",
        queue="emr",
        priority_weight=number,
        accepted_at=MOMENT,
        scheduler_job_id=JOB,
        workload={"ti": {"id": _workload_id(number), "task_id": state.lower()}, "dag_rel_path": "d.py"},
        executor_config={"k": {"é": [1, None]}},
        log_path="dag_id=salaries/attempt=2.log",
        state=state,
        target=target,
        version=number,
        claim_token=f"token-{number}" if state in _PHASES else None,
        claim_beat=7 if state in _PHASES else 0,
        identity=None if fresh else ME,
        started_at=None if fresh else MOMENT,
        step=None if state in _BEFORE_STEP else STEP,
        ready_at=None if state in _BEFORE_STEP else MOMENT,
        submissions=0 if state in _BEFORE_STEP else 2,
        losses=0 if state in _BEFORE_STEP else 1,
        phase_attempts=1 if state in _PHASES else 0,
        not_before=MOMENT if state is WorkloadState.FINISHABLE else None,
        outcome=outcome if state in _WITH_OUTCOME else None,
        cancel_reason="cleared" if target is WorkloadTarget.CANCEL else None,
        airflow_state="success" if state is WorkloadState.FINISHED else None,
        finished_at=MOMENT if over else None,
    )


def _submissions(cluster: Cluster) -> Iterator[Submission]:
    for n, state in enumerate(SubmissionState, 1):
        live, intended = state in LIVE_SUBMISSION_STATES, state is SubmissionState.INTENDED
        workload_id = _workload_id(list(WorkloadState).index(WorkloadState.SUBMITTED) + 1)
        yield Submission(
            submission_id=submission_id_of(workload_id, n),
            workload_id=workload_id,
            n=n,
            cluster_uuid=cluster.cluster_uuid,
            state=state,
            intended_at=MOMENT,
            version=n,
            step_id=None if intended else StepId(f"s-{n}"),
            step_state=None if intended else list(StepState)[n - 1],
            submitted_at=None if intended else MOMENT,
            started_at=MOMENT if state is SubmissionState.RUNNING or not live else None,
            ended_at=None if live else MOMENT,
            cancel_asked_at=MOMENT if state is SubmissionState.CANCELLED else None,
            exit_code=0 if state is SubmissionState.COMPLETED else None,
            timed_out=state is SubmissionState.FAILED,
            wrapper_ended=not live,
            wrapper_reason="" if live else "timeout",
            cause="" if live else "cluster j-1 ended (SPOT)",
            output_chunks=n,
            record_mark='"etag"' if n > 2 else None,
            quarantine="a bug" if state is SubmissionState.RUNNING else None,
        )


def _clusters() -> Iterator[Cluster]:
    for n, state in enumerate(ClusterState, 1):
        over, intended = state in OVER_CLUSTER_STATES, state is ClusterState.INTENDED
        uuid = f"00000000-0000-4000-9000-{n:012}"
        yield Cluster(
            cluster_uuid=uuid,  # type: ignore[arg-type]
            cluster_pool="default",
            name=f"airflow-emr/{'d' * 36}/default/{uuid}",
            template_hash="0123456789abcdef",
            slots=4,
            state=state,
            intended_at=MOMENT,
            target=list(ClusterTarget)[n % len(ClusterTarget)],
            version=n,
            cluster_id=None if intended else ClusterId(f"j-{n}"),
            ready_at=None if intended else MOMENT,
            idle_since=MOMENT if state is ClusterState.WAITING else None,
            end_asked_at=MOMENT if over else None,
            ended_at=MOMENT if over else None,
            reason_code="USER_REQUEST" if over else None,
            reason="Terminated by user request" if over else None,
            quarantine="a bug" if state is ClusterState.STARTING else None,
        )


def main() -> None:
    """Write the file of the present revision."""
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(written_now(), indent=1, ensure_ascii=False, sort_keys=True)
    path_of(REVISIONS[-1]).write_text(f"{text}\n")


if __name__ == "__main__":
    main()

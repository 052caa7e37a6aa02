"""Rows of the tables to values of ``core.model`` and back: total, both ways, and nothing else.

A guarded write sends only what changed: ``changed_columns`` compares two values field by field and
converts the fields that differ, so it may be given values whose bulky fields were left out of a snapshot.

JSON of other releases is read: keys that are not known are passed over, those that are missing have their
default. A row that cannot be read is a value in quarantine (``store.unreadable``), never an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Result, Table

from emr_executor.core.model import (
    Cluster,
    ClusterId,
    ClusterUuid,
    HistoryEntry,
    Identity,
    StepId,
    StepOutcome,
    StepPlan,
    Submission,
    SubmissionId,
    TaskKey,
    Workload,
    WorkloadId,
)
from emr_executor.core.states import (
    ClusterState,
    ClusterTarget,
    StepState,
    SubmissionState,
    Verdict,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.store import schema
from emr_executor.store.unreadable import BROKEN, as_readable

Columns = dict[str, Any]
Fields = Mapping[Any, Any]
"""A row by the names of its columns."""
Stored = Workload | Submission | Cluster

BULKY_WORKLOAD_COLUMNS = frozenset({"workload", "executor_config"})
"""What only a phase needs: left out of snapshots."""


def as_dicts(result: Result[Any]) -> Iterator[dict[str, Any]]:
    """The rows by the names of their columns, as dicts: twice as fast to read as SQLAlchemy's mappings."""
    names = tuple(result.keys())
    return (dict(zip(names, row, strict=True)) for row in result)


def workload_from(row: Fields) -> Workload:
    """A workload."""
    lean = lean_workload_from(row)
    return replace(lean, workload=row["workload"] or {}, executor_config=row["executor_config"] or {})


def lean_workload_from(row: Fields) -> Workload:
    """A workload from a row without the bulky columns, whose fields are empty."""
    try:
        return _workload(row)
    except BROKEN:
        jsons = {"step": step_plan_from, "outcome": step_outcome_from}
        return _workload(as_readable("workload", row["workload_id"], row, jsons))


def _workload(row: Fields) -> Workload:
    hostname = row["hostname"]
    return Workload(
        workload_id=WorkloadId(row["workload_id"]),
        key=task_key_from(row),
        cluster_pool=row["cluster_pool"],
        queue=row["queue"],
        priority_weight=row["priority_weight"],
        accepted_at=row["accepted_at"],
        scheduler_job_id=row["scheduler_job_id"],
        workload={},
        log_path=row["log_path"],
        state=WorkloadState(row["state"]),
        target=WorkloadTarget(row["target"]),
        version=row["version"],
        claim_token=row["claim_token"],
        claim_beat=row["claim_beat"],
        identity=None if hostname is None else identity_from(row),
        started_at=row["started_at"],
        step=step_plan_from(row["step"]),
        ready_at=row["ready_at"],
        submissions=row["submissions"],
        losses=row["losses"],
        phase_attempts=row["phase_attempts"],
        not_before=row["not_before"],
        outcome=step_outcome_from(row["outcome"]),
        cancel_reason=row["cancel_reason"],
        airflow_state=row["airflow_state"],
        finished_at=row["finished_at"],
        quarantine=row["quarantine"],
    )


def task_key_from(row: Fields) -> TaskKey:
    """Airflow's key of a workload's row."""
    return TaskKey(
        dag_id=row["dag_id"],
        task_id=row["task_id"],
        run_id=row["run_id"],
        try_number=row["try_number"],
        map_index=row["map_index"],
    )


def identity_from(row: Fields) -> Identity:
    """The identity of a workload's row that has one."""
    return Identity(hostname=row["hostname"], unixname=row["unixname"], pid=row["pid"])


def submission_from(row: Fields) -> Submission:
    """A submission."""
    try:
        return _submission(row)
    except BROKEN:
        return _submission(as_readable("submission", row["submission_id"], row, {}))


def _submission(row: Fields) -> Submission:
    step_id, step_state = row["step_id"], row["step_state"]
    return Submission(
        submission_id=SubmissionId(row["submission_id"]),
        workload_id=WorkloadId(row["workload_id"]),
        n=row["n"],
        cluster_uuid=ClusterUuid(row["cluster_uuid"]),
        state=SubmissionState(row["state"]),
        intended_at=row["intended_at"],
        version=row["version"],
        step_id=None if step_id is None else StepId(step_id),
        step_state=None if step_state is None else StepState(step_state),
        submitted_at=row["submitted_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        cancel_asked_at=row["cancel_asked_at"],
        exit_code=row["exit_code"],
        timed_out=row["timed_out"],
        wrapper_ended=row["wrapper_ended"],
        wrapper_reason=row["wrapper_reason"],
        cause=row["cause"],
        output_chunks=row["output_chunks"],
        record_mark=row["record_mark"],
        quarantine=row["quarantine"],
    )


def cluster_from(row: Fields) -> Cluster:
    """A cluster."""
    try:
        return _cluster(row)
    except BROKEN:
        return _cluster(as_readable("cluster", row["cluster_uuid"], row, {}))


def _cluster(row: Fields) -> Cluster:
    cluster_id = row["cluster_id"]
    return Cluster(
        cluster_uuid=ClusterUuid(row["cluster_uuid"]),
        cluster_pool=row["cluster_pool"],
        name=row["name"],
        template_hash=row["template_hash"],
        slots=row["slots"],
        state=ClusterState(row["state"]),
        intended_at=row["intended_at"],
        target=ClusterTarget(row["target"]),
        version=row["version"],
        cluster_id=None if cluster_id is None else ClusterId(cluster_id),
        ready_at=row["ready_at"],
        idle_since=row["idle_since"],
        end_asked_at=row["end_asked_at"],
        ended_at=row["ended_at"],
        reason_code=row["reason_code"],
        reason=row["reason"],
        quarantine=row["quarantine"],
    )


def history_entry_from(row: Fields) -> HistoryEntry:
    """One line of the story."""
    return HistoryEntry(
        at=row["at"],
        subject=row["subject"],
        subject_id=row["subject_id"],
        event=row["event"],
        text=row["text"],
    )


def history_columns(entry: HistoryEntry) -> Columns:
    """The row of one line of the story."""
    return {
        "at": entry.at,
        "subject": entry.subject,
        "subject_id": entry.subject_id,
        "event": entry.event,
        "text": entry.text,
    }


def step_plan_json(step: StepPlan | None) -> Columns | None:
    """A step plan as JSON."""
    if step is None:
        return None
    return {
        "command": list(step.command),
        "env": step.env,
        "spec_uri": step.spec_uri,
        "wrapper_uri": step.wrapper_uri,
        "execution_timeout_s": step.execution_timeout_s,
        "translator": step.translator,
        "rendered_fields": step.rendered_fields,
    }


def step_plan_from(data: Mapping[str, Any] | None) -> StepPlan | None:
    """A step plan from its JSON, of this or another release. Raises one of BROKEN."""
    if data is None:
        return None
    return StepPlan(**{**_known(_STEP_FIELDS, data), "command": tuple(data["command"])})


def step_outcome_json(outcome: StepOutcome | None) -> Columns | None:
    """An outcome as JSON; times as ISO 8601."""
    if outcome is None:
        return None
    return {
        "verdict": outcome.verdict.value,
        "cause": outcome.cause,
        "exit_code": outcome.exit_code,
        "cluster_id": outcome.cluster_id,
        "step_id": outcome.step_id,
        "submissions": outcome.submissions,
        "started_at": _iso(outcome.started_at),
        "ended_at": _iso(outcome.ended_at),
    }


def step_outcome_from(data: Mapping[str, Any] | None) -> StepOutcome | None:
    """An outcome from its JSON, of this or another release. Raises one of BROKEN."""
    if data is None:
        return None
    return StepOutcome(
        **{
            **_known(_OUTCOME_FIELDS, data),
            "verdict": Verdict(data["verdict"]),
            "started_at": _moment(data.get("started_at")),
            "ended_at": _moment(data.get("ended_at")),
        }
    )


_STEP_FIELDS = frozenset(field.name for field in fields(StepPlan))
_OUTCOME_FIELDS = frozenset(field.name for field in fields(StepOutcome))


def _known(names: frozenset[str], data: Mapping[str, Any]) -> Mapping[str, Any]:
    return data if data.keys() <= names else {name: data[name] for name in names & data.keys()}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _key_columns(key: TaskKey) -> Columns:
    return {
        "dag_id": key.dag_id,
        "task_id": key.task_id,
        "run_id": key.run_id,
        "try_number": key.try_number,
        "map_index": key.map_index,
    }


def _identity_columns(identity: Identity | None) -> Columns:
    if identity is None:
        return {"hostname": None, "unixname": None, "pid": None}
    return {"hostname": identity.hostname, "unixname": identity.unixname, "pid": identity.pid}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableMapping:
    """How the values of one class lie in their table.

    special: fields that are not one column of the same name with the same value
    """

    table: Table
    key: str
    fields: tuple[str, ...]
    special: Mapping[str, Callable[[Any], Columns]]

    @property
    def key_column(self) -> Column[str]:
        """The primary key."""
        return self.table.c[self.key]

    def columns(self, value: Stored) -> Columns:
        """All columns of a value's row."""
        return self._of(value, self.fields)

    def changed_columns(self, old: Stored, new: Stored) -> Columns:
        """The columns that differ, without ``version``, which the store counts."""
        differing = (
            name for name in self.fields if name != "version" and getattr(old, name) != getattr(new, name)
        )
        return self._of(new, differing)

    def _of(self, value: Stored, names: Any) -> Columns:
        columns: Columns = {}
        for name in names:
            convert = self.special.get(name)
            if convert is None:
                columns[name] = getattr(value, name)
            else:
                columns |= convert(getattr(value, name))
        return columns


_MAPPINGS: dict[type[Stored], TableMapping] = {
    Workload: TableMapping(
        table=schema.WORKLOAD,
        key="workload_id",
        fields=tuple(f.name for f in fields(Workload)),
        special={
            "key": _key_columns,
            "identity": _identity_columns,
            "step": lambda step: {"step": step_plan_json(step)},
            "outcome": lambda outcome: {"outcome": step_outcome_json(outcome)},
        },
    ),
    Submission: TableMapping(
        table=schema.SUBMISSION,
        key="submission_id",
        fields=tuple(f.name for f in fields(Submission)),
        special={},
    ),
    Cluster: TableMapping(
        table=schema.CLUSTER,
        key="cluster_uuid",
        fields=tuple(f.name for f in fields(Cluster)),
        special={},
    ),
}


def mapping_of(kind: type[Stored]) -> TableMapping:
    """How values of a class are stored."""
    return _MAPPINGS[kind]

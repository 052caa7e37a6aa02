"""What EMR itself says of the steps that ran: asked of the endpoint, not of our own tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EmrStep:
    """One step, as EMR shows it.

    task: ``task`` or ``task[n]``
    workload: the task instance; the same for all steps that ran it
    n: the how many-th step of it, from 1
    started_at, duration_s: epoch seconds and seconds; 0 for a step that has not started or not ended
    """

    task: str
    workload: str
    n: int
    cluster_id: str
    step_id: str
    state: str
    started_at: float
    duration_s: float


def emr_steps_of(status: Mapping[str, Any], dag_id: str) -> tuple[EmrStep, ...]:
    """The steps of a DAG's tasks in the endpoint's ``status()``, oldest first."""
    found = []
    for cluster in status["clusters"]:
        for step in cluster["Steps"]:
            task = step["Name"].rpartition("/")[2]
            if task.startswith(f"{dag_id}."):
                times = step["Status"]["Timeline"]
                start, end = times.get("StartDateTime"), times.get("EndDateTime")
                ran = EmrStep(
                    task=task.removeprefix(f"{dag_id}."),
                    workload=workload_of(step["Name"]),
                    n=int(_submission_of(step["Name"]).rpartition("-")[2]),
                    cluster_id=cluster["Id"],
                    step_id=step["Id"],
                    state=step["Status"]["State"],
                    started_at=start or 0.0,
                    duration_s=end - start if start and end else 0.0,
                )
                found.append((times["CreationDateTime"], ran))
    return tuple(ran for _, ran in sorted(found, key=lambda pair: pair[0]))


def workload_of(step_name: str) -> str:
    """The workload of a step Name ``airflow-emr/<workload>-<n>/<dag>.<task>``."""
    return _submission_of(step_name).rpartition("-")[0]


def _submission_of(step_name: str) -> str:
    return step_name.split("/")[1]

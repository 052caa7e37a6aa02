"""What EMR itself says of clusters and steps: asked of the endpoint, not of our own tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_UP = frozenset({"RUNNING", "WAITING"})
_RUNS = frozenset({"RUNNING", "CANCEL_PENDING"})


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
    created_at: float
    started_at: float
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNow:
    """A cluster as EMR shows it, and the numbers of its steps.

    lost: its machine is gone, whatever EMR still shows
    last_start: when the youngest of its running steps started, epoch seconds
    """

    cluster_id: str
    state: str
    lost: bool
    waiting: int
    running: int
    done: int
    last_start: float = 0.0


def emr_steps_of(status: Mapping[str, Any], dag_id: str) -> tuple[EmrStep, ...]:
    """The steps of a DAG's tasks in the endpoint's ``status()``, oldest first."""
    steps = (step for cluster in status["clusters"] for step in _steps(cluster, dag_id))
    return tuple(sorted(steps, key=lambda step: step.created_at))


def _steps(cluster: Mapping[str, Any], dag_id: str) -> Iterator[EmrStep]:
    for step in cluster["Steps"]:
        _, submission, task = step["Name"].split("/")
        if not task.startswith(f"{dag_id}."):
            continue
        times = step["Status"]["Timeline"]
        start, end = times.get("StartDateTime"), times.get("EndDateTime")
        yield EmrStep(
            task=task.removeprefix(f"{dag_id}."),
            workload=workload_of(step["Name"]),
            n=int(submission.rpartition("-")[2]),
            cluster_id=cluster["Id"],
            step_id=step["Id"],
            state=step["Status"]["State"],
            created_at=times["CreationDateTime"],
            started_at=start or 0.0,
            duration_s=end - start if start and end else 0.0,
        )


def workload_of(step_name: str) -> str:
    """The workload of a step Name ``airflow-emr/<workload>-<n>/<dag>.<task>``."""
    return step_name.split("/")[1].rpartition("-")[0]


def clusters_now(status: Mapping[str, Any]) -> tuple[ClusterNow, ...]:
    """The clusters of the endpoint's ``status()``, oldest first."""
    return tuple(map(_cluster, status["clusters"]))


def _cluster(cluster: Mapping[str, Any]) -> ClusterNow:
    steps = [(step["Status"]["State"], step["Status"]["Timeline"]) for step in cluster["Steps"]]
    states = [state for state, _ in steps]
    starts = [times.get("StartDateTime", 0.0) for state, times in steps if state in _RUNS]
    return ClusterNow(
        cluster_id=cluster["Id"],
        state=cluster["Status"]["State"],
        lost=bool(cluster["Lost"]),
        waiting=states.count("PENDING"),
        running=len(starts),
        done=states.count("COMPLETED"),
        last_start=max(starts, default=0.0),
    )


def cluster_to_lose(clusters: Iterable[ClusterNow], *, done: int, min_done: int) -> str | None:
    """The cluster whose loss would be felt most, once two are at work and ``min_done`` tasks are done."""
    at_work = [one for one in clusters if one.state in _UP and not one.lost and one.running]
    if done < min_done or len(at_work) < 2:
        return None
    return max(at_work, key=lambda cluster: (cluster.running, cluster.last_start)).cluster_id

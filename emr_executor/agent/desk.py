"""One tick's working copy of the state: what was read, what became of it, and what is told of it.

Steering code changes values on the desk and saves once; the store writes only the differences,
guarded by the lease and by each row's version, all or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from emr_executor.agent.tasklog import agent_line
from emr_executor.core.model import (
    Cluster,
    ClusterUuid,
    HistoryEntry,
    Snapshot,
    Submission,
    SubmissionId,
    Workload,
    WorkloadId,
)
from emr_executor.core.states import OVER_CLUSTER_STATES, WorkloadState
from emr_executor.ports import TaskLog
from emr_executor.store.change_store import Change
from emr_executor.store.faces import AgentFace

Row = Cluster | Submission | Workload
_OVER = frozenset({WorkloadState.FINISHED, WorkloadState.CANCELLED})


class Desk:
    """Values by their ids; ``busy`` are rows that an act in flight will write, not to be touched."""

    def __init__(self, snapshot: Snapshot, *, busy: Iterable[str] = ()) -> None:
        self.clusters: dict[ClusterUuid, Cluster] = {c.cluster_uuid: c for c in snapshot.clusters}
        self.submissions: dict[SubmissionId, Submission] = {s.submission_id: s for s in snapshot.submissions}
        self.workloads: dict[WorkloadId, Workload] = {w.workload_id: w for w in snapshot.workloads}
        self.busy = frozenset(busy)
        self._ready_waiting = snapshot.ready_waiting
        self._saved: dict[str, tuple[dict[Any, Any], Row | None]] = {}
        self._history: list[HistoryEntry] = []
        self._lines: dict[str, list[dict[str, Any]]] = {}

    def snapshot(self, now: datetime, *, launch_held: frozenset[str] = frozenset()) -> Snapshot:
        """The state as it now stands on the desk."""
        return Snapshot(
            now=now,
            clusters=tuple(c for c in self.clusters.values() if c.state not in OVER_CLUSTER_STATES),
            submissions=tuple(s for s in self.submissions.values() if s.is_live),
            workloads=tuple(w for w in self.workloads.values() if w.state not in _OVER),
            ready_waiting=self._ready_waiting,
            launch_held=launch_held,
        )

    def put(self, value: Row) -> None:
        """Replace or add a value."""
        table, key = self._place(value)
        before = table.get(key)
        if before == value:
            return
        self._saved.setdefault(key, (table, before))
        table[key] = value

    def take(self, value: Row) -> None:
        """Lay a stored row on the desk that the snapshot did not hold."""
        table, key = self._place(value)
        table[key] = value

    def note(self, at: datetime, subject: str, subject_id: str, event: str, text: str) -> None:
        """One line of history."""
        self._history.append(
            HistoryEntry(at=at, subject=subject, subject_id=subject_id, event=event, text=text)
        )

    def tell(self, at: datetime, workload: Workload, text: str, *, level: str = "info", **facts: Any) -> None:
        """One readable line in the workload's task log, written when the desk is saved."""
        self.quote(workload, [agent_line(at, text, level=level, **facts)])

    def quote(self, workload: Workload, lines: Iterable[dict[str, Any]]) -> None:
        """Finished lines for the workload's task log, in their place between those that are told."""
        if workload.log_path:
            self._lines.setdefault(workload.log_path, []).extend(lines)

    async def save(self, store: AgentFace, lease_token: int, task_log: TaskLog) -> None:
        """Write what changed. Raises StaleWriter, StoreBusy: then nothing was written.

        Log lines go first: a crash in between repeats driver output, and never loses it.
        """
        lines, self._lines = self._lines, {}
        for log_path, batch in lines.items():
            await task_log.append(log_path, batch)
        changes = []
        for key, (table, before) in self._saved.items():
            after = table[key]
            if after != before:
                changes.append(Change(old=before, new=after))
        if changes or self._history:
            for value in await store.apply(lease_token, changes, self._history):
                table, key = self._place(value)
                table[key] = value
        self._saved, self._history = {}, []

    def live_on(self, cluster_uuid: ClusterUuid) -> list[Submission]:
        """Live submissions of one cluster."""
        return [s for s in self.submissions.values() if s.is_live and s.cluster_uuid == cluster_uuid]

    def live_by_cluster(self) -> dict[ClusterUuid, list[Submission]]:
        """Live submissions of every cluster that has any."""
        live: dict[ClusterUuid, list[Submission]] = {}
        for submission in self.submissions.values():
            if submission.is_live:
                live.setdefault(submission.cluster_uuid, []).append(submission)
        return live

    def _place(self, value: Row) -> tuple[dict[Any, Any], str]:
        if isinstance(value, Cluster):
            return self.clusters, value.cluster_uuid
        if isinstance(value, Submission):
            return self.submissions, value.submission_id
        return self.workloads, value.workload_id

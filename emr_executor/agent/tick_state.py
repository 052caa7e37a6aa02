"""One tick's working copy of the state: what was read, what became of it, and what is told of it.

Steering code changes values here and saves once; the store writes only the differences,
guarded by the lease and by each row's version, all or nothing. What goes wrong with one row stays
with it: the row goes back to what is stored, in quarantine, and all others are saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import structlog

from emr_executor.agent.quarantine import quarantined, reason_of, report, with_story
from emr_executor.agent.tasklog import agent_line
from emr_executor.aws.layout import claims_first
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
from emr_executor.core.states import (
    LIVE_SUBMISSION_STATES,
    OVER_CLUSTER_STATES,
    OVER_STEP_STATES,
    USABLE_CLUSTER_STATES,
)
from emr_executor.core.transitions import Row, check_change, entity_of, id_of
from emr_executor.errors import Bug, EmrExecutorError, InvalidTransition
from emr_executor.ports import TaskLog
from emr_executor.store.agent_store import AgentStore
from emr_executor.store.change_store import Change
from emr_executor.store.clauses import OVER_WORKLOAD_STATES

log = structlog.get_logger(__name__)


class TickState:
    """Values by their ids.

    busy: rows that an act in flight will write, not to be touched
    is_as_read: nothing was written, so what the snapshot held stands
    """

    def __init__(self, snapshot: Snapshot, *, busy: Iterable[str] = ()) -> None:
        self.clusters: dict[ClusterUuid, Cluster] = {c.cluster_uuid: c for c in snapshot.clusters}
        self.submissions: dict[SubmissionId, Submission] = {s.submission_id: s for s in snapshot.submissions}
        self.workloads: dict[WorkloadId, Workload] = {w.workload_id: w for w in snapshot.workloads}
        self.busy = frozenset(busy)
        self.is_as_read = True
        self._read_at = snapshot.now
        self._ready_beyond = snapshot.ready_beyond
        self._quarantined: dict[str, Exception] = {}
        self._saved: dict[str, tuple[dict[Any, Any], Row | None]] = {}
        self._history: list[HistoryEntry] = []
        self._lines: dict[str | None, list[dict[str, Any]]] = {}
        self._by_cluster: dict[ClusterUuid, list[Submission]] | None = None

    @property
    def is_untouched(self) -> bool:
        """Whether there is nothing to save."""
        return not (self._saved or self._history or self._lines)

    def snapshot(
        self,
        now: datetime,
        *,
        launch_held: frozenset[str] = frozenset(),
        place_held: frozenset[ClusterUuid] = frozenset(),
        stalled: frozenset[ClusterUuid] = frozenset(),
        shown: frozenset[SubmissionId] = frozenset(),
    ) -> Snapshot:
        """The state as it now stands."""
        return Snapshot(
            now=now,
            clusters=tuple(c for c in self.clusters.values() if c.state not in OVER_CLUSTER_STATES),
            submissions=tuple(self.live()),
            workloads=tuple(w for w in self.workloads.values() if w.state not in OVER_WORKLOAD_STATES),
            ready_beyond=self._ready_beyond,
            launch_held=launch_held,
            place_held=place_held,
            stalled=stalled,
            shown=shown,
        )

    def claims_first(self, submission: Submission) -> bool:
        """Whether a step of it begins nothing without the submission's claim: those of old releases do."""
        workload = self.workloads.get(submission.workload_id)
        step = workload.step if workload is not None else None
        return step is not None and bool(step.wrapper_uri) and claims_first(step.wrapper_uri)

    def put(self, value: Row) -> None:
        """Replace or add a value; one that was made before its row came into quarantine is dropped."""
        table, key = self._place(value)
        before = table.get(key)
        if before == value or (key in self._quarantined and value.quarantine is None):
            return
        self._saved.setdefault(key, (table, before))
        self._set(table, key, value)

    def take_over(self, value: Row) -> None:
        """Add a stored row that the snapshot did not hold."""
        self._set(*self._place(value), value)

    def _set(self, table: dict[Any, Any], key: str, value: Row) -> None:
        table[key] = value
        self._by_cluster = None

    def add_history(self, at: datetime, subject: str, subject_id: str, event: str, text: str) -> None:
        """One line of history."""
        self._history.append(
            HistoryEntry(at=at, subject=subject, subject_id=subject_id, event=event, text=text)
        )

    def log_line(
        self, at: datetime, workload: Workload, text: str, *, level: str = "info", **facts: Any
    ) -> None:
        """One readable line in the workload's task log, written when the tick is saved."""
        self.log_output(workload, [agent_line(at, text, level=level, **facts)])

    def log_output(self, workload: Workload, lines: Iterable[dict[str, Any]]) -> None:
        """Finished lines for the workload's task log, in their place between those that are told."""
        if workload.log_path:
            self._lines.setdefault(workload.log_path, []).extend(lines)

    async def save(self, store: AgentStore, lease_token: int, task_log: TaskLog) -> None:
        """Write what changed. Raises StaleWriter, StoreBusy: then nothing was written.

        Log lines go first: a crash in between repeats driver output, and never loses it.
        """
        self._fence()
        for key in self._quarantined:
            table, _ = self._saved[key]
            table[key] = await with_story(store, table[key])
        lines, self._lines = self._lines, {}
        await task_log.append(lines)
        changes = []
        for key, (table, before) in self._saved.items():
            after = table[key]
            if after != before:
                changes.append(Change(old=before, new=after))
        if changes or self._history:
            self.is_as_read = False
            for value in await store.apply(lease_token, changes, self._history):
                self._set(*self._place(value), value)
        for key, error in self._quarantined.items():
            report(self._saved[key][0][key], error)
        self._saved, self._history, self._quarantined = {}, [], {}

    @contextmanager
    def confined(self, row: Row) -> Iterator[None]:
        """Keep what goes wrong with one row to that row, so that the tick goes on with all others.

        A bug puts the row in quarantine, or the one that an InvalidTransition names. Errors that say what the
        caller should do next (TryAgain, ClusterGone) pass.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, EmrExecutorError) and not isinstance(error, Bug):
                raise
            named = self._named(error) if isinstance(error, InvalidTransition) else None
            self.quarantine(named or row, error)

    def quarantine(self, row: Row, error: Exception) -> None:
        """The row is again as it is stored, and nothing more is decided on it. A new row is not written."""
        table, key = self._place(row)
        stored: Row | None = self._saved[key][1] if key in self._saved else table.get(key)
        if stored is None:
            log.error("row_not_written", entity=entity_of(row), row=key, why=reason_of(error))
            self._saved.pop(key, None)
            table.pop(key, None)
            self._by_cluster = None
        elif stored.quarantine is not None:
            log.debug("still_in_quarantine", entity=entity_of(row), row=key, why=reason_of(error))
            self._set(table, key, stored)
        elif key not in self._quarantined:
            self._saved.setdefault(key, (table, stored))
            self._quarantined[key] = error
            self._set(table, key, quarantined(stored, error))
            self.add_history(self._read_at, entity_of(row), key, "quarantined", reason_of(error))
            self._tell_quarantine(stored, error)

    def _tell_quarantine(self, row: Row, error: Exception) -> None:
        owner = row if isinstance(row, Workload) else None
        if isinstance(row, Submission):
            owner = self.workloads.get(row.workload_id)
        if owner is not None:
            text = (
                f"{entity_of(row)} {id_of(row)} is in quarantine, since the executor met a bug: "
                f"{reason_of(error)}; `airflow emr explain` tells what can be done"
            )
            self.log_line(self._read_at, owner, text, level="error")

    def _fence(self) -> None:
        """Quarantine every row whose change the store would refuse."""
        for key, (table, before) in list(self._saved.items()):
            after = table[key]
            try:
                check_change(before, after)
            except InvalidTransition as bug:
                self.quarantine(after, bug)
                owner = self.workloads.get(after.workload_id) if isinstance(after, Submission) else None
                if before is None and owner is not None:
                    # It would be SUBMITTED without a submission.
                    self.quarantine(owner, bug)

    def _named(self, bug: InvalidTransition) -> Row | None:
        tables: dict[str, dict[Any, Any]] = {
            "workload": self.workloads,
            "submission": self.submissions,
            "cluster": self.clusters,
        }
        found: Row | None = tables.get(bug.entity, {}).get(bug.row)
        return found

    def live(self) -> list[Submission]:
        """All live submissions."""
        return [one for one in self.submissions.values() if one.state in LIVE_SUBMISSION_STATES]

    def ending(self) -> list[Submission]:
        """Live submissions of which more is known than that step and cluster are alive: few of many."""
        fine = {c.cluster_uuid for c in self.clusters.values() if c.state in USABLE_CLUSTER_STATES}
        return [
            s
            for s in self.submissions.values()
            if (
                s.ended_at is not None
                or s.step_state in OVER_STEP_STATES
                or s.wrapper_ended
                or s.quarantine is not None
                or s.cluster_uuid not in fine
            )
            and s.is_live
        ]

    def live_by_cluster(self) -> dict[ClusterUuid, list[Submission]]:
        """Live submissions of every cluster that has any."""
        if self._by_cluster is None:
            self._by_cluster = {}
            for submission in self.live():
                self._by_cluster.setdefault(submission.cluster_uuid, []).append(submission)
        return self._by_cluster

    def _place(self, value: Row) -> tuple[dict[Any, Any], str]:
        if isinstance(value, Cluster):
            return self.clusters, value.cluster_uuid
        if isinstance(value, Submission):
            return self.submissions, value.submission_id
        return self.workloads, value.workload_id

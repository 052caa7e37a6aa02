"""The store in memory: what ``store.protocols`` promises, with the semantics of the SQL store.

Many agents, schedulers and phases share one ``MemoryDatabase``. A method changes its state without awaiting
anything, so each is one transaction; what it refuses, it refuses before it writes. Text is kept as given
(SQL replaces what no database can hold). ``tests/store`` holds both stores to one contract and drives them
in lock-step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from emr_executor.core.model import (
    Cluster,
    ClusterUuid,
    HistoryEntry,
    Identity,
    InLine,
    Snapshot,
    Workload,
    WorkloadId,
)
from emr_executor.core.states import WorkloadState, WorkloadTarget
from emr_executor.core.workload import HANDED_OVER_AGAIN
from emr_executor.store.clauses import LIVE_WORKLOAD_STATES, OVER_WORKLOAD_STATES
from emr_executor.store.history_store import PURGE_BATCH
from emr_executor.store.phase_store import CLAIMED_FROM
from emr_executor.store.protocols import Change, LeaseRow, Purged, Reported, Stored
from emr_executor.store.schema import ReportState
from emr_executor.store.snapshot_store import PARKED, RESTARTING, RUNNING, UNCLAIMED, WANTED_BY_AIRFLOW
from tests.simulator.memory_database import MemoryDatabase
from tests.simulator.memory_phases import NO_CLAIM, MemoryPhaseStore

_RUN, _CANCEL = WorkloadTarget.RUN, WorkloadTarget.CANCEL
_ENGAGED = (
    (WorkloadState.SUBMITTED, _RUN),
    *((state, _CANCEL) for state in LIVE_WORKLOAD_STATES),
)

_LIVE = tuple((state, target) for state in LIVE_WORKLOAD_STATES for target in (_RUN, _CANCEL))


class _Caller:
    """What all who use the store may ask."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._db = database

    async def deployment_id(self) -> str:
        """The identity of this deployment."""
        return self._db.deployment_id

    def _cancel(self, workloads: Iterable[Workload], reason: str) -> int:
        """Set the target of those that are to run to CANCEL; how many."""
        running = [workload for workload in workloads if workload.target is _RUN]
        for workload in running:
            self._db.workloads.put(
                replace(workload, target=_CANCEL, cancel_reason=reason, version=workload.version + 1)
            )
        return len(running)


class MemorySchedulerStore(_Caller):
    """``SchedulerFace`` in memory."""

    async def accept(self, workloads: Sequence[Workload]) -> None:
        """Take workloads over, each in ACCEPTED as given."""
        for given in {workload.workload_id: workload for workload in workloads}.values():
            old = self._db.workloads.get(given.workload_id)
            if old is None:
                self._db.workloads.insert(given)
            elif old.state in OVER_WORKLOAD_STATES:
                anew = replace(given, submissions=old.submissions, version=old.version + 1)
                self._db.workloads.insert(anew)
            else:
                self._db.workloads.put(
                    replace(
                        old,
                        scheduler_job_id=given.scheduler_job_id,
                        priority_weight=given.priority_weight,
                        target=given.target,
                        cancel_reason=given.cancel_reason,
                        version=old.version + (old.target is _CANCEL),
                    )
                )

    async def take_outcomes(self, scheduler_job_id: int, limit: int) -> list[Reported]:
        """Outcomes that this scheduler has not read yet, and those to be repeated."""
        workloads, outcomes = self._db.workloads, []
        for workload in workloads.unread(scheduler_job_id, limit):
            workload_id = workload.workload_id
            fresh = workloads.reported(workload_id) is ReportState.UNREAD
            restarting = (
                workload.state is WorkloadState.CANCELLED
                and self._db.task_instances.state_of_try(workload.key) == RESTARTING
            )
            if restarting or fresh:
                outcomes.append(
                    Reported(
                        workload_id=workload_id,
                        key=workload.key,
                        airflow_state=workload.airflow_state,
                        state=workload.state,
                    )
                )
            workloads.mark(workload_id, ReportState.OFFERED if restarting else ReportState.DONE)
        return outcomes

    async def adopt(self, workload_ids: Collection[WorkloadId], scheduler_job_id: int) -> set[WorkloadId]:
        """Those that are known and not over, now owned by this scheduler."""
        adopted = self._db.live(workload_ids)
        for workload in adopted:
            self._db.workloads.put(replace(workload, scheduler_job_id=scheduler_job_id))
        return {workload.workload_id for workload in adopted}

    async def live(self, workload_ids: Collection[WorkloadId]) -> set[WorkloadId]:
        """Those that are known and not over."""
        return {workload.workload_id for workload in self._db.live(workload_ids)}

    async def ask_cancel(
        self, workload_ids: Collection[WorkloadId], reason: str, scheduler_job_id: int
    ) -> int:
        """Set the target of workloads to CANCEL that this scheduler owns."""
        known = self._db.live(workload_ids)
        return self._cancel((w for w in known if w.scheduler_job_id == scheduler_job_id), reason)


class MemoryAgentStore(_Caller):
    """``AgentFace`` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(database)
        self._phases = MemoryPhaseStore(database)

    async def read_lease(self, name: str) -> LeaseRow:
        """The lease as it stands."""
        return self._db.leases.get(name) or LeaseRow()

    async def take_lease(self, name: str, holder: str, seen: LeaseRow) -> int | None:
        """The new token, or None when the lease is no longer as it was seen."""
        lease = self._db.leases.get(name)
        unchanged = lease is not None and (lease.token, lease.beat) == (seen.token, seen.beat)
        if not (lease is None if seen.token == 0 else unchanged):
            return None
        self._db.leases[name] = LeaseRow(holder=holder, token=seen.token + 1)
        return seen.token + 1

    async def beat_lease(self, name: str, holder: str, token: int) -> bool:
        """Give a sign of life; False when the lease is lost."""
        lease = self._held(name, holder, token)
        if lease is not None:
            self._db.leases[name] = replace(lease, beat=lease.beat + 1)
        return lease is not None

    async def release_lease(self, name: str, holder: str, token: int) -> None:
        """Let go; nothing when it is lost already."""
        if self._held(name, holder, token) is not None:
            self._db.leases[name] = LeaseRow(token=token + 1)

    def _held(self, name: str, holder: str, token: int) -> LeaseRow | None:
        lease = self._db.leases.get(name)
        return lease if lease is not None and (lease.holder, lease.token) == (holder, token) else None

    async def claim(
        self,
        kind: WorkloadState,
        limit: int,
        identity: Identity,
        *,
        now: datetime,
        new_token: Callable[[], str],
    ) -> tuple[Workload, ...]:
        """Up to ``limit`` workloads whose phase is now the caller's, by turn."""
        workloads = self._db.workloads
        if kind is WorkloadState.PREPARING:
            for unwanted in list(workloads.by_turn(WorkloadState.ACCEPTED, _CANCEL)):
                gone = replace(
                    unwanted, state=WorkloadState.CANCELLED, finished_at=now, version=unwanted.version + 1
                )
                workloads.put(gone)
        waiting: list[Workload] = []
        for workload in workloads.in_line(CLAIMED_FROM[kind]):
            if len(waiting) >= limit:
                break
            if workload.not_before is None or workload.not_before <= now:
                waiting.append(workload)
        claimed = []
        for workload in waiting:
            mine = replace(
                workload,
                state=kind,
                version=workload.version + 1,
                claim_token=new_token(),
                claim_beat=0,
                identity=workload.identity or identity,
                started_at=workload.started_at or now,
                phase_attempts=workload.phase_attempts + 1,
            )
            workloads.put(mine)
            claimed.append(workloads.whole(mine))
        return tuple(claimed)

    async def claims(self) -> tuple[tuple[WorkloadId, str, int], ...]:
        """(workload id, claim token, beat) of every phase that is claimed."""
        held = (
            workload
            for state in CLAIMED_FROM
            for target in (_RUN, _CANCEL)
            for workload in self._db.workloads.by_turn(state, target)
        )
        return tuple((w.workload_id, w.claim_token, w.claim_beat) for w in held if w.claim_token is not None)

    async def live(self, workload_ids: Collection[WorkloadId]) -> set[WorkloadId]:
        """Those that are known and not over."""
        return {workload.workload_id for workload in self._db.live(workload_ids)}

    async def free_claim(
        self, workload_id: WorkloadId, token: str, beat: int, not_before: datetime | None
    ) -> bool:
        """Give a phase back to be claimed again; False when it moved since (token, beat) was seen."""
        workload = self._db.workloads.get(workload_id)
        seen = (token, beat)
        if workload is None or workload.state not in CLAIMED_FROM:
            return False
        if (workload.claim_token, workload.claim_beat) != seen:
            return False
        freed = replace(
            workload,
            state=CLAIMED_FROM[workload.state],
            not_before=not_before,
            version=workload.version + 1,
            **NO_CLAIM,
        )
        self._db.workloads.put(freed)
        return True

    async def record_intent(self, workload_id: WorkloadId, token: str, airflow_state: str) -> None:
        """Airflow is about to be told this state."""
        await self._phases.record_intent(workload_id, token, airflow_state)

    async def record_over(
        self, workload_id: WorkloadId, token: str, airflow_state: str, now: datetime
    ) -> None:
        """Airflow has its state for this try."""
        await self._phases.record_over(workload_id, token, airflow_state, now)

    async def record_gone(self, workload_id: WorkloadId, token: str, reason: str, now: datetime) -> None:
        """The Execution API refuses the try."""
        await self._phases.record_gone(workload_id, token, reason, now)

    async def snapshot(self, now: datetime, ready_limit: int) -> Snapshot:
        """All that lives."""
        db = self._db
        ready = tuple(db.workloads.in_line(WorkloadState.READY, ready_limit))
        unsettled = {submission.cluster_uuid for submission in db.submissions.live.values()}
        over = [db.clusters.over[uuid] for uuid in sorted(unsettled & db.clusters.over.keys())]
        return Snapshot(
            now=now,
            clusters=(*db.clusters.present.values(), *over),
            submissions=tuple(db.submissions.live.values()),
            workloads=(*ready, *db.workloads.merged_by_turn(*_ENGAGED)),
            ready_beyond=db.workloads.count_in_line(WorkloadState.READY) - len(ready) if ready else 0,
        )

    async def apply(
        self, lease_token: int, changes: Sequence[Change], history: Sequence[HistoryEntry] = ()
    ) -> tuple[Stored, ...]:
        """Write all changes and their story, or nothing; the new values with new versions, in order."""
        return self._db.apply(lease_token, changes, history)

    async def clusters(self, cluster_uuids: Collection[ClusterUuid]) -> tuple[Cluster, ...]:
        """Those of the clusters that have a row, over or not."""
        found = map(self._db.clusters.get, dict.fromkeys(cluster_uuids))
        return tuple(cluster for cluster in found if cluster is not None)

    async def line(self) -> tuple[InLine, ...]:
        """Every live workload by turn."""
        return tuple(
            InLine(
                workload_id=workload.workload_id,
                state=workload.state,
                is_open=workload.target is _RUN and workload.quarantine is None,
                log_path=workload.log_path,
                not_before=workload.not_before,
            )
            for workload in self._db.workloads.merged_by_turn(*_LIVE)
        )

    async def heartbeat_targets(self) -> tuple[tuple[WorkloadId, Identity], ...]:
        """Parked tries that Airflow must hear of."""
        state_of = self._db.task_instances.state_of
        return tuple(
            (workload.workload_id, workload.identity)
            for state in (*PARKED, WorkloadState.ACCEPTED)
            for workload in self._db.workloads.by_turn(state, _RUN)
            if workload.identity is not None
            and (state is not WorkloadState.ACCEPTED or state_of(workload.workload_id) == RUNNING)
        )

    async def unwanted(self) -> tuple[tuple[WorkloadId, str | None], ...]:
        """Live tries that Airflow no longer wants, with its state for them."""
        state_of = self._db.task_instances.state_of
        stopped = (
            (workload.workload_id, state_of(workload.workload_id))
            for state in UNCLAIMED
            for workload in self._db.workloads.by_turn(state, _RUN)
            if workload.identity is not None
        )
        return tuple(pair for pair in stopped if pair[1] not in WANTED_BY_AIRFLOW)

    async def ask_cancel(self, workload_ids: Collection[WorkloadId], reason: str) -> int:
        """Set the target of workloads to CANCEL, unless Airflow is about to hand them over again."""
        state_of, known = self._db.task_instances.state_of, self._db.live(workload_ids)
        return self._cancel((w for w in known if state_of(w.workload_id) not in HANDED_OVER_AGAIN), reason)

    async def story(self, subject: str, subject_id: str, limit: int) -> tuple[HistoryEntry, ...]:
        """The last lines on one row, oldest first."""
        lines = self._db.story.of(subject, subject_id)
        return lines[max(0, len(lines) - limit) :]

    async def append(self, entries: Sequence[HistoryEntry]) -> None:
        """Add lines to the story."""
        self._db.story.append(entries)

    async def purge(self, now: datetime, keep_s: float) -> Purged:
        """Delete one batch of what has been over for more than ``keep_s``."""
        db, before = self._db, now - timedelta(seconds=keep_s)
        workloads = db.workloads.pop_ended(before, PURGE_BATCH)
        submissions = sum(map(db.submissions.delete_of_workload, workloads))
        old_clusters = [
            cluster.cluster_uuid
            for cluster in db.clusters.over.values()
            if cluster.ended_at is not None
            and cluster.ended_at < before
            and not db.submissions.has_any_on(cluster.cluster_uuid)
        ][:PURGE_BATCH]
        for cluster_uuid in old_clusters:
            db.clusters.delete(cluster_uuid)
        history = db.story.delete_before(before, PURGE_BATCH)
        return Purged(
            workloads=len(workloads),
            submissions=submissions,
            clusters=len(old_clusters),
            history=history,
            more=max(len(workloads), len(old_clusters), history) >= PURGE_BATCH,
        )

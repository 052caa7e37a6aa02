"""The rows of the in-memory store, and the indexes that keep every question at the cost of what lives.

Values are the frozen dataclasses of ``core.model``, so an answer is a reference and never a copy. What a
table's indexes say of a row follows from its value alone and is brought up to date by each write.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import islice
from typing import Any

from emr_executor.core.model import (
    Cluster,
    ClusterUuid,
    HistoryEntry,
    Submission,
    SubmissionId,
    TaskKey,
    Workload,
)
from emr_executor.core.states import (
    LIVE_SUBMISSION_STATES,
    OVER_CLUSTER_STATES,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.store.clauses import OVER_WORKLOAD_STATES
from emr_executor.store.rows import BULKY_WORKLOAD_COLUMNS
from emr_executor.store.schema import ReportState

_OVER = frozenset(OVER_WORKLOAD_STATES)
_NEVER = datetime.min.replace(tzinfo=UTC)
_Bucket = tuple[Any, Any]
_Place = tuple[_Bucket, tuple[Any, ...]]


def _without_bulk(workload: Workload) -> Workload:
    return replace(workload, workload={}, executor_config={})


class Workloads:
    """Workloads without their bulky fields, which lie beside them until a claim asks for them.

    A live one lies in the bucket (state, target) by turn, one that is over and not read in the bucket
    (scheduler, how far it was read) by its end.
    """

    def __init__(self) -> None:
        self._values: dict[str, Workload] = {}
        self._bulky: dict[str, dict[str, Any]] = {}
        self._reported: dict[str, ReportState] = {}
        self._places: dict[str, _Place | None] = {}
        self._buckets: dict[_Bucket, list[tuple[Any, ...]]] = defaultdict(list)
        self._ended: list[tuple[datetime, str]] = []
        self._quarantined: set[str] = set()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Workload]:
        return (self._values[key] for key in sorted(self._values))

    def get(self, workload_id: str) -> Workload | None:
        """A workload without its bulky fields."""
        return self._values.get(workload_id)

    def whole(self, workload: Workload) -> Workload:
        """The workload with its bulky fields."""
        return replace(workload, **self._bulky[workload.workload_id])

    def reported(self, workload_id: str) -> ReportState:
        """How far the scheduler has read its end."""
        return self._reported[workload_id]

    def insert(self, whole: Workload) -> None:
        """A row as it is given, in place of the one that there may be."""
        workload_id = whole.workload_id
        self._bulky[workload_id] = {name: getattr(whole, name) for name in BULKY_WORKLOAD_COLUMNS}
        self._reported[workload_id] = ReportState.UNREAD
        self.put(_without_bulk(whole))

    def write(self, lean: Workload, changes: Mapping[str, Any]) -> None:
        """Fields of a row, bulky ones or not."""
        rest = {name: value for name, value in changes.items() if name not in BULKY_WORKLOAD_COLUMNS}
        if len(rest) != len(changes):
            bulky = {name: value for name, value in changes.items() if name in BULKY_WORKLOAD_COLUMNS}
            self._bulky[lean.workload_id] = self._bulky[lean.workload_id] | bulky
        self.put(replace(lean, **rest))

    def put(self, lean: Workload) -> None:
        """The new value of a row, its bulky fields left as they are."""
        workload_id = lean.workload_id
        old = self._values.get(workload_id)
        self._values[workload_id] = lean
        self._move(workload_id, self._place(lean))
        if lean.quarantine is not None:
            self._quarantined.add(workload_id)
        elif self._quarantined:
            self._quarantined.discard(workload_id)
        ended = lean.finished_at
        if ended is not None and lean.state in _OVER:
            known = old is not None and old.state in _OVER and old.finished_at == ended
            if not known:
                heappush(self._ended, (ended, workload_id))

    def mark(self, workload_id: str, reported: ReportState) -> None:
        """How far the scheduler has read it now."""
        self._reported[workload_id] = reported
        self._move(workload_id, self._place(self._values[workload_id]))

    def delete(self, workload_id: str) -> None:
        """The row is gone."""
        self._move(workload_id, None)
        for column in (self._values, self._bulky, self._reported, self._places):
            del column[workload_id]
        self._quarantined.discard(workload_id)

    def by_turn(
        self, state: WorkloadState, target: WorkloadTarget, limit: int | None = None
    ) -> Iterator[Workload]:
        """Live workloads of a state and target, whose turn it is first."""
        bucket = self._buckets[state, target]
        return (self._values[turn[-1]] for turn in (bucket if limit is None else bucket[:limit]))

    def count(self, state: WorkloadState, target: WorkloadTarget) -> int:
        """How many there are."""
        return len(self._buckets[state, target])

    def in_line(self, state: WorkloadState, limit: int | None = None) -> Iterator[Workload]:
        """Live workloads of a state that are wanted and not quarantined, whose turn it is first."""
        wanted = self.by_turn(state, WorkloadTarget.RUN)
        return islice((one for one in wanted if one.quarantine is None), limit)

    def count_in_line(self, state: WorkloadState) -> int:
        """How many of those there are."""
        bucket = (state, WorkloadTarget.RUN)
        held = map(self._values.__getitem__, self._quarantined)
        return self.count(*bucket) - sum((one.state, one.target) == bucket for one in held)

    def merged_by_turn(self, *buckets: tuple[WorkloadState, WorkloadTarget]) -> Iterator[Workload]:
        """Live workloads of several states and targets, whose turn it is first."""
        turns = sorted([turn for bucket in buckets for turn in self._buckets[bucket]])
        return (self._values[turn[-1]] for turn in turns)

    def unread(self, scheduler_job_id: int, limit: int) -> list[Workload]:
        """Over and of interest to the scheduler: those never read before those offered, by their end."""
        ends: list[tuple[Any, ...]] = []
        for reported in (ReportState.UNREAD, ReportState.OFFERED):
            ends += self._buckets[scheduler_job_id, reported][: limit - len(ends)]
        return [self._values[end[-1]] for end in ends]

    def pop_ended(self, before: datetime, limit: int) -> list[str]:
        """Delete at most so many that ended before a moment, the first to end first; their ids."""
        gone: list[str] = []
        while self._ended and len(gone) < limit and self._ended[0][0] < before:
            ended, workload_id = heappop(self._ended)
            value = self._values.get(workload_id)
            # Handed over again meanwhile, it has another end, or none.
            if value is not None and value.state in _OVER and value.finished_at == ended:
                self.delete(workload_id)
                gone.append(workload_id)
        return gone

    def _place(self, value: Workload) -> _Place | None:
        if value.state not in _OVER:
            turn = (-value.priority_weight, value.accepted_at, value.workload_id)
            return (value.state, value.target), turn
        reported = self._reported[value.workload_id]
        if reported is ReportState.DONE or value.scheduler_job_id is None:
            return None
        return (value.scheduler_job_id, reported), (value.finished_at or _NEVER, value.workload_id)

    def _move(self, workload_id: str, place: _Place | None) -> None:
        old = self._places.get(workload_id)
        if old == place:
            return
        if old is not None:
            bucket = self._buckets[old[0]]
            del bucket[bisect_left(bucket, old[1])]
        if place is not None:
            insort(self._buckets[place[0]], place[1])
        self._places[workload_id] = place


class Submissions:
    """Submissions, those that live apart."""

    def __init__(self) -> None:
        self._values: dict[str, Submission] = {}
        self._of_workload: dict[str, list[SubmissionId]] = {}
        self._on_cluster: Counter[ClusterUuid] = Counter()
        self.live: dict[SubmissionId, Submission] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Submission]:
        return (self._values[key] for key in sorted(self._values))

    def get(self, submission_id: str) -> Submission | None:
        """A submission."""
        return self._values.get(submission_id)

    def of_workload(self, workload_id: str) -> list[Submission]:
        """All of a workload, in the order in which they came."""
        return [self._values[submission_id] for submission_id in self._of_workload.get(workload_id, ())]

    def has_any_on(self, cluster_uuid: ClusterUuid) -> bool:
        """Whether any, live or over, is on the cluster."""
        return self._on_cluster[cluster_uuid] > 0

    def insert(self, value: Submission) -> None:
        """A new row."""
        self._of_workload.setdefault(value.workload_id, []).append(value.submission_id)
        self._on_cluster[value.cluster_uuid] += 1
        self._put(value)

    def write(self, old: Submission, changes: Mapping[str, Any]) -> None:
        """Fields of a row; whose it is and on which cluster never changes."""
        self._put(replace(old, **changes))

    def _put(self, value: Submission) -> None:
        self._values[value.submission_id] = value
        if value.state in LIVE_SUBMISSION_STATES:
            self.live[value.submission_id] = value
        else:
            self.live.pop(value.submission_id, None)

    def delete_of_workload(self, workload_id: str) -> int:
        """All of a workload are gone; how many they were."""
        gone = self._of_workload.pop(workload_id, [])
        for submission_id in gone:
            self._on_cluster[self._values.pop(submission_id).cluster_uuid] -= 1
            self.live.pop(submission_id, None)
        return len(gone)


class Clusters:
    """Clusters, those that are over apart."""

    def __init__(self) -> None:
        self._values: dict[str, Cluster] = {}
        self.present: dict[ClusterUuid, Cluster] = {}
        self.over: dict[ClusterUuid, Cluster] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Cluster]:
        return (self._values[key] for key in sorted(self._values))

    def get(self, cluster_uuid: str) -> Cluster | None:
        """A cluster."""
        return self._values.get(cluster_uuid)

    def insert(self, value: Cluster) -> None:
        """A row as it is given."""
        self._values[value.cluster_uuid] = value
        over = value.state in OVER_CLUSTER_STATES
        (self.present if over else self.over).pop(value.cluster_uuid, None)
        (self.over if over else self.present)[value.cluster_uuid] = value

    def write(self, old: Cluster, changes: Mapping[str, Any]) -> None:
        """Fields of a row."""
        self.insert(replace(old, **changes))

    def delete(self, cluster_uuid: ClusterUuid) -> None:
        """The row of one that is over is gone."""
        del self._values[cluster_uuid], self.over[cluster_uuid]


class Story:
    """The lines on each subject.

    lines_kept: of each subject the last so many; None: all of them, 0: none
    """

    def __init__(self, lines_kept: int | None) -> None:
        self._lines_kept = lines_kept
        self._lines: dict[tuple[str, str], deque[HistoryEntry]] = {}
        self._oldest: datetime | None = None

    def append(self, entries: Iterable[HistoryEntry]) -> None:
        """Add lines."""
        if self._lines_kept == 0:
            return
        for entry in entries:
            subject = (entry.subject, entry.subject_id)
            lines = self._lines.get(subject)
            if lines is None:
                lines = self._lines[subject] = deque(maxlen=self._lines_kept)
            lines.append(entry)
            if self._oldest is None or entry.at < self._oldest:
                self._oldest = entry.at

    def subjects(self) -> list[tuple[str, str]]:
        """(kind, id) of all that there are lines on, sorted."""
        return sorted(self._lines)

    def of(self, subject: str, subject_id: str) -> tuple[HistoryEntry, ...]:
        """The lines on a subject that are kept, in the order in which they came."""
        return tuple(self._lines.get((subject, subject_id), ()))

    def delete_before(self, before: datetime, limit: int) -> int:
        """Delete at most so many lines of before a moment, the oldest first; how many they were."""
        if self._oldest is None or self._oldest >= before:
            return 0
        moments = sorted(entry.at for lines in self._lines.values() for entry in lines)
        gone = min(limit, bisect_left(moments, before))
        doomed = Counter(moments[:gone])
        self._oldest = moments[gone] if gone < len(moments) else None
        for subject, lines in list(self._lines.items()):
            kept = [entry for entry in lines if not _strike(doomed, entry.at)]
            if kept:
                self._lines[subject] = deque(kept, maxlen=self._lines_kept)
            else:
                del self._lines[subject]
        return gone


def _strike(doomed: Counter[datetime], at: datetime) -> bool:
    if not doomed[at]:
        return False
    doomed[at] -= 1
    return True


class MemoryTaskInstances:
    """``TaskInstances``: Airflow's table as a dict."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[TaskKey, str | None]] = {}
        self._ids: dict[tuple[str, str, str, int], str] = {}

    def put(self, ti_id: str, key: TaskKey, state: str | None) -> None:
        """The task instance as it is now."""
        self.remove(ti_id)
        place = (key.dag_id, key.task_id, key.run_id, key.map_index)
        older = self._ids.get(place)
        if older is not None:
            del self._rows[older]
        self._ids[place] = ti_id
        self._rows[ti_id] = (key, state)

    def remove(self, ti_id: str) -> None:
        """The row is deleted."""
        row = self._rows.pop(ti_id, None)
        if row is not None:
            key = row[0]
            del self._ids[key.dag_id, key.task_id, key.run_id, key.map_index]

    def state_of(self, ti_id: str) -> str | None:
        """Its state; None also where there is no such row."""
        row = self._rows.get(ti_id)
        return None if row is None else row[1]

    def state_of_try(self, key: TaskKey) -> str | None:
        """The state of a try, found by its key; None where another try has the row."""
        ti_id = self._ids.get((key.dag_id, key.task_id, key.run_id, key.map_index))
        if ti_id is None:
            return None
        found, state = self._rows[ti_id]
        return state if found.try_number == key.try_number else None

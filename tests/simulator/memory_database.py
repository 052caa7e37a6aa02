"""Everything that the in-memory store holds, and the guarded writes of the steering agent to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any

from emr_executor.core.model import Cluster, HistoryEntry, Submission, Workload, WorkloadId
from emr_executor.core.states import WorkloadState
from emr_executor.errors import StaleWriter
from emr_executor.store.change_store import key_of, merged
from emr_executor.store.clauses import LIVE_WORKLOAD_STATES
from emr_executor.store.phase_store import CLAIMED_FROM
from emr_executor.store.protocols import Change, LeaseRow, Stored
from emr_executor.store.schema import STEERING
from tests.simulator.memory_tables import (
    Clusters,
    MemoryTaskInstances,
    Story,
    Submissions,
    Workloads,
)

_LIVE = frozenset(LIVE_WORKLOAD_STATES)


class MemoryDatabase:
    """All rows of one deployment.

    story_lines: of each subject the last so many lines are kept; None: all of them, 0: none
    """

    def __init__(self, *, deployment_id: str = "simulated", story_lines: int | None = 20) -> None:
        self.deployment_id = deployment_id
        self.leases: dict[str, LeaseRow] = {}
        self.workloads = Workloads()
        self.submissions = Submissions()
        self.clusters = Clusters()
        self.story = Story(story_lines)
        self.task_instances = MemoryTaskInstances()

    def table_of(self, kind: type[Stored]) -> Any:
        """The table of a class of values."""
        if kind is Workload:
            return self.workloads
        return self.submissions if kind is Submission else self.clusters

    def claimed(self, workload_id: WorkloadId, token: str, *states: WorkloadState) -> Workload:
        """The workload as its phase has it. Raises StaleWriter: the claim is lost."""
        workload = self.workloads.get(workload_id)
        if (
            workload is None
            or workload.claim_token != token
            or workload.state not in (states or CLAIMED_FROM)
        ):
            raise StaleWriter(
                f"the claim of workload {workload_id} is lost: its phase runs elsewhere, drop the result"
            )
        return workload

    def live(self, workload_ids: Iterable[WorkloadId]) -> list[Workload]:
        """Those that are known and not over, each once."""
        found = (self.workloads.get(workload_id) for workload_id in dict.fromkeys(workload_ids))
        return [workload for workload in found if workload is not None and workload.state in _LIVE]

    def apply(
        self, lease_token: int, changes: Sequence[Change], history: Sequence[HistoryEntry]
    ) -> tuple[Stored, ...]:
        """Write all changes and their story, or nothing; the new values with new versions, in order.

        Raises StaleWriter: the lease is lost, a row moved on, or a new one exists already. InvalidTransition:
        a change that ``core.transitions`` does not have.
        """
        lease = self.leases.get(STEERING)
        if lease is None or lease.token != lease_token:
            raise StaleWriter(
                f"the lease {STEERING!r} with token {lease_token} is lost: another agent has taken over"
            )
        # Everything is looked at before anything is written: all or nothing.
        work = [(change, *self._examined(key, change)) for key, change in sorted(merged(changes).items())]
        written: dict[str, Stored] = {}
        for change, found, differing in work:
            new = change.new
            table = self.table_of(type(new))
            if found is None and change.old is None:
                table.insert(new)
            elif found is not None:
                version = found.version + 1
                table.write(found, {**differing, "version": version})
                new = replace(new, version=version)
            written[key_of(new)] = new
        self.story.append(history)
        return tuple(written[key_of(change.new)] for change in changes)

    def _examined(self, key: str, change: Change) -> tuple[Stored | None, dict[str, Any]]:
        """The row to be written and what differs; no row where one is new or nothing differs."""
        kind = type(change.new)
        if change.old is None:
            if self.table_of(kind).get(key) is not None:
                raise StaleWriter(f"one of these {kind.__name__} rows exists already: {key}")
            return None, {}
        differing = _differing(change.old, change.new)
        if not differing:
            return None, {}
        found: Stored | None = self.table_of(kind).get(key)
        if found is None or found.version != change.old.version:
            now = "deleted" if found is None else found.version
            raise StaleWriter(
                f"{kind.__name__} moved on since it was read: "
                f"{key} (read at version {change.old.version}, now {now})"
            )
        return found, differing


_NAMES: dict[type[Stored], tuple[str, ...]] = {
    kind: tuple(f.name for f in fields(kind) if f.name != "version")
    for kind in (Workload, Submission, Cluster)
}
_GETTERS = {kind: attrgetter(*names) for kind, names in _NAMES.items()}


def _differing(old: Stored, new: Stored) -> dict[str, Any]:
    kind = type(new)
    get = _GETTERS[kind]
    return {
        name: its_new
        for name, its_old, its_new in zip(_NAMES[kind], get(old), get(new), strict=True)
        if its_old is not its_new and its_old != its_new
    }

"""The memory of one scheduler's executor: its tries, and what the store has still to be told of them.

No Airflow and no I/O: ``executor.EmrExecutor`` and the simulator's scheduler run the statements. A loop has
four, in this order: ``late``, ``unadopted``, ``cancels``, outcomes. One that fails holds up none behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Generic, TypeVar

from emr_executor.core.model import Workload, WorkloadId
from emr_executor.store.scheduler_store import Reported

OUTCOMES_A_SYNC = 500
LATE_A_SYNC = 500
ATTEMPTS_TO_STORE = 3
"""After so many a workload that the database itself refuses fails, with the database's words."""

K = TypeVar("K")


class ParkedTries(Generic[K]):
    """Of the tries that the scheduler handed over and has not heard the end of. ``K``: its key of a try."""

    def __init__(self) -> None:
        self._parked: dict[WorkloadId, K | None] = {}
        # What the scheduler was promised and the store does not have yet.
        self._late: dict[WorkloadId, Workload] = {}
        self._failures: Counter[WorkloadId] = Counter()
        self._to_adopt: set[WorkloadId] = set()
        self._to_cancel: dict[WorkloadId, str] = {}
        self._revoked: dict[WorkloadId, K] = {}

    def __len__(self) -> int:
        return len(self._parked)

    def __contains__(self, workload_id: object) -> bool:
        return workload_id in self._parked

    # -- what the scheduler says: of a try it replaces what it said before ---------------------------

    def park(self, workload_id: WorkloadId, key: K) -> None:
        """It is queued."""
        self.forget(workload_id)
        self._parked[workload_id] = key

    def adopted(self, workload_id: WorkloadId, key: K) -> None:
        """It was a dead scheduler's. The transaction may fail yet; ``looked_for`` comes after it."""
        self._parked[workload_id] = key

    def park_unadopted(self, workload_id: WorkloadId) -> None:
        """The scheduler makes it ours though the statement that adopts it failed: it has no key yet."""
        self._parked[workload_id] = None
        self._to_adopt.add(workload_id)

    def revoke(self, workload_id: WorkloadId, key: K) -> None:
        """It was QUEUED for too long: queued again, or failed before the next loop."""
        key = self._parked.get(workload_id) or key
        self.forget(workload_id)
        self._revoked[workload_id] = key

    def failed(self, key: K, state: str) -> None:
        """The scheduler ended the try itself: its step is cancelled."""
        known = self._parked | self._revoked
        for workload_id in [w for w, held in known.items() if held == key]:
            self.forget(workload_id)
            self._to_cancel[workload_id] = f"the scheduler set the try to {state}"

    def forget(self, workload_id: WorkloadId) -> None:
        """Nothing is known of the try and nothing owed."""
        for debt in (self._parked, self._late, self._to_cancel, self._revoked, self._failures):
            debt.pop(workload_id, None)
        self._to_adopt.discard(workload_id)

    def begin_loop(self) -> None:
        """Before its statements: what was revoked and not failed at once is queued again or another's."""
        self._revoked.clear()

    # -- the statements of a loop, and what each changes ---------------------------------------------

    def not_stored(self, workload: Workload) -> None:
        """Its statement failed in the scheduler's transaction, or now: it comes behind all others."""
        self._late.pop(workload.workload_id, None)
        self._late[workload.workload_id] = workload

    def is_refused(self, workload: Workload) -> bool:
        """The database refused its values: whether that was once too often, and it is forgotten."""
        self._failures[workload.workload_id] += 1
        if self._failures[workload.workload_id] < ATTEMPTS_TO_STORE:
            return False
        self.forget(workload.workload_id)
        return True

    def late(self) -> list[Workload]:
        """To be stored."""
        return list(self._late.values())[:LATE_A_SYNC]

    def stored(self, batch: Iterable[Workload]) -> None:
        """They are in the store."""
        for workload in batch:
            self._late.pop(workload.workload_id, None)
            self._failures.pop(workload.workload_id, None)

    def unadopted(self) -> list[WorkloadId]:
        """To be adopted, those that Airflow has made ours.

        Those that the store does not know go silent, and Airflow purges them.
        """
        return sorted(self._to_adopt)[:LATE_A_SYNC]

    def looked_for(self, workload_ids: Iterable[WorkloadId]) -> None:
        """Those that are ours are adopted; the others are forgotten."""
        for workload_id in workload_ids:
            self._to_adopt.discard(workload_id)
            if self._parked.get(workload_id) is None:
                self._parked.pop(workload_id, None)

    def cancels(self) -> list[tuple[str, list[WorkloadId]]]:
        """To be cancelled, by reason. Of a try that is not adopted yet we are not the owner."""
        asked = {w: why for w, why in self._to_cancel.items() if w not in self._to_adopt}
        return [
            (reason, [workload_id for workload_id, why in asked.items() if why == reason])
            for reason in sorted(set(asked.values()))
        ]

    def cancelled(self, workload_ids: Collection[WorkloadId]) -> None:
        """The store was told."""
        for workload_id in workload_ids:
            self._to_cancel.pop(workload_id, None)

    def ended(self, outcomes: Iterable[Reported]) -> Iterator[Reported]:
        """Those that the scheduler is to hear."""
        for outcome in outcomes:
            if outcome.workload_id in self._late:
                # The end of an earlier hand-over of the same id, whose row starts anew once this is stored.
                continue
            self._parked.pop(outcome.workload_id, None)
            yield outcome

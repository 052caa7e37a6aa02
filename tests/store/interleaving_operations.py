"""Single calls of the store, as one of two or three sides makes them who do not know of each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from sqlalchemy import Connection

from emr_executor.core.model import HistoryEntry, Identity, Workload
from emr_executor.core.states import WorkloadState
from emr_executor.store import change_store, lease_store, phase_store, scheduler_store, snapshot_store
from emr_executor.store.change_store import Change
from emr_executor.store.lease_store import LeaseRow
from emr_executor.store.schema import STEERING
from tests.store.builders import NOW, STEP, a_workload, at, set_task_state
from tests.store.interleaving import Transaction, Work

OLD_SCHEDULER = 21
"""Owns what is stored; each side's own has another number."""
HELD, BEAT = "held", 3
"""Token and beat of the claims that are stored."""
LEASED = LeaseRow(holder="old", token=5, beat=7)


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the store. ``make`` gives the call of side 0, 1 or 2, which differ in who they are.

    of: the store's function
    each: the same call for one workload at a time, where it is for several that have nothing to do with
        each other; in the order in which the store takes them
    """

    name: str
    of: Callable[..., Any]
    make: Callable[[int], Work]
    read_only: bool = False
    each: tuple[Operation, ...] = ()

    def by(self, side: int) -> Transaction:
        """The transaction of one side."""
        return Transaction(self.make(side), self.read_only)


def scheduler_of(side: int) -> int:
    """The scheduler that a side is."""
    return OLD_SCHEDULER + 10 + side


def _each(make: Callable[..., Operation], workloads: Sequence[Workload]) -> tuple[Operation, ...]:
    if len(workloads) == 1:
        return ()
    return tuple(make(one) for one in sorted(workloads, key=lambda w: w.workload_id))


def accepts(*workloads: Workload, name: str = "accept") -> Operation:
    """The scheduler hands over the workloads, as new ones of the same task instances."""

    def make(side: int) -> Work:
        handed = [
            a_workload(
                workload_id=w.workload_id,
                key=w.key,
                accepted_at=at(side),
                workload=w.workload,
                scheduler_job_id=scheduler_of(side),
                priority_weight=side + 2,
            )
            for w in workloads
        ]
        return lambda conn: scheduler_store.accept(conn, handed)

    return Operation(name, scheduler_store.accept, make, each=_each(accepts, workloads))


def call(
    of: Callable[..., Any],
    arguments: Callable[[int], tuple[Any, ...]],
    *,
    name: str = "",
    each: tuple[Operation, ...] = (),
    **named: Any,
) -> Operation:
    """One call with the arguments of the side that makes it; named as the function, or otherwise."""
    return Operation(
        name or of.__name__, of, lambda side: lambda conn: of(conn, *arguments(side), **named), each=each
    )


def asks_cancel(*workloads: Workload) -> Operation:
    """Airflow no longer wants the workloads."""
    ids, each = [w.workload_id for w in workloads], _each(asks_cancel, workloads)
    return call(scheduler_store.ask_cancel, lambda side: (ids, f"asked by {side}"), each=each)


def cancels_unless_queued(*workloads: Workload) -> Operation:
    """The agent learnt that Airflow does not want the workloads, and looks again."""
    ids, each = [w.workload_id for w in workloads], _each(cancels_unless_queued, workloads)
    return call(scheduler_store.ask_cancel_unless_queued, lambda side: (ids, f"seen by {side}"), each=each)


def hands_over(workload: Workload) -> Operation:
    """Airflow's scheduler sets a task instance QUEUED and hands it over, in one transaction."""
    accepting = accepts(workload)

    def make(side: int) -> Work:
        def work(conn: Connection) -> None:
            set_task_state(conn, workload, "queued")
            accepting.make(side)(conn)

        return work

    return Operation(f"hand over {workload.state}", scheduler_store.accept, make)


def adopts(*workloads: Workload) -> Operation:
    """Another scheduler takes the workloads over."""
    ids, each = [w.workload_id for w in workloads], _each(adopts, workloads)
    return call(scheduler_store.adopt, lambda side: (ids, scheduler_of(side)), each=each)


def takes_outcomes() -> Operation:
    """The scheduler that owns what is stored reads outcomes."""
    return call(scheduler_store.take_outcomes, lambda _: (OLD_SCHEDULER, 10))


def claims(kind: WorkloadState, limit: int) -> Operation:
    """An agent claims phases."""

    def make(side: int) -> Work:
        who = Identity(hostname=f"host-{side}", unixname="airflow", pid=side)

        def work(conn: Connection) -> Any:
            numbers = count(1)
            return phase_store.claim(
                conn, kind, limit, who, now=at(side), new_token=lambda: f"{side}-{next(numbers)}"
            )

        return work

    return Operation(f"claim {limit}", phase_store.claim, make)


def phase_writes(workload: Workload) -> tuple[Operation, ...]:
    """All that the process of a claimed phase writes, and whoever frees its claim."""
    p, held = phase_store, (workload.workload_id, HELD)
    ends = (
        call(p.renew_claim, lambda _: held),
        call(p.free_claim, lambda side: (*held, BEAT, at(side))),
        call(p.record_intent, lambda _: (*held, "failed")),
        call(p.record_over, lambda side: (*held, "failed", at(side))),
        call(p.record_retry, lambda side: (*held, at(30 + side), "again"), now=NOW),
        call(p.record_gone, lambda side: (*held, "404", at(side))),
    )
    parked = call(p.record_parked, lambda side: (*held, STEP, at(side)))
    return (*ends, parked) if workload.state is WorkloadState.PREPARING else ends


def applies(
    name: str, *changes: Change, token: int = LEASED.token, story: Sequence[HistoryEntry] = ()
) -> Operation:
    """The agent with this lease token writes."""
    return call(change_store.apply, lambda _: (token, changes, story), name=name)


def lease_operations(seen: LeaseRow) -> tuple[Operation, ...]:
    """All that is done with the lease as it was seen."""
    s, its = lease_store, (STEERING, seen.holder, seen.token)
    take = call(s.take_lease, lambda side: (STEERING, f"agent-{side}", seen))
    if seen.holder is None:
        return (take,)
    return (
        take,
        call(s.beat_lease, lambda _: its),
        call(s.release_lease, lambda _: its),
        call(s.hold_lease, lambda _: (seen.token,)),
    )


def snapshots() -> Operation:
    """The agent reads all that lives, of one moment."""

    def work(conn: Connection) -> Any:
        seen = snapshot_store.snapshot(conn, NOW, 10)
        in_any_order = {
            name: sorted(getattr(seen, name), key=str) for name in ("clusters", "submissions", "workloads")
        }
        return in_any_order, seen.ready_beyond

    return Operation("snapshot", snapshot_store.snapshot, lambda _: work, read_only=True)


def line(workload: Workload, event: str, moment: Any = NOW) -> HistoryEntry:
    """A line of the story."""
    return HistoryEntry(at=moment, subject="workload", subject_id=workload.workload_id, event=event, text="t")

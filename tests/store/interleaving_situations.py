"""Situations of the store, and all operations that can meet on the rows of each.

Every operation of a situation is interleaved with every other one and with itself (by another caller). Rows
are stored in the opposite order of their keys: who locks them as they come locks them in a wrong order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, insert

from emr_executor.core.health import AgentHealth
from emr_executor.core.model import HistoryEntry, StepOutcome, Workload
from emr_executor.core.states import (
    ClusterState,
    StepState,
    SubmissionState,
    Verdict,
    WorkloadState,
    WorkloadTarget,
)
from emr_executor.core.transitions import Row
from emr_executor.store import (
    health_store,
    history_store,
    scheduler_store,
)
from emr_executor.store.change_store import Change
from emr_executor.store.lease_store import LeaseRow
from emr_executor.store.schema import LEASE, STEERING
from tests.store.builders import (
    ME,
    NOW,
    a_cluster,
    a_parked,
    a_submission,
    a_workload,
    at,
    put_task_instance,
    store,
)
from tests.store.interleaving import Work
from tests.store.interleaving_operations import (
    BEAT,
    HELD,
    LEASED,
    OLD_SCHEDULER,
    Operation,
    accepts,
    adopts,
    applies,
    asks_cancel,
    cancels_unless_queued,
    claims,
    hands_over,
    lease_operations,
    line,
    phase_writes,
    snapshots,
    takes_outcomes,
)

DAY_S = 86_400.0
UUID_0 = str(UUID(int=0))
LONG_AGO = at(-9 * DAY_S)
UNCLAIMED: dict[str, Any] = {"scheduler_job_id": OLD_SCHEDULER}
CLAIMED: dict[str, Any] = {
    **UNCLAIMED,
    "claim_token": HELD,
    "claim_beat": BEAT,
    "identity": ME,
    "started_at": at(-60),
    "phase_attempts": 1,
    "version": 4,
}
DONE = StepOutcome(verdict=Verdict.SUCCEEDED, submissions=1, started_at=at(-50), ended_at=at(-5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is stored, and what may be called."""

    name: str
    fill: Work
    operations: tuple[Operation, ...]

    def operation(self, name: str) -> Operation:
        """One by its name."""
        (found,) = (operation for operation in self.operations if operation.name == name)
        return found


def _filled(
    *values: Row,
    lease: LeaseRow | None = LEASED,
    task_instances: Sequence[tuple[Workload, str]] = (),
    cleared: Sequence[tuple[Workload, str]] = (),
    story: Sequence[HistoryEntry] = (),
) -> Work:
    def fill(conn: Connection) -> None:
        store(conn, *reversed(values))
        for workload, state in task_instances:
            put_task_instance(conn, workload, state)
        for n, (workload, state) in enumerate(cleared):
            # Clearing gives a task instance another id.
            put_task_instance(conn, workload, state, ti_id=f"{n:032x}")
        history_store.append(conn, story)
        if lease:
            row = {"name": STEERING, "holder": lease.holder, "token": lease.token, "beat": lease.beat}
            conn.execute(insert(LEASE).values(row))

    return fill


def new() -> Situation:
    """Nothing is stored; the first of everything."""
    one, two = a_workload(), a_workload()
    operations = (
        accepts(two, one),
        accepts(one, name="accept one"),
        asks_cancel(one, two),
        adopts(one, two),
        claims(WorkloadState.PREPARING, 2),
        *lease_operations(LeaseRow()),
        Operation("deployment_id", scheduler_store.deployment_id, lambda _: scheduler_store.deployment_id),
    )
    return Situation(name="new", fill=_filled(lease=None), operations=operations)


def accepted() -> Situation:
    """One waits to be prepared, one that is not wanted waits to be dropped."""
    wanted = a_workload(**UNCLAIMED)
    unwanted = a_workload(**UNCLAIMED, target=WorkloadTarget.CANCEL, cancel_reason="cleared", version=1)
    dropped = replace(unwanted, state=WorkloadState.CANCELLED, finished_at=NOW)
    operations = (
        accepts(unwanted, wanted),
        asks_cancel(unwanted, wanted),
        adopts(unwanted, wanted),
        claims(WorkloadState.PREPARING, 1),
        claims(WorkloadState.PREPARING, 2),
        applies("drop", Change(old=unwanted, new=dropped)),
        takes_outcomes(),
    )
    return Situation(name="accepted", fill=_filled(wanted, unwanted), operations=operations)


def _in_phase(state: WorkloadState, waiting: WorkloadState, **changes: Any) -> Situation:
    make = a_workload if state is WorkloadState.PREPARING else a_parked
    held = make(**CLAIMED, **changes, state=state)
    next_ = make(**UNCLAIMED, **changes, state=waiting)
    operations = (
        *phase_writes(held),
        accepts(next_, held),
        asks_cancel(next_, held),
        adopts(next_, held),
        claims(state, 2),
        applies(
            "apply",
            Change(old=held, new=replace(held, losses=1)),
            Change(old=next_, new=replace(next_, losses=1)),
        ),
        takes_outcomes(),
    )
    return Situation(name=state.lower(), fill=_filled(held, next_), operations=operations)


def preparing() -> Situation:
    """A prepare phase runs, and one waits to be claimed."""
    return _in_phase(WorkloadState.PREPARING, WorkloadState.ACCEPTED)


def finishing() -> Situation:
    """A finish phase runs, and one waits to be claimed."""
    return _in_phase(WorkloadState.FINISHING, WorkloadState.FINISHABLE, outcome=DONE, submissions=1)


def ready() -> Situation:
    """Two steps wait for a slot of a cluster."""
    one, two = a_parked(**UNCLAIMED), a_parked(**UNCLAIMED)
    cluster = a_cluster(idle_since=at(-9))
    first = replace(one, state=WorkloadState.SUBMITTED, submissions=1)
    second = replace(two, state=WorkloadState.SUBMITTED, submissions=1)
    busy = Change(old=cluster, new=replace(cluster, idle_since=None))
    placed = (Change(old=one, new=first), Change(old=None, new=a_submission(first, cluster)))
    both = (*placed, Change(old=two, new=second), Change(old=None, new=a_submission(second, cluster)))
    operations = (
        accepts(two, one),
        asks_cancel(two, one),
        cancels_unless_queued(two, one),
        adopts(two, one),
        applies("place", *placed),
        applies("place by the next", *placed, token=LEASED.token + 1),
        applies("place both", *both, busy, story=[line(one, "placed"), line(two, "placed")]),
        applies("wait", Change(old=two, new=replace(two, not_before=at(9)))),
        applies("drain", busy),
        *lease_operations(LEASED),
        snapshots(),
    )
    return Situation(name="ready", fill=_filled(one, two, cluster), operations=operations)


def submitted() -> Situation:
    """A step runs; another one's outcome waits to be told."""
    cluster = a_cluster()
    running = a_parked(**UNCLAIMED, state=WorkloadState.SUBMITTED, submissions=1)
    ended = a_parked(**UNCLAIMED, state=WorkloadState.FINISHABLE, submissions=1, outcome=DONE)
    submission = a_submission(running, cluster, state=SubmissionState.RUNNING, step_state=StepState.RUNNING)
    over = replace(submission, state=SubmissionState.COMPLETED, ended_at=NOW)
    lost = replace(submission, state=SubmissionState.LOST, ended_at=NOW)
    gone = replace(cluster, state=ClusterState.TERMINATED, ended_at=NOW)
    operations = (
        accepts(ended, running),
        asks_cancel(ended, running),
        adopts(ended, running),
        claims(WorkloadState.FINISHING, 2),
        applies(
            "end",
            Change(old=submission, new=over),
            Change(old=running, new=replace(running, state=WorkloadState.FINISHABLE, outcome=DONE)),
        ),
        applies(
            "lose",
            Change(old=cluster, new=gone),
            Change(old=submission, new=lost),
            Change(old=running, new=replace(running, state=WorkloadState.READY, losses=1)),
        ),
        *lease_operations(LEASED),
        snapshots(),
    )
    return Situation(
        name="submitted", fill=_filled(cluster, running, ended, submission), operations=operations
    )


def over() -> Situation:
    """Two tries are over since long, one of which Airflow waits for; nobody has read how they ended."""
    ended: dict[str, Any] = {**UNCLAIMED, "finished_at": LONG_AGO, "submissions": 1, "version": 9}
    one = a_parked(**ended, state=WorkloadState.FINISHED, airflow_state="success", outcome=DONE)
    two = a_parked(
        **ended, state=WorkloadState.CANCELLED, target=WorkloadTarget.CANCEL, cancel_reason="cleared"
    )
    cluster = a_cluster(state=ClusterState.TERMINATED, ended_at=LONG_AGO)
    unused = a_cluster(state=ClusterState.TERMINATED, ended_at=LONG_AGO)
    submission = a_submission(one, cluster, state=SubmissionState.COMPLETED, ended_at=LONG_AGO)
    cancelled = a_submission(two, cluster, state=SubmissionState.CANCELLED, ended_at=LONG_AGO)
    operations = (
        takes_outcomes(),
        accepts(one, name="accept finished"),
        accepts(two, one, name="accept both"),
        asks_cancel(two, one),
        adopts(two, one),
        claims(WorkloadState.PREPARING, 2),
        applies(
            "note",
            Change(old=submission, new=replace(submission, output_chunks=3)),
            Change(old=cancelled, new=replace(cancelled, output_chunks=3)),
        ),
        applies("tell", Change(old=unused, new=replace(unused, reason="why"))),
        Operation(
            "append",
            history_store.append,
            lambda side: lambda conn: history_store.append(conn, [line(one, f"told by {side}", LONG_AGO)]),
        ),
        Operation("purge", history_store.purge, lambda _: lambda conn: history_store.purge(conn, NOW, DAY_S)),
    )
    fill = _filled(
        one,
        two,
        cluster,
        unused,
        submission,
        cancelled,
        cleared=[(two, "restarting")],
        story=[line(one, "placed", LONG_AGO), line(two, "placed", LONG_AGO), line(two, "cancelled")],
    )
    return Situation(name="over", fill=fill, operations=operations)


def handed_over() -> Situation:
    """Two tries that Airflow has just taken back, one of them being prepared: it may hand them over again."""
    held = a_workload(**CLAIMED, state=WorkloadState.PREPARING)
    parked = a_parked(**UNCLAIMED)
    by_process = {operation.name: operation for operation in phase_writes(held)}
    operations = (
        hands_over(held),
        hands_over(parked),
        cancels_unless_queued(parked, held),
        asks_cancel(parked),
        *(by_process[name] for name in ("record_gone", "record_intent", "record_over", "free_claim")),
        applies("wait", Change(old=parked, new=replace(parked, not_before=NOW))),
    )
    fill = _filled(held, parked, task_instances=[(held, "up_for_reschedule"), (parked, "up_for_reschedule")])
    return Situation(name="handed over", fill=fill, operations=operations)


def agents() -> Situation:
    """One agent has told of itself."""
    h = health_store
    told = AgentHealth(
        holder="old", host="h", pid=1, version="1", steering=True, started_at=NOW, beat=BEAT, told_at=NOW
    )

    def tells(name: str, health: AgentHealth) -> Operation:
        return Operation(
            name,
            h.tell_health,
            lambda side: lambda conn: h.tell_health(conn, replace(health, version=f"{side}")),
        )

    def forgets(name: str, beat: int | None) -> Operation:
        return Operation(name, h.forget_agent, lambda _: lambda conn: h.forget_agent(conn, "old", beat))

    operations = (
        tells("tell", replace(told, beat=BEAT + 1)),
        tells("tell another", replace(told, holder="new")),
        forgets("forget", None),
        forgets("forget silent", BEAT),
    )

    def fill(conn: Connection) -> None:
        h.tell_health(conn, told)

    return Situation(name="agents", fill=fill, operations=operations)


def crossing() -> Situation:
    """Keys of all kinds in between each other: one order of all keys is not an order of tables."""
    first, cluster, last = (str(UUID(int=n)) for n in (1, 2, 3))
    placed: dict[str, Any] = {**UNCLAIMED, "state": WorkloadState.SUBMITTED, "submissions": 1}
    one, two = a_parked(**placed, workload_id=first), a_parked(**placed, workload_id=last)
    serving = a_cluster(cluster_uuid=cluster)
    submission = a_submission(two, serving)
    touch_one, touch_two = (Change(old=w, new=replace(w, not_before=NOW)) for w in (one, two))
    busy = Change(old=serving, new=replace(serving, idle_since=NOW))
    noted = Change(old=submission, new=replace(submission, output_chunks=1))
    operations = (
        applies("cluster first", busy, touch_two),
        applies("workload first", touch_one, touch_two, busy),
        applies("submission first", noted, busy),
        applies(
            "launch",
            *(
                Change(old=None, new=v)
                for v in (
                    a_submission(one, serving),
                    a_cluster(cluster_uuid=UUID_0, state=ClusterState.INTENDED),
                )
            ),
        ),
    )
    return Situation(name="crossing", fill=_filled(one, two, serving, submission), operations=operations)


SITUATIONS = tuple(
    make()
    for make in (new, accepted, preparing, ready, submitted, finishing, over, handed_over, agents, crossing)
)
BY_NAME = {situation.name: situation for situation in SITUATIONS}

"""Airflow's ledger: an append-only list of what really happened to each try, for checks from outside.

It is written by the model of Airflow and by nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class AirflowEntry:
    """One event. ``at`` is epoch seconds on the true clock.

    event: queued (a try, or the same one again), retried (the task gets a later try, which is queued next),
        started (the first /run that was taken), run_repeated, run_refused, heartbeat_refused, reported (the
        Execution API took a state; detail: ``state`` and ``by``, which is finish, prepare or
        fail_terminally), purged (no heartbeat), killed_externally (failed for an executor event while it was
        SCHEDULED to RUNNING; detail: ``by``, the event's state), freed (RESTARTING, by the executor's
        SUCCESS), requeued and queued_too_long (stuck in queued: sent round again, or failed), reset (unknown
        to the adopting executor; detail: ``was``), adopted, scheduler_died (declared dead by another; no
        task), cleared (detail: ``was``), marked, timed_out (its DAG run)
    task: ``dag.task@run[map_index]``, without the try; empty for a scheduler
    ti_id: as it was before the event
    state: the task instance's state after the event; empty for none
    """

    seq: int
    at: float
    event: str
    ti_id: str
    task: str
    try_number: int
    state: str
    detail: Mapping[str, Any] | None = None

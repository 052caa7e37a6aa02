"""Conditions and orders that several statements share."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from sqlalchemy import Column, ColumnElement, and_, or_, select

from emr_executor.core.states import LIVE_SUBMISSION_STATES, SubmissionState, WorkloadState
from emr_executor.store.schema import WORKLOAD

OVER_WORKLOAD_STATES = (WorkloadState.FINISHED, WorkloadState.CANCELLED)
"""Nothing more happens to the workload, unless the scheduler hands it over again."""
LIVE_WORKLOAD_STATES = tuple(state for state in WorkloadState if state not in OVER_WORKLOAD_STATES)
"""All others."""

OVER_SUBMISSION_STATES = tuple(state for state in SubmissionState if state not in LIVE_SUBMISSION_STATES)
"""EMR has no active step for it."""

BY_TURN = (WORKLOAD.c.priority_weight.desc(), WORKLOAD.c.accepted_at, WORKLOAD.c.workload_id)
"""Whose turn it is: the highest priority, then the longest wait."""


def is_none_of(state: Column[str], over: Iterable[str]) -> ColumnElement[bool]:
    """``state NOT IN over`` as ranges between the values: an index serves it, however many rows are over.

    So also a state that only another release knows counts as alive.
    """
    known = sorted(over)
    between = (and_(state > low, state < high) for low, high in pairwise(known))
    return or_(state < known[0], *between, state > known[-1])


def in_lock_order(*conditions: ColumnElement[bool], skip_locked: bool = False) -> ColumnElement[bool]:
    """Workloads that meet the conditions, locked in the order of their ids before an UPDATE touches them.

    Two UPDATEs of the same rows in different orders would end in a deadlock on PostgreSQL; SQLite has one
    writer at a time and ignores the lock. ``skip_locked`` leaves rows alone that another transaction has.
    """
    locked = select(WORKLOAD.c.workload_id).where(*conditions).order_by(WORKLOAD.c.workload_id)
    return WORKLOAD.c.workload_id.in_(locked.with_for_update(skip_locked=skip_locked))

"""What must stay in S3: what live workloads and submissions refer to, asked before anything is deleted."""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy import Connection, Text, cast, or_, select

from emr_executor.core.model import SubmissionId
from emr_executor.store.clauses import OVER_SUBMISSION_STATES, OVER_WORKLOAD_STATES, is_none_of
from emr_executor.store.schema import SUBMISSION, WORKLOAD

STEPS_AT_ONCE = 1000
"""Steps read by one statement; a step may be a few kilobytes."""


def named_by_live_steps(
    conn: Connection, find: Callable[[str], Collection[str]], at_once: int = STEPS_AT_ONCE
) -> set[str]:
    """What ``find`` finds in the steps, as JSON text, of all workloads that are not over.

    The text is searched as it stands, so that a step of any release counts in full; and what is not known
    to be over lives, also in a state that only a newer release knows.
    """
    w = WORKLOAD.c
    asked = (
        select(w.workload_id, cast(w.step, Text).label("text"))
        .where(is_none_of(w.state, OVER_WORKLOAD_STATES), w.step.is_not(None))
        .order_by(w.workload_id)
        .limit(at_once)
    )
    found: set[str] = set()
    last = ""
    while rows := conn.execute(asked.where(w.workload_id > last)).all():
        found.update(*(find(row.text) for row in rows))
        last = rows[-1].workload_id
    return found


def live_submissions(conn: Connection, submission_ids: Collection[SubmissionId]) -> set[SubmissionId]:
    """Those of the submissions that are not over, or whose workload is not."""
    s, w = SUBMISSION.c, WORKLOAD.c
    asked = (
        select(s.submission_id)
        .select_from(SUBMISSION.outerjoin(WORKLOAD, w.workload_id == s.workload_id))
        .where(
            s.submission_id.in_(list(submission_ids)),
            or_(s.state.not_in(OVER_SUBMISSION_STATES), w.state.not_in(OVER_WORKLOAD_STATES)),
        )
    )
    return {SubmissionId(found) for found in conn.execute(asked).scalars()}

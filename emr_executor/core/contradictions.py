"""What rows must never say of each other, whatever happened: each finding is a bug of ours.

A single row is held to its table (``core.transitions``). These rules hold between rows, at every moment
that a snapshot shows, since whoever changes one of them changes the others in the same transaction. A plan
made from rows that contradict each other could run a step twice, so the workload is quarantined first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from emr_executor.core.model import Submission, Workload
from emr_executor.core.states import STEPLESS_WORKLOAD_STATES, WorkloadState
from emr_executor.errors import Contradiction


def contradictions(
    workloads: Iterable[Workload], submissions: Iterable[Submission]
) -> list[tuple[Workload, Contradiction]]:
    """Workloads, not yet quarantined, that do not fit their live submissions, each with the reason.

    submissions: all that are live
    """
    submissions = tuple(submissions)
    live = Counter(submission.workload_id for submission in submissions)
    suspects = [one for one in workloads if one.quarantine is None and not _fits(one, live[one.workload_id])]
    found = []
    for workload in suspects:
        why = _why(workload, [one for one in submissions if one.workload_id == workload.workload_id])
        found.append((workload, Contradiction(why)))
    return found


def _fits(workload: Workload, live: int) -> bool:
    if live:
        return live == 1 and workload.state not in STEPLESS_WORKLOAD_STATES
    return workload.state is not WorkloadState.SUBMITTED


def _why(workload: Workload, live: list[Submission]) -> str:
    name, state = f"workload {workload.workload_id}", workload.state
    if len(live) > 1:
        return f"{name} has {len(live)} live submissions: {', '.join(s.submission_id for s in live)}"
    if live:
        return f"{name} is {state} and its submission {live[0].submission_id} is {live[0].state}"
    return f"{name} is SUBMITTED and has no live submission"

"""Why a task waits that no tick looks at: no task runner has taken it, or its turn is far off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from emr_executor.core.model import InLine, WorkloadId
from emr_executor.core.states import WorkloadState
from emr_executor.core.waiting import Reason, at_clock, clause

IN_LINE_S = 30.0
"""What no task runner has taken, or no tick has reached, for so long says so."""


def for_task_runner(what: str, at_once: int | None) -> str:
    """A phase that nobody has begun. ``what``: what becomes of the task in it."""
    runners = f" ({at_once} at once, task_runner_parallelism)" if at_once else ""
    return f"for a task runner{runners} to be {what}"


def beyond(ready_limit: int) -> str:
    """A parked task that no tick has reached."""
    return f"{ready_limit} tasks or more have their turn before it, and so many are looked at for a slot"


def reasons_in_line(
    line: Sequence[InLine],
    stood_s: Mapping[WorkloadId, float],
    *,
    now: datetime,
    ready_limit: int,
    at_once: int,
    no_runner: str | None,
) -> Iterator[Reason]:
    """The reason of everything that ``reasons`` is not asked for: no snapshot holds it.

    stood_s: for how long each was seen in its state
    at_once: how many task runners an agent has
    no_runner: why this one has none now
    """
    ready = 0
    for one in line:
        if not one.is_open:
            continue
        ready += one.state is WorkloadState.READY
        if stood_s.get(one.workload_id, 0.0) < IN_LINE_S:
            continue
        match one.state:
            case WorkloadState.READY if ready > ready_limit:
                yield Reason(workload_id=one.workload_id, why=beyond(ready_limit), news="beyond")
            case WorkloadState.ACCEPTED | WorkloadState.FINISHABLE:
                yield _of_phase(one, now, at_once, no_runner)


def _of_phase(one: InLine, now: datetime, at_once: int, no_runner: str | None) -> Reason:
    what = "prepared" if one.state is WorkloadState.ACCEPTED else "finished in Airflow"
    if no_runner is not None:
        why = f"{for_task_runner(what, at_once)}; there is none now: {clause(no_runner)}"
        return Reason(workload_id=one.workload_id, why=why, news=("no runner", one.state), is_trouble=True)
    if one.not_before is not None and one.not_before > now:
        why = f"to be {what} once more, at {at_clock(one.not_before)}"
        return Reason(workload_id=one.workload_id, why=why, news=("again", one.state))
    return Reason(workload_id=one.workload_id, why=for_task_runner(what, at_once), news=("runner", one.state))

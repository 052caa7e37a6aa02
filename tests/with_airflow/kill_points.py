"""The points at which a process is killed, made from the tables of states and the calls with an effect.

For each edge that is written in one of the ``lives`` the writer dies right after the COMMIT; for each act its
doer dies when the act has returned, before its result is written; for each intent and mark that is no edge
(what is wanted, what Airflow is about to be told, that a step's end was asked for) the writer dies after the
COMMIT. An edge is either brought about (LIFE_OF) or told why not (NOT_HERE): a new one forces a decision.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from emr_executor.core.states import ClusterState as C
from emr_executor.core.states import SubmissionState as S
from emr_executor.core.states import WorkloadState as W
from emr_executor.core.transitions import (
    CLUSTER_EDGES,
    SUBMISSION_EDGES,
    WORKLOAD_EDGES,
    ClusterEvent,
    Edge,
    SubmissionEvent,
    WorkloadEvent,
)
from emr_executor.ports import EmrApi
from tests.with_airflow import lives
from tests.with_airflow.lives import Life

CS, SS, WS = ClusterEvent, SubmissionEvent, WorkloadEvent
Key = tuple[StrEnum | None, StrEnum, StrEnum]
"""Start, observation and end of an edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a process dies. name: as the saboteur knows it; first: points that bring the life there."""

    name: str
    life: Life
    first: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}, {self.life.__name__}"


LIFE_OF: Mapping[Key, Life] = {
    (None, WS.HANDED_OVER, W.ACCEPTED): lives.plain,
    (W.ACCEPTED, WS.CLAIMED, W.PREPARING): lives.plain,
    (W.PREPARING, WS.PARKED, W.READY): lives.plain,
    (W.PREPARING, WS.REPORTED, W.FINISHED): lives.skipped,
    (W.PREPARING, WS.FELL_SILENT, W.ACCEPTED): lives.plain,
    (W.PREPARING, WS.GONE, W.CANCELLED): lives.marked_early,
    (W.READY, WS.PLACED, W.SUBMITTED): lives.plain,
    (W.READY, WS.UNWANTED, W.CANCELLED): lives.marked_waiting,
    (W.SUBMITTED, WS.STEP_NEVER_ADDED, W.READY): lives.refused_steps,
    (W.SUBMITTED, WS.STEP_LOST_UNSTARTED, W.READY): lives.lost_while_starting,
    (W.SUBMITTED, WS.STEP_LOST, W.READY): lives.loses_cluster,
    (W.SUBMITTED, WS.STEP_COMPLETED, W.FINISHABLE): lives.plain,
    (W.SUBMITTED, WS.STEP_FAILED, W.FINISHABLE): lives.fails,
    (W.SUBMITTED, WS.STEP_CANCELLED, W.FINISHABLE): lives.cancelled_by_hand,
    (W.SUBMITTED, WS.STEP_TIMED_OUT, W.FINISHABLE): lives.overtime,
    (W.SUBMITTED, WS.UNWANTED, W.CANCELLED): lives.marked,
    (W.FINISHABLE, WS.CLAIMED, W.FINISHING): lives.plain,
    (W.FINISHABLE, WS.UNWANTED, W.CANCELLED): lives.marked_while_vanished,
    (W.FINISHING, WS.REPORTED, W.FINISHED): lives.plain,
    (W.FINISHING, WS.TO_REPEAT, W.FINISHABLE): lives.vanished,
    (W.FINISHING, WS.FELL_SILENT, W.FINISHABLE): lives.plain,
    (W.FINISHING, WS.GONE, W.READY): lives.marked_late,
    (W.FINISHED, WS.HANDED_OVER, W.ACCEPTED): lives.rescheduled,
    (None, SS.WRITTEN, S.INTENDED): lives.plain,
    (S.INTENDED, SS.ADDED, S.PENDING): lives.plain,
    (S.INTENDED, SS.NEVER_ADDED, S.LOST): lives.refused_steps,
    (S.INTENDED, SS.SHOWN_PENDING, S.PENDING): lives.unheard_while_starting,
    (S.INTENDED, SS.WRAPPER_SPOKE, S.RUNNING): lives.unlisted(lives.long),
    (S.INTENDED, SS.ENDED_WELL, S.COMPLETED): lives.unlisted(lives.plain),
    (S.INTENDED, SS.ENDED_BADLY, S.FAILED): lives.unlisted(lives.fails),
    (S.INTENDED, SS.CLUSTER_OVER, S.LOST): lives.lost_at_once,
    (S.PENDING, SS.SHOWN_OVER, S.RUNNING): lives.cancelled_pending,
    (S.PENDING, SS.WRAPPER_SPOKE, S.RUNNING): lives.long,
    (S.PENDING, SS.ENDED_WELL, S.COMPLETED): lives.plain,
    (S.PENDING, SS.ENDED_BADLY, S.FAILED): lives.fails,
    (S.PENDING, SS.CANCELLED_BY_US, S.CANCELLED): lives.marked_pending,
    (S.PENDING, SS.CLUSTER_OVER, S.LOST): lives.lost_while_starting,
    (S.RUNNING, SS.ENDED_WELL, S.COMPLETED): lives.long,
    (S.RUNNING, SS.ENDED_BADLY, S.FAILED): lives.fails_late,
    (S.RUNNING, SS.ENDED_SILENTLY, S.FAILED): lives.silent_end,
    (S.RUNNING, SS.TIMED_OUT, S.FAILED): lives.overtime,
    (S.RUNNING, SS.CANCELLED_BY_US, S.CANCELLED): lives.marked,
    (S.RUNNING, SS.CANCELLED_BY_HAND, S.CANCELLED): lives.cancelled_by_hand,
    (S.RUNNING, SS.CLUSTER_OVER, S.LOST): lives.loses_cluster,
    (None, CS.DECIDED, C.INTENDED): lives.plain,
    (C.INTENDED, CS.LAUNCHED, C.STARTING): lives.plain,
    (C.INTENDED, CS.REFUSED, C.NEVER_LAUNCHED): lives.refused_launch,
    (C.INTENDED, CS.NEVER_SHOWN, C.NEVER_LAUNCHED): lives.never_launched,
    (C.INTENDED, CS.SHOWN_STARTING, C.STARTING): lives.unheard_while_starting,
    (C.STARTING, CS.SHOWN_BOOTSTRAPPING, C.BOOTSTRAPPING): lives.plain,
    (C.STARTING, CS.SHOWN_RUNNING, C.RUNNING): lives.up_at_once,
    (C.STARTING, CS.SHOWN_WAITING, C.WAITING): lives.marked_pending,
    (C.STARTING, CS.SHOWN_TERMINATING, C.TERMINATING): lives.lost_while_starting,
    (C.BOOTSTRAPPING, CS.SHOWN_RUNNING, C.RUNNING): lives.long,
    (C.RUNNING, CS.SHOWN_WAITING, C.WAITING): lives.long,
    (C.WAITING, CS.SHOWN_RUNNING, C.RUNNING): lives.again,
    (C.WAITING, CS.SHOWN_TERMINATING, C.TERMINATING): lives.plain,
    (C.RUNNING, CS.SHOWN_TERMINATING, C.TERMINATING): lives.loses_cluster,
    (C.TERMINATING, CS.SHOWN_TERMINATED, C.TERMINATED): lives.plain,
    (C.TERMINATING, CS.SHOWN_TERMINATED_WITH_ERRORS, C.TERMINATED_WITH_ERRORS): lives.loses_cluster,
}
_MISSED = (
    "it is written only when looks at EMR were missed, which nothing from outside can bring about surely"
)
_SPOKE = "the wrapper's record is read within a second, before ListSteps is"
_LATE_LAUNCH = "no real endpoint shows a launch after launch_unknown: tests/agent/test_unknown.py"
_FORGOTTEN = "it takes ten minutes of an EMR that denies the id: tests/agent/test_unknown.py"
NOT_HERE: Mapping[Key, str] = {
    (W.ACCEPTED, WS.UNWANTED, W.CANCELLED): "only a try that waits to be prepared once more can be cancelled "
    "so; tests/store does it",
    (W.PREPARING, WS.TO_REPEAT, W.ACCEPTED): "S3 or the API server is away: test_supervision.py",
    (W.READY, WS.WAITED_TOO_LONG, W.FINISHABLE): "the pool has no queue_timeout; as STEP_FAILED after that",
    (
        W.SUBMITTED,
        WS.STEP_UNDONE,
        W.READY,
    ): "a try that is queued again while it is being cancelled: tests/store",
    (
        W.SUBMITTED,
        WS.STEP_REFUSED,
        W.FINISHABLE,
    ): "three refusals with pauses: tests/agent/test_refusals.py; as STEP_FAILED",
    (W.SUBMITTED, WS.STEP_LOST_TOO_OFTEN, W.FINISHABLE): "three losses of half a minute each; as STEP_FAILED",
    (
        W.CANCELLED,
        WS.HANDED_OVER,
        W.ACCEPTED,
    ): "a clear gives the task instance another id; tests/store does it",
    (S.INTENDED, SS.SHOWN_RUNNING, S.RUNNING): _SPOKE,
    (S.INTENDED, SS.SHOWN_OVER, S.RUNNING): _SPOKE,
    (S.INTENDED, SS.ENDED_SILENTLY, S.FAILED): _MISSED,
    (S.INTENDED, SS.TIMED_OUT, S.FAILED): _MISSED,
    (S.INTENDED, SS.CANCELLED_BY_HAND, S.CANCELLED): _MISSED,
    (S.PENDING, SS.SHOWN_RUNNING, S.RUNNING): _SPOKE,
    (S.PENDING, SS.CANCELLED_BY_HAND, S.CANCELLED): "its end is shown first, and held",
    (S.PENDING, SS.ENDED_SILENTLY, S.FAILED): _MISSED,
    (S.RUNNING, SS.NEVER_BEGUN, S.LOST): "the same write as CLUSTER_OVER; tests/agent/test_never_begun.py",
    (S.PENDING, SS.TIMED_OUT, S.FAILED): _MISSED,
    (C.INTENDED, CS.SHOWN_BOOTSTRAPPING, C.BOOTSTRAPPING): _MISSED,
    (C.INTENDED, CS.SHOWN_RUNNING, C.RUNNING): _MISSED,
    (C.INTENDED, CS.SHOWN_WAITING, C.WAITING): _MISSED,
    (C.INTENDED, CS.SHOWN_TERMINATING, C.TERMINATING): _MISSED,
    (C.INTENDED, CS.SHOWN_TERMINATED, C.TERMINATED): _MISSED,
    (C.INTENDED, CS.SHOWN_TERMINATED_WITH_ERRORS, C.TERMINATED_WITH_ERRORS): _MISSED,
    (C.STARTING, CS.SHOWN_TERMINATED_WITH_ERRORS, C.TERMINATED_WITH_ERRORS): _MISSED,
    (C.STARTING, CS.SHOWN_TERMINATED, C.TERMINATED): _MISSED,
    (C.BOOTSTRAPPING, CS.SHOWN_WAITING, C.WAITING): _MISSED,
    (C.BOOTSTRAPPING, CS.SHOWN_TERMINATING, C.TERMINATING): _MISSED,
    (C.BOOTSTRAPPING, CS.SHOWN_TERMINATED, C.TERMINATED): _MISSED,
    (C.BOOTSTRAPPING, CS.SHOWN_TERMINATED_WITH_ERRORS, C.TERMINATED_WITH_ERRORS): _MISSED,
    (C.RUNNING, CS.SHOWN_TERMINATED_WITH_ERRORS, C.TERMINATED_WITH_ERRORS): _MISSED,
    (C.RUNNING, CS.SHOWN_TERMINATED, C.TERMINATED): _MISSED,
    (C.WAITING, CS.SHOWN_TERMINATED, C.TERMINATED): _MISSED,
    (C.WAITING, CS.SHOWN_TERMINATED_WITH_ERRORS, C.TERMINATED_WITH_ERRORS): _MISSED,
    **{
        (start, CS.FORGOTTEN, C.TERMINATED_WITH_ERRORS): _FORGOTTEN
        for start in (C.STARTING, C.BOOTSTRAPPING, C.RUNNING, C.WAITING, C.TERMINATING)
    },
    **{
        (edge.start, edge.event, edge.end): _LATE_LAUNCH
        for edge in CLUSTER_EDGES
        if edge.start is C.NEVER_LAUNCHED
    },
}
_BY_PHASE = {WS.PARKED, WS.REPORTED, WS.TO_REPEAT, WS.GONE}
_BY_SCHEDULER = {WS.HANDED_OVER}
_ADDED = ("agent after act add_steps",)
_FIRST: Mapping[Key, tuple[str, ...]] = {
    (S.INTENDED, SS.WRAPPER_SPOKE, S.RUNNING): _ADDED,
    (S.INTENDED, SS.ENDED_WELL, S.COMPLETED): _ADDED,
    (S.INTENDED, SS.ENDED_BADLY, S.FAILED): _ADDED,
    (S.INTENDED, SS.CLUSTER_OVER, S.LOST): _ADDED,
    (W.PREPARING, WS.FELL_SILENT, W.ACCEPTED): ("supervisor after act start",),
    (W.FINISHING, WS.FELL_SILENT, W.FINISHABLE): ("supervisor after workload airflow_state=success",),
}

LOOKS = {"list_steps", "list_clusters", "describe_cluster"}
"""Methods of ``ports.EmrApi`` without an effect."""
EMR_ACTS: Mapping[str, Life] = {
    "run_job_flow": lives.plain,
    "add_steps": lives.plain,
    "cancel_steps": lives.marked,
    "terminate_clusters": lives.plain,
}
OTHER_ACTS: Mapping[str, Life] = {
    "agent after act consume": lives.plain,
    "host after act fork": lives.plain,
    "supervisor after act start": lives.plain,
    "supervisor after act fork": lives.plain,
    "supervisor after act complete": lives.plain,
    "supervisor after act succeed": lives.plain,
    "supervisor after act finish": lives.fails,
    "supervisor after act reschedule": lives.rescheduled,
    "runner after act say Park": lives.plain,
    "runner after act say FinishBegan": lives.plain,
    "runner after act say SucceedTask": lives.plain,
}
MARKS: Mapping[str, Life] = {
    "scheduler before workload nothing>ACCEPTED handed_over": lives.plain,
    "scheduler before workload reported=2": lives.plain,
    "scheduler after workload reported=2": lives.plain,
    "agent after workload target=CANCEL": lives.marked,
    "agent after submission cancel_asked_at": lives.marked,
    "agent after submission wrapper_ended=true": lives.long,
    "agent after cluster target=END": lives.plain,
    "agent after cluster end_asked_at": lives.plain,
    "supervisor after workload airflow_state=success": lives.plain,
    "supervisor after workload airflow_state=failed": lives.fails,
    "supervisor after workload airflow_state=up_for_reschedule": lives.rescheduled,
    "supervisor after workload airflow_state=skipped": lives.skipped,
}
_TABLES: Mapping[str, tuple[Edge[StrEnum, StrEnum], ...]] = {
    "workload": WORKLOAD_EDGES,  # type: ignore[dict-item]
    "submission": SUBMISSION_EDGES,  # type: ignore[dict-item]
    "cluster": CLUSTER_EDGES,  # type: ignore[dict-item]
}


def edges() -> dict[Key, tuple[str, Edge[StrEnum, StrEnum]]]:
    """Every edge of the three tables with the entity that it belongs to."""
    return {
        (edge.start, edge.event, edge.end): (entity, edge)
        for entity, table in _TABLES.items()
        for edge in table
    }


def effectful() -> set[str]:
    """Methods of EMR's port that change something there."""
    methods = {name for name, _ in inspect.getmembers(EmrApi, inspect.isfunction) if name[0] != "_"}
    return methods - LOOKS


def points() -> list[Point]:
    """All of them, in the order of the tables."""
    found = []
    for key, (entity, edge) in edges().items():
        if key in LIFE_OF:
            event = f"{entity} {edge.start or 'nothing'}>{edge.end} {edge.event}"
            first = _FIRST.get(key, ())
            found.append(Point(name=f"{_writer(edge)} after {event}", life=LIFE_OF[key], first=first))
    found += [Point(name=f"agent after act {name}", life=EMR_ACTS[name]) for name in sorted(effectful())]
    found += [Point(name=name, life=life) for name, life in {**OTHER_ACTS, **MARKS}.items()]
    return found


def _writer(edge: Edge[StrEnum, StrEnum]) -> str:
    if edge.event in _BY_PHASE:
        return "supervisor"
    return "scheduler" if edge.event in _BY_SCHEDULER else "agent"

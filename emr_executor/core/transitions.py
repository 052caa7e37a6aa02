"""The three state machines as literal tables: nothing else says which state may follow which.

**The theory.** A row of ours (a workload, a submission, a cluster) has a *state*: what is. It
changes for one reason only: somebody *observed* something. The scheduler handed a task over, EMR
showed a step, a process wrote a result. So an edge is (start, event, end) with a sentence.
What *should* be (``target``), and what to do about it, is decided by ``core.plan`` and is no
business of these tables; a decision of ours enters them as the intent that is written before the
act (PLACED, WRITTEN, DECIDED).

**One end.** A start and an event have exactly one end. Where the world has two answers,
there are two events (STEP_LOST, STEP_LOST_TOO_OFTEN).

**Old news.** Listings of EMR and S3 come late, doubled and out of order. News is *old* when it
tells of the state in which the row is, or of one from which a way leads to it; ``apply_observation``
lets it change nothing. An end that was seen is never unseen: no state that is over has a way out,
with two exceptions. A workload that the scheduler hands over again starts anew, and a launch that
was given up and shows after all is ours and must be ended.

**Skipped states.** We poll every few seconds and miss some. The first news of a submission may be
its end, and a cluster may be WAITING when we last knew it STARTING. Such an edge stands in the
table by itself, so that every *written* change, from the state as read to the state as written,
is one edge. ``check_change`` holds each guarded write of the steering agent to that.

**An impossible transition** is a bug of ours, or a world that the design excludes. It is never
guessed around: InvalidTransition is raised, and the agent quarantines that one row and goes on
with all others (docs/architecture.md, "Quarantine").

The diagrams and lists of docs/states.md are made from this file by ``make docs``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any, Generic, TypeVar

from emr_executor.core.model import Cluster, Submission, Workload
from emr_executor.core.states import ClusterState, SubmissionState, WorkloadState
from emr_executor.errors import InvalidTransition

Row = Workload | Submission | Cluster

State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Edge(Generic[State, Event]):
    """One move: from ``start`` (None: there was no row), because of ``event``, to ``end``."""

    start: State | None
    event: Event
    end: State
    why: str
    """One sentence: who observed it, or what it means."""


def _each(starts: tuple[State, ...], event: Event, end: State, why: str) -> list[Edge[State, Event]]:
    """The edge from each of the states."""
    return [Edge(start, event, end, why) for start in starts]


class StateMachine(Generic[State, Event]):
    """All edges of one kind of row.

    entity: ``workload``, ``submission`` or ``cluster``
    pairs: every (start, end) that some edge has
    """

    def __init__(self, entity: str, edges: tuple[Edge[State, Event], ...]) -> None:
        self.entity, self.edges = entity, edges
        self.pairs = frozenset((edge.start, edge.end) for edge in edges)
        self._ends = {(edge.start, edge.event): edge.end for edge in edges}
        if len(self._ends) != len(edges):
            raise ValueError(f"{entity}: two edges have the same start and event")
        self._past: defaultdict[Event, set[State]] = defaultdict(set)
        for edge in edges:
            self._past[edge.event].add(edge.end)
        for past in self._past.values():
            while more := {edge.end for edge in edges if edge.start in past} - past:
                past.update(more)

    def end_of(self, start: State | None, event: Event) -> State | None:
        """The end of the one edge that fits, or None."""
        return self._ends.get((start, event))

    def is_old(self, start: State, event: Event) -> bool:
        """Whether the news tells of the very state, or of one from which a way leads to it."""
        return start in self._past[event]

    def ends(self, *events: Event) -> dict[State | None, State]:
        """End by start of all edges with one of the events, in the order of the table."""
        return {edge.start: edge.end for edge in self.edges if edge.event in events}


def transition(
    table: StateMachine[State, Event], start: State | None, event: Event, *, row: str = ""
) -> State:
    """The state after an event. Raises InvalidTransition naming ``row``: no such edge."""
    end = table.end_of(start, event)
    if end is None:
        raise InvalidTransition(table.entity, start or "nothing", event, row=row)
    return end


def apply_observation(
    table: StateMachine[State, Event], start: State, event: Event, *, row: str = ""
) -> State:
    """The state after news that may be late or doubled: ``start`` where it is old.

    Raises InvalidTransition: news that is neither old nor possible.
    """
    end = table.end_of(start, event)
    if end is None and table.is_old(start, event):
        return start
    return transition(table, start, event, row=row) if end is None else end


class WorkloadEvent(StrEnum):
    """What is observed of a workload."""

    HANDED_OVER = auto()
    """The scheduler handed the task instance over (``queue_workload``, or adoption of a lost one)."""
    CLAIMED = auto()
    """An agent claimed the phase for a process of its own."""
    PARKED = auto()
    """The prepare phase wrote the rendered step."""
    REPORTED = auto()
    """Airflow's Execution API took the try's state from the phase, or from the agent that gave up."""
    TO_REPEAT = auto()
    """The phase's process said that it must run again (S3, API server or DAG file away)."""
    FELL_SILENT = auto()
    """The phase's process is gone, or its claim did not beat for ``claim_s``."""
    GONE = auto()
    """The Execution API told the phase that Airflow no longer wants the try (404, 409, 410)."""
    UNWANTED = auto()
    """Its target is CANCEL and nothing of it is alive."""
    PLACED = auto()
    """The plan gave it a slot: its next submission is written with it, before AddJobFlowSteps."""
    WAITED_TOO_LONG = auto()
    """No slot came within the pool's ``queue_timeout``."""
    STEP_NEVER_ADDED = auto()
    """EMR certainly does not have the step."""
    STEP_REFUSED = auto()
    """EMR refused the step, alone and several times, for what it is; or no step can be made of it."""
    STEP_UNDONE = auto()
    """We cancelled its step, and Airflow wants the try again or its wait is over."""
    STEP_LOST_UNSTARTED = auto()
    """Its submission is LOST, and had not begun to run."""
    STEP_LOST = auto()
    """Its submission is LOST, and ``max_submissions`` is not reached."""
    STEP_LOST_TOO_OFTEN = auto()
    """Its submission is LOST, and so were all others that it may have."""
    STEP_COMPLETED = auto()
    """Its submission is COMPLETED."""
    STEP_FAILED = auto()
    """Its submission is FAILED."""
    STEP_CANCELLED = auto()
    """Its submission is CANCELLED, by a person."""
    STEP_TIMED_OUT = auto()
    """Its submission ended at the task's ``execution_timeout``."""


class SubmissionEvent(StrEnum):
    """What is observed of a submission."""

    WRITTEN = auto()
    """The intent is written."""
    ADDED = auto()
    """AddJobFlowSteps answered with a step id."""
    NEVER_ADDED = auto()
    """EMR refused AddJobFlowSteps, or a complete ListSteps does not show the step long after it."""
    SHOWN_PENDING = auto()
    """ListSteps shows the step, not started."""
    SHOWN_RUNNING = auto()
    """ListSteps shows that the step started."""
    SHOWN_OVER = auto()
    """ListSteps shows the step in an end state; what that means is not known yet."""
    WRAPPER_SPOKE = auto()
    """The step's wrapper wrote a record."""
    ENDED_WELL = auto()
    """The wrapper reported exit code 0, or EMR shows COMPLETED."""
    ENDED_BADLY = auto()
    """The wrapper reported another exit code, on a cluster that is not ending."""
    ENDED_SILENTLY = auto()
    """EMR shows it over without a final record, and its cluster outlived ``loss_hold_s``."""
    NEVER_BEGUN = auto()
    """It failed before its wrapper could start the command: S3 was away, or the disk was full."""
    TIMED_OUT = auto()
    """It is over, and the deadline was the reason."""
    CANCELLED_BY_US = auto()
    """It is over after we asked EMR to cancel it: unwanted, overdue, or to run elsewhere."""
    CANCELLED_BY_HAND = auto()
    """EMR shows it cancelled though we never asked, and its cluster outlived ``loss_hold_s``."""
    CLUSTER_OVER = auto()
    """Its cluster is over, so nothing of it can be alive; or is ending, and EMR shows that it never began."""


class ClusterEvent(StrEnum):
    """What is observed of a cluster. SHOWN_x: ListClusters or DescribeCluster shows the state x."""

    DECIDED = auto()
    """The plan wants it: the intent is written before RunJobFlow."""
    LAUNCHED = auto()
    """RunJobFlow answered with a cluster id."""
    REFUSED = auto()
    """EMR refused RunJobFlow, or was certainly not reached."""
    NEVER_SHOWN = auto()
    """RunJobFlow had no answer, and EMR shows no such Name within ``launch_unknown_s``."""
    FORGOTTEN = auto()
    """EMR answers that it does not know the id (any more)."""
    SHOWN_STARTING = auto()
    """EC2 provisions instances."""
    SHOWN_BOOTSTRAPPING = auto()
    """Bootstrap actions run."""
    SHOWN_RUNNING = auto()
    """A step runs."""
    SHOWN_WAITING = auto()
    """Up, and no step runs."""
    SHOWN_TERMINATING = auto()
    """It is shutting down."""
    SHOWN_TERMINATED = auto()
    """Over, on request or idle."""
    SHOWN_TERMINATED_WITH_ERRORS = auto()
    """Over, for a reason of EMR's or EC2's."""


W, S, C = WorkloadState, SubmissionState, ClusterState
WS, SS, CS = WorkloadEvent, SubmissionEvent, ClusterEvent
WorkloadEdge = Edge[WorkloadState, WorkloadEvent]
SubmissionEdge = Edge[SubmissionState, SubmissionEvent]
ClusterEdge = Edge[ClusterState, ClusterEvent]

WORKLOAD_EDGES: tuple[WorkloadEdge, ...] = (
    Edge(None, WS.HANDED_OVER, W.ACCEPTED, "It stands and falls with Airflow's own QUEUED."),
    Edge(W.ACCEPTED, WS.CLAIMED, W.PREPARING, "User code may run from here on."),
    Edge(W.ACCEPTED, WS.UNWANTED, W.CANCELLED, "No user code of it has run."),
    Edge(W.PREPARING, WS.PARKED, W.READY, "The process ended inside the operator's Spark call."),
    Edge(W.PREPARING, WS.REPORTED, W.FINISHED, "It needed no step, or failed before there was one."),
    Edge(W.PREPARING, WS.TO_REPEAT, W.ACCEPTED, "It waits for its next attempt."),
    Edge(W.PREPARING, WS.FELL_SILENT, W.ACCEPTED, "The steering agent freed the claim."),
    Edge(W.PREPARING, WS.GONE, W.CANCELLED, "There is no step that could be alive."),
    Edge(W.READY, WS.PLACED, W.SUBMITTED, "The agent that steers wrote both rows in one transaction."),
    Edge(W.READY, WS.WAITED_TOO_LONG, W.FINISHABLE, "User code hears that the try failed."),
    Edge(W.READY, WS.UNWANTED, W.CANCELLED, "Its step was on no cluster."),
    Edge(W.SUBMITTED, WS.STEP_NEVER_ADDED, W.READY, "No loss is counted."),
    Edge(W.SUBMITTED, WS.STEP_REFUSED, W.FINISHABLE, "The outcome is FAILED, with EMR's words."),
    Edge(W.SUBMITTED, WS.STEP_UNDONE, W.READY, "It waits again, with its place in the queue."),
    Edge(W.SUBMITTED, WS.STEP_LOST_UNSTARTED, W.READY, "It runs elsewhere; no loss is counted."),
    Edge(W.SUBMITTED, WS.STEP_LOST, W.READY, "It runs elsewhere, without an Airflow retry."),
    Edge(W.SUBMITTED, WS.STEP_LOST_TOO_OFTEN, W.FINISHABLE, "The outcome is LOST."),
    Edge(W.SUBMITTED, WS.STEP_COMPLETED, W.FINISHABLE, "The outcome is SUCCEEDED."),
    Edge(W.SUBMITTED, WS.STEP_FAILED, W.FINISHABLE, "The outcome is FAILED; Airflow's retries decide."),
    Edge(W.SUBMITTED, WS.STEP_CANCELLED, W.FINISHABLE, "The outcome is CANCELLED."),
    Edge(W.SUBMITTED, WS.STEP_TIMED_OUT, W.FINISHABLE, "The outcome is TIMED_OUT."),
    Edge(W.SUBMITTED, WS.UNWANTED, W.CANCELLED, "Its last submission has ended, however it did."),
    Edge(W.FINISHABLE, WS.CLAIMED, W.FINISHING, "User code hears of the outcome."),
    Edge(W.FINISHABLE, WS.UNWANTED, W.CANCELLED, "Nobody hears of the outcome."),
    Edge(W.FINISHING, WS.REPORTED, W.FINISHED, "The scheduler has yet to read the outcome."),
    Edge(W.FINISHING, WS.TO_REPEAT, W.FINISHABLE, "It waits for its next attempt."),
    Edge(W.FINISHING, WS.FELL_SILENT, W.FINISHABLE, "The steering agent freed the claim."),
    Edge(W.FINISHING, WS.GONE, W.READY, "Its target is CANCEL now, so the next plan makes it CANCELLED."),
    Edge(W.FINISHED, WS.HANDED_OVER, W.ACCEPTED, "A reschedule, a foreign deferral: the try goes on."),
    Edge(W.CANCELLED, WS.HANDED_OVER, W.ACCEPTED, "Airflow queued the same task instance again."),
)

_NOT_BEGUN, _ADDED = (S.INTENDED, S.PENDING), (S.PENDING, S.RUNNING)
_LIVE = (*_NOT_BEGUN, S.RUNNING)
SUBMISSION_EDGES: tuple[SubmissionEdge, ...] = (
    Edge(None, SS.WRITTEN, S.INTENDED, "Before AddJobFlowSteps; its id travels in the step's Name."),
    Edge(S.INTENDED, SS.ADDED, S.PENDING, "EMR has the step."),
    Edge(S.INTENDED, SS.NEVER_ADDED, S.LOST, "No step of it exists, so it may be submitted again."),
    Edge(S.INTENDED, SS.SHOWN_PENDING, S.PENDING, "The answer was lost; the Name told."),
    *_each(_NOT_BEGUN, SS.SHOWN_RUNNING, S.RUNNING, "It got its slot."),
    *_each(_NOT_BEGUN, SS.SHOWN_OVER, S.RUNNING, "It ended between two polls: held until settled."),
    *_each(_NOT_BEGUN, SS.WRAPPER_SPOKE, S.RUNNING, "Seen within seconds, without a call of EMR's API."),
    *_each(_LIVE, SS.ENDED_WELL, S.COMPLETED, "The step's own end."),
    *_each(_LIVE, SS.ENDED_BADLY, S.FAILED, "The task's own failure."),
    *_each(_LIVE, SS.ENDED_SILENTLY, S.FAILED, "The cluster stayed whole, so it is the task's failure."),
    *_each(_LIVE, SS.TIMED_OUT, S.FAILED, "The wrapper ended it, or we did when the wrapper had not."),
    *_each(_ADDED, SS.CANCELLED_BY_US, S.CANCELLED, "Its workload is CANCELLED, or waits again."),
    *_each(_LIVE, SS.CANCELLED_BY_HAND, S.CANCELLED, "A person decided, so the task fails."),
    *_each(_LIVE, SS.CLUSTER_OVER, S.LOST, "To be run elsewhere."),
    Edge(S.RUNNING, SS.NEVER_BEGUN, S.LOST, "Not the task's fault: to be run elsewhere."),
)

SHOWN = {C[event.name[6:]]: event for event in CS if event.name.startswith("SHOWN_")}
"""What it means that EMR shows a state. INTENDED and NEVER_LAUNCHED are ours: EMR has no such state."""


def _shown(starts: tuple[ClusterState, ...], ends: tuple[ClusterState, ...], why: str) -> list[ClusterEdge]:
    return [edge for end in ends for edge in _each(starts, SHOWN[end], end, why)]


_COMING, _UP = (C.STARTING, C.BOOTSTRAPPING), (C.RUNNING, C.WAITING)
_THERE, _ENDED = (*_COMING, *_UP, C.TERMINATING), (C.TERMINATED, C.TERMINATED_WITH_ERRORS)
CLUSTER_EDGES: tuple[ClusterEdge, ...] = (
    Edge(None, CS.DECIDED, C.INTENDED, "Before RunJobFlow; its uuid travels in the cluster's Name."),
    Edge(C.INTENDED, CS.LAUNCHED, C.STARTING, "EMR has the cluster."),
    Edge(C.INTENDED, CS.REFUSED, C.NEVER_LAUNCHED, "The pool's next launch is held back for a while."),
    Edge(C.INTENDED, CS.NEVER_SHOWN, C.NEVER_LAUNCHED, "Its place under max_clusters is free again."),
    *_shown((C.INTENDED,), (*_COMING, *_UP), "The answer was lost; the Name told."),
    *_shown((C.INTENDED,), (C.TERMINATING, *_ENDED), "It ended before we ever saw it up."),
    *_shown((C.STARTING,), (C.BOOTSTRAPPING,), "EC2 gave the instances."),
    *_shown(_COMING, _UP, "Up; steps that wait for it begin."),
    *_shown((C.WAITING,), (C.RUNNING,), "A step began."),
    *_shown((C.RUNNING,), (C.WAITING,), "Its last step ended."),
    *_shown((C.STARTING,), (C.TERMINATING,), "No capacity, a bad template, or ended by us or a person."),
    *_shown((C.BOOTSTRAPPING,), (C.TERMINATING,), "A bootstrap action failed, or ended by us or a person."),
    *_shown(_UP, (C.TERMINATING,), "Ended by us or a person, idle, or at fault."),
    *_shown((*_COMING, *_UP), _ENDED, "TERMINATING was missed."),
    *_shown((C.TERMINATING,), _ENDED, "Now its submissions are LOST."),
    *_each(_THERE, CS.FORGOTTEN, C.TERMINATED_WITH_ERRORS, "It was there and is gone."),
    *_shown((C.NEVER_LAUNCHED,), (*_COMING, *_UP), "Given up, there after all: ours, so it is ended."),
    *_shown((C.NEVER_LAUNCHED,), (C.TERMINATING, *_ENDED), "Given up, and ending or over by itself."),
)

WORKLOAD = StateMachine("workload", WORKLOAD_EDGES)
SUBMISSION = StateMachine("submission", SUBMISSION_EDGES)
CLUSTER = StateMachine("cluster", CLUSTER_EDGES)


def entity_of(row: Row) -> str:
    """``workload``, ``submission`` or ``cluster``."""
    return _KINDS[type(row)][0].entity


def id_of(row: Row) -> str:
    """The row's key."""
    return str(getattr(row, _KINDS[type(row)][1]))


def check_change(old: Row | None, new: Row) -> None:
    """Hold a change that is about to be written to the table of its row; ``old`` None: a new row.

    Raises InvalidTransition naming the row: no edge leads from the one state to the other. Every store calls
    this for every change of ``apply``, before it writes any.
    """
    start = None if old is None else old.state
    if start == new.state:
        return
    table, _ = _KINDS[type(new)]
    if (start, new.state) not in table.pairs:
        raise InvalidTransition(table.entity, start or "nothing", f"a change to {new.state}", row=id_of(new))


_KINDS: dict[type[Row], tuple[StateMachine[Any, Any], str]] = {
    Workload: (WORKLOAD, "workload_id"),
    Submission: (SUBMISSION, "submission_id"),
    Cluster: (CLUSTER, "cluster_uuid"),
}

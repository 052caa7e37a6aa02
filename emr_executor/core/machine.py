"""What a table of states is: edges, the one move that each allows, and which news is old.

The tables themselves, and the theory behind them, are in ``core.transitions``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from emr_executor.errors import InvalidTransition

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
        after = _reachable(edges)
        past: defaultdict[Event, set[State]] = defaultdict(set)
        for edge in edges:
            past[edge.event] |= {edge.end, *after.get(edge.end, ())}
        self._past: Mapping[Event, set[State]] = dict(past)

    def end_of(self, start: State | None, event: Event) -> State | None:
        """The end of the one edge that fits, or None."""
        return self._ends.get((start, event))

    def is_old(self, start: State, event: Event) -> bool:
        """Whether the news tells of the very state, or of one from which a way leads to it."""
        return start in self._past.get(event, ())

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


def _reachable(edges: tuple[Edge[State, Event], ...]) -> dict[State, set[State]]:
    after: defaultdict[State, set[State]] = defaultdict(set)
    for edge in edges:
        if edge.start is not None:
            after[edge.start].add(edge.end)
    # As many rounds as there are states: no way without a circle is longer.
    for _ in range(len(after)):
        for start, ends in list(after.items()):
            after[start] = ends.union(*(after.get(end, set()) for end in ends))
    return dict(after)

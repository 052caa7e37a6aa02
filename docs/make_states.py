"""Writes docs/states.md from the tables in ``emr_executor.core.transitions``: ``make docs``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from inspect import getsource
from pathlib import Path
from typing import Any

from emr_executor.core.states import ClusterState, SubmissionState, WorkloadState
from emr_executor.core.transitions import (
    CLUSTER,
    SUBMISSION,
    WORKLOAD,
    ClusterEvent,
    StateMachine,
    SubmissionEvent,
    WorkloadEvent,
)

HEAD = """\
# States of workloads, submissions and clusters

`make docs` makes this page from the tables in `emr_executor/core/transitions.py`; a test fails where the two
differ. The theory is at the top of that file. An edge is there because somebody observed something; what to
do about it is decided elsewhere (`core/plan.py`). What no edge allows is a bug: the row goes into
[quarantine](architecture.md#quarantine) and all others go on.

- A **workload** is a task instance that the scheduler handed over.
- A **submission** is one time that it was put on a cluster as an EMR step.
- A **cluster** is one RunJobFlow of ours. Its states are EMR's, between two of our own.
"""
PAGES: tuple[tuple[str, StateMachine[Any, Any], type[StrEnum], type[StrEnum]], ...] = (
    ("Workload", WORKLOAD, WorkloadState, WorkloadEvent),
    ("Submission", SUBMISSION, SubmissionState, SubmissionEvent),
    ("Cluster", CLUSTER, ClusterState, ClusterEvent),
)


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(part for one in PAGES for part in _machine(*one))])


def _machine(
    name: str, table: StateMachine[Any, Any], states: type[StrEnum], events: type[StrEnum]
) -> list[str]:
    return [
        f"## {name}\n",
        _diagram(table),
        _listed("state", "means", _sentences(states)),
        _listed("event", "who saw what", _sentences(events)),
        _rows(("from", "event", "to", "what it means"), _moves(table)),
    ]


def _moves(table: StateMachine[Any, Any]) -> list[tuple[str, ...]]:
    """One row for all edges that differ in their start alone."""
    starts: dict[tuple[str, str, str], list[str]] = {}
    for edge in table.edges:
        starts.setdefault((edge.event, edge.end, edge.why), []).append(_code(edge.start))
    return [(", ".join(those), _code(event), _code(end), why) for (event, end, why), those in starts.items()]


def _diagram(table: StateMachine[Any, Any]) -> str:
    labels: dict[tuple[str, str], list[str]] = {}
    for edge in table.edges:
        labels.setdefault((edge.start or "[*]", edge.end), []).append(edge.event)
    over = sorted({edge.end for edge in table.edges} - {e.start for e in table.edges if _goes_on(e, table)})
    arrows = [
        f"    {start} --> {end}: {', '.join(label.replace('_', ' ') for label in seen)}"
        for (start, end), seen in labels.items()
    ]
    ends = [f"    {state} --> [*]" for state in over]
    return "\n".join(["```mermaid", "stateDiagram-v2", *arrows, *ends, "```", ""])


def _goes_on(edge: Any, table: StateMachine[Any, Any]) -> bool:
    """Whether the edge leads on, and not out of a state that is over (see the theory)."""
    anew = edge.event is WorkloadEvent.HANDED_OVER
    return not anew and not (table is CLUSTER and edge.start is ClusterState.NEVER_LAUNCHED)


def _sentences(kind: type[StrEnum]) -> list[tuple[str, str]]:
    """Each member with the sentence that stands under it in the source."""
    said = dict(
        re.findall(r'^    (\w+) = [^\n]+\n    """(.*?)"""', getsource(kind), flags=re.DOTALL | re.MULTILINE)
    )
    return [(member.value, " ".join(said[member.name].replace("``", "`").split())) for member in kind]


def _listed(what: str, says: str, pairs: Iterable[tuple[str, str]]) -> str:
    return _rows((what, says), [(_code(name), sentence) for name, sentence in pairs])


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _code(name: str | None) -> str:
    return f"`{name}`" if name else "(nothing)"


if __name__ == "__main__":
    Path(__file__).with_name("states.md").write_text(page())

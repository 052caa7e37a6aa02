"""What is kept and told of a row that is put in quarantine. The rules are in docs/architecture.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeGuard, TypeVar

import structlog

from emr_executor.core.model import Cluster, HistoryEntry, Submission, Workload
from emr_executor.core.transitions import Row, entity_of, id_of
from emr_executor.errors import Bug, InvalidTransition
from emr_executor.store.agent_store import AgentStore

STORY_LINES = 20
"""Lines of the row's history that are kept with it: history itself is purged by age."""
LONGEST_LINE = 300

log = structlog.get_logger(__name__)

Kind = TypeVar("Kind", Workload, Submission, Cluster)


def reason_of(error: Exception) -> str:
    """What went wrong, on one line."""
    text = str(error) if isinstance(error, Bug) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:LONGEST_LINE]


def quarantined(row: Row, error: Exception) -> Row:
    """The row as it is stored, with the reason why nothing is decided on it any more."""
    return replace(row, quarantine=reason_of(error))


def is_free(row: Kind | None) -> TypeGuard[Kind]:
    """Whether the row is there and nothing holds decisions on it back."""
    return row is not None and row.quarantine is None


async def with_story(store: AgentStore, row: Row) -> Row:
    """The quarantined row with its past, one line each, under the reason. Raises StoreBusy."""
    story = _lines(await store.story(entity_of(row), id_of(row), STORY_LINES))
    return replace(row, quarantine="\n".join((row.quarantine or "", *story)))


def report(row: Row, error: Exception) -> None:
    """Log what was stored: once for each row, since it stays in quarantine."""
    reason, *story = (row.quarantine or "").split("\n")
    # A traceback says where other errors come from; of an edge that is missing it says nothing.
    trace = None if isinstance(error, InvalidTransition) else error
    log.error("quarantined", entity=entity_of(row), row=id_of(row), why=reason, story=story, exc_info=trace)


def _lines(story: Iterable[HistoryEntry]) -> list[str]:
    lines = (f"{entry.at:%Y-%m-%d %H:%M:%S} {entry.event}: {entry.text}" for entry in story)
    return [" ".join(line.split())[:LONGEST_LINE] for line in lines]

"""Rows that this release cannot read: a state that only a newer one knows, a step that is broken.

Such a row must not stop the tick for all others, and nothing may be decided on it. So it is read as a value
*in quarantine*, with stand-ins for what cannot be read that do least harm: a cluster that counts against
the cap, a step that may be running. Guarded writes send only what changed, so no stand-in is written back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError

from emr_executor.core.states import (
    ClusterState,
    ClusterTarget,
    StepState,
    SubmissionState,
    WorkloadState,
    WorkloadTarget,
)

Enum = TypeVar("Enum", bound=StrEnum)
BROKEN = (KeyError, TypeError, ValueError, AttributeError)
"""What reading a row raises where a column is not as this release writes it."""
TOLD_AT_MOST = 1000

_STAND_INS: dict[str, dict[str, StrEnum]] = {
    "workload": {"state": WorkloadState.SUBMITTED, "target": WorkloadTarget.RUN},
    "submission": {"state": SubmissionState.RUNNING, "step_state": StepState.RUNNING},
    "cluster": {"state": ClusterState.RUNNING, "target": ClusterTarget.KEEP},
}

_log = structlog.get_logger(__name__)


def as_readable(
    entity: str, its_id: str, row: Mapping[Any, Any], jsons: Mapping[str, Callable[[Any], Any]]
) -> dict[str, Any]:
    """The row with a stand-in, or None, for each column that cannot be read, and in quarantine for it.

    jsons: how the JSON columns are read
    """
    readable, problems = dict(row), []
    for column, stand_in in _STAND_INS[entity].items():
        text = row[column]
        if text is not None and not _has(type(stand_in), text):
            problems.append(f"{column} is {text!r}")
            readable[column] = stand_in.value
    for column, convert in jsons.items():
        try:
            convert(row[column])
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = "".join(f"{part}: " for part in first["loc"])
            problems.append(f"{column} is broken ({where}{first['msg']})")
            readable[column] = None
    why = (
        f"this release cannot read the row of {entity} {its_id}: {'; '.join(problems)}. "
        "If a newer release wrote it, upgrade the package on this host"
    )
    _tell_once(entity, its_id, why)
    readable["quarantine"] = row["quarantine"] or why
    return readable


@lru_cache(maxsize=TOLD_AT_MOST)
def _tell_once(entity: str, its_id: str, why: str) -> None:
    _log.error("row_unreadable", entity=entity, row=its_id, why=why)


def known_or_text(kind: type[Enum], text: str) -> Enum:
    """The member, or the text as it stands where only another release knows it: for people to read."""
    return kind(text) if _has(kind, text) else text  # type: ignore[return-value]


def _has(kind: type[StrEnum], text: str) -> bool:
    return any(member.value == text for member in kind)

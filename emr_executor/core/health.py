"""What an agent says of itself: that it lives, whether it steers, and what it cannot reach since when.

Kept in the store for people and for the executor's metrics. Nothing is decided by it: who steers is the
lease's matter, and who is alive is judged by beats, never by comparing clocks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from emr_executor.core.waiting import Holds

ERROR_CHARACTERS = 300
REPORT_S = 15.0
"""How often an agent tells of itself when nothing changes."""
SILENT_S = 3 * REPORT_S
"""An agent that told nothing for so long is silent."""


class Dependency(StrEnum):
    """What an agent needs from outside. The value is its name for people."""

    DATABASE = "Airflow's metadata database"
    """Seen in logs only: while it is away nothing can be stored."""
    EMR = "Amazon EMR"
    S3 = "Amazon S3"
    API = "the Airflow API server"
    CREDENTIALS = "AWS credentials"
    """Missing, expired, refused, or without a permission."""
    TASK_LOGS = "the folder of the task logs"
    """Its disk is full or it cannot be written for another reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """A dependency that failed when it was last used. ``error`` is redacted and short."""

    dependency: Dependency
    since: datetime
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentHealth:
    """One agent process.

    holder: its name, unique for its life, as in the lease
    steering: whether it held the lease when it told this
    beat: grows with each telling; told_at: when, by the clock of its host
    holds: what it does not ask of EMR for now
    """

    holder: str
    host: str
    pid: int
    version: str
    steering: bool
    started_at: datetime
    beat: int
    told_at: datetime
    away: tuple[Away, ...] = ()
    holds: Holds = field(default_factory=Holds)


_NAMED_SO = r"security[-_]?token|authorization|passw(?:or)?d|passphrase|secret|signature|api[-_]?key|token"
_REDACTIONS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"), "***"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "***"),
    (re.compile(r"://[^/\s:@]*:[^/\s@]+@"), "://***@"),
    (re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+"), r"\1?***"),
    (
        re.compile(
            rf"(?i)\b([\w-]*(?:{_NAMED_SO})[\w-]*['\"]?\s*[:=]\s*)(?:bearer\s+)?(?:\"[^\"]*\"|'[^']*'|[^\s,;]+)"
        ),
        r"\1***",
    ),
)


def redacted(text: str) -> str:
    """One short line of an error's text, without what looks like a credential.

    AWS repeats the request's headers, a session token among them, when it refuses a signature.
    """
    line = " ".join(text.split())
    for pattern, instead in _REDACTIONS:
        line = pattern.sub(instead, line)
    return line if len(line) <= ERROR_CHARACTERS else f"{line[: ERROR_CHARACTERS - 3]}..."

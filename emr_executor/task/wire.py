"""What agent and task host say to each other: one JSON object a line, over a pair of pipes.

Agent to host: a ``Phase``. Host to agent: ``{"id", "exit_code", "masks"}`` when its process is
gone, and once ``{"ready": true}``. Nothing here holds a token: the supervisor mints its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import TypeAdapter

from emr_executor.config import Settings
from emr_executor.core.model import Workload, WorkloadId


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One prepare or finish phase to run; which of the two, the workload's state says.

    id: the agent's number for it, echoed in the reply
    """

    id: int
    workload: Workload
    claim_token: str
    settings: Settings

    @property
    def workload_id(self) -> WorkloadId:
        """The workload whose phase this is."""
        return self.workload.workload_id


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseReply:
    """The process of phase ``id`` is gone. A negative exit code is the signal that ended it."""

    id: int
    exit_code: int
    masks: tuple[str, ...] = ()


_PHASE = TypeAdapter(Phase)
_REPLY = TypeAdapter(PhaseReply)


def phase_line(phase: Phase) -> bytes:
    """A phase as the line that the host reads."""
    return _PHASE.dump_json(phase) + b"\n"


def phase_of(line: bytes) -> Phase:
    """The phase in a line. Raises ValueError for anything else."""
    return _PHASE.validate_json(line)


def phase_id_of(line: bytes) -> int | None:
    """The number in a line that may be no valid phase, so that a refusal can be answered."""
    try:
        number = json.loads(line).get("id")
    except (ValueError, AttributeError):
        return None
    return number if isinstance(number, int) else None


def reply_line(reply: PhaseReply) -> bytes:
    """A reply as the line that the agent reads."""
    return _REPLY.dump_json(reply) + b"\n"


def reply_of(line: bytes) -> PhaseReply:
    """The reply in a line. Raises ValueError for anything else."""
    return _REPLY.validate_json(line)

"""What agent and task host say to each other: one JSON object a line, over a pair of pipes.

Agent to host: a ``Phase``. Host to agent: once ``{"ready": true}``, and ``{"begun": id}`` before a
phase's process is forked. By a second pipe, which host and phases share: a phase's report
(``{"id", "exit_code", "masks"}``, in pieces that a pipe takes whole) as the last that it does, and the host's
``{"id", "exit_code"}`` when its process is gone; who reads takes the first. Nothing here holds a token: the
supervisor mints its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from select import PIPE_BUF

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
    """Phase ``id`` is over. A negative exit code is the signal that ended its task runner or itself.

    masks: values to redact from driver output, for memory only
    """

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


def begun_line(phase_id: int) -> bytes:
    """What the host says before it forks a phase."""
    return json.dumps({"begun": phase_id}).encode() + b"\n"


def reply_line(reply: PhaseReply) -> bytes:
    """A reply as one line."""
    return _REPLY.dump_json(reply) + b"\n"


def report_lines(reply: PhaseReply) -> Iterator[bytes]:
    """A reply as lines of at most PIPE_BUF bytes, which the phases that share a pipe do not tear apart."""
    text, size = _REPLY.dump_json(reply), PIPE_BUF // 2
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    for number, piece in enumerate(pieces, start=1 - len(pieces)):
        yield b"%d %s %s\n" % (reply.id, b"more" if number else b"last", piece)


class Replies:
    """Puts the replies together that arrive line by line."""

    def __init__(self) -> None:
        self._pieces: dict[bytes, bytes] = {}

    def take(self, line: bytes) -> PhaseReply | None:
        """The reply that is whole with this line. Raises ValueError for a line that is none."""
        if line.startswith(b"{"):
            reply = _REPLY.validate_json(line)
            self._pieces.pop(b"%d" % reply.id, None)
            return reply
        number, which, piece = line.removesuffix(b"\n").split(b" ", 2)
        text = self._pieces.pop(number, b"") + piece
        if which == b"more":
            self._pieces[number] = text
            return None
        return _REPLY.validate_json(text)

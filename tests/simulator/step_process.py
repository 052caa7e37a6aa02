"""A step's process in virtual time: timers that do what ``wrapper.emr_step_wrapper`` does, seen from outside.

Its first deed is to claim its submission; when it cannot, it ends and writes nothing. A record when
the command starts, with every chunk of output, and as a sign of life; its own end at its
deadline; a final record after SIGTERM, none after SIGKILL or when the machine is gone. What ended by itself
is not terminated any more. Between the final record and EMR's own knowledge of the end passes a moment, so
"terminated" is written by a process that is still there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from emr_executor.core.model import ClusterUuid, StepRecord, SubmissionId
from emr_executor.core.states import RecordPhase
from emr_executor.wrapper.emr_step_wrapper import (
    BUSY_S,
    CLAIMED_CODE,
    DEADLINE_CODE,
    LIFE_SIGN_S,
    NO_SPEC_CODE,
    TERMINATED_CODE,
)
from tests.simulator.clock import VirtualClock
from tests.simulator.fault_profile import FaultProfile
from tests.simulator.records import Bucket

EXIT_KILLED = -9
"""The end of a process that SIGKILL or the loss of its machine ends; the others are the wrapper's."""
GRACE_S = 10.0
"""From SIGTERM to SIGKILL of the command, by the wrapper."""
CLOSING_S = 3.0
"""Longest time from the wrapper's final record to the end of its process."""
SLOW_START_S = 20.0
"""Longest time until script-runner and S3 have let the command begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScript:
    """What a step's process does. ``_s`` are virtual seconds.

    timeout_s: the deadline that its wrapper was given
    dies_slowly_s: how long it takes to die after SIGTERM, on average; the wrapper waits ``GRACE_S`` at most
    reason: the wrapper's word for an end of its own making, such as ``no_spec``
    chunks: of output, spread evenly over its life
    """

    duration_s: float = 5.0
    exit_code: int = 0
    timeout_s: float | None = None
    dies_slowly_s: float = 0.5
    reason: str = ""
    chunks: int = 0


class _Phase(Enum):
    STARTING = auto()
    RUNNING = auto()
    STOPPING = auto()
    CLOSING = auto()
    GONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the processes of all steps have in common.

    gone: called with a process and its exit code when it is no more
    touch_busy: called with a process that touches EMR's busy marker; None where nobody looks at it
    """

    loop: asyncio.AbstractEventLoop
    clock: VirtualClock
    bucket: Bucket
    profile: FaultProfile
    rng: random.Random
    gone: Callable[[StepProcess, int], None]
    touch_busy: Callable[[StepProcess], None] | None = None


class StepProcess:
    """One step's process, from its start to its end.

    submission_id: None for a step without our wrapper
    has_begun: whether its command ever ran: it had the claim, and was not ended before
    """

    def __init__(
        self,
        machine: Machine,
        *,
        cluster_id: str,
        step_id: str,
        script: StepScript,
        submission_id: SubmissionId | None,
        cluster_uuid: ClusterUuid,
        is_silent: bool,
    ) -> None:
        self.cluster_id, self.step_id, self.script = cluster_id, step_id, script
        self.submission_id, self.cluster_uuid = submission_id, cluster_uuid
        self._machine, self._is_silent = machine, is_silent or submission_id is None
        self.has_begun = False
        self._phase: _Phase = _Phase.STARTING
        self._timer: asyncio.TimerHandle | None = None
        self._ended_with: int | None = None
        self._end: tuple[int, str] = (script.exit_code, script.reason)
        self._started_at = self._end_at = 0.0
        self._began_at: datetime | None = None
        self._chunks = self._writes = 0

    # -- what happens to it ----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; on a good day at once."""
        profile, rng = self._machine.profile, self._machine.rng
        if self._is_silent or not profile.happens("slow", "wrapper", rng):
            self._begin()
        else:
            self._later(rng.uniform(0.0, SLOW_START_S), self._begin)

    def terminate(self) -> None:
        """SIGTERM."""
        match self._phase:
            case _Phase.STARTING:
                # It has no claim, so the record is not its own.
                self._phase = _Phase.CLOSING
                self._later(self._machine.rng.uniform(0.0, CLOSING_S), self._leave, TERMINATED_CODE)
            case _Phase.RUNNING:
                self._stop(TERMINATED_CODE, "terminated")
            case _Phase.STOPPING:
                # Asked again, or asked at its deadline: the wrapper kills the command at once.
                self._close(*self._end)

    def kill(self) -> None:
        """SIGKILL, or the machine is gone: no final record."""
        self._leave(EXIT_KILLED)

    def fail(self, exit_code: int) -> None:
        """The command fails by itself now, as when its executors are gone. Codes below 0 are signals."""
        if self._phase is _Phase.RUNNING:
            self._close(exit_code if exit_code >= 0 else 128 - exit_code, "")

    # -- its life --------------------------------------------------------------------------------------

    def _begin(self) -> None:
        script = self.script
        if self.submission_id and self._machine.profile.happens(
            "claims_refused", "wrapper", self._machine.rng
        ):
            self._leave(NO_SPEC_CODE)
            return
        if (
            self.submission_id
            and self._machine.bucket.claim(self.submission_id, self.step_id) != self.step_id
        ):
            self._leave(CLAIMED_CODE)
            return
        self.has_begun, self._phase = True, _Phase.RUNNING
        self._started_at, self._began_at = self._machine.loop.time(), self._machine.clock.now()
        is_late = script.timeout_s is not None and script.timeout_s < script.duration_s
        life_s = script.timeout_s if is_late and script.timeout_s is not None else script.duration_s
        self._end_at = self._started_at + life_s
        if not script.reason:  # one that never began writes its final record only
            self._write(RecordPhase.RUNNING)
        self._go_on()

    def _go_on(self) -> None:
        """Set the timer for what comes next: a chunk, a sign of life, or the end."""
        machine, script, now = self._machine, self.script, self._machine.loop.time()
        due, act = self._end_at, self._come_to_end
        if machine.touch_busy is not None or not self._is_silent:
            sign_at = now + (LIFE_SIGN_S if machine.touch_busy is None else BUSY_S)
            if self._chunks < script.chunks and not self._is_silent:
                chunk_at = self._started_at + script.duration_s * (self._chunks + 1) / (script.chunks + 1)
                sign_at = min(sign_at, max(now, chunk_at))
            if sign_at < due:
                due, act = sign_at, self._give_sign
        self._timer = machine.loop.call_at(due, act)

    def _give_sign(self) -> None:
        machine, script = self._machine, self.script
        past = (machine.loop.time() - self._started_at) / script.duration_s
        while self._chunks < script.chunks and (self._chunks + 1) / (script.chunks + 1) <= past + 1e-9:
            self._put_chunk()
        if machine.touch_busy is not None:
            machine.touch_busy(self)
        self._write(RecordPhase.RUNNING)
        self._go_on()

    def _come_to_end(self) -> None:
        script = self.script
        if script.timeout_s is not None and script.timeout_s < script.duration_s:
            self._stop(DEADLINE_CODE, "timeout")
        else:
            while self._chunks < script.chunks:
                self._put_chunk()
            self._close(script.exit_code, script.reason)

    def _stop(self, exit_code: int, reason: str) -> None:
        """SIGTERM to the command, and in the end SIGKILL."""
        self._phase, self._end = _Phase.STOPPING, (exit_code, reason)
        dies_s = self._machine.rng.uniform(0.0, 2 * self.script.dies_slowly_s)
        self._later(min(dies_s, GRACE_S), self._close, exit_code, reason)

    def _close(self, exit_code: int, reason: str) -> None:
        """The command is over: the final record, and soon the process is gone."""
        self._phase, self._ended_with = _Phase.CLOSING, exit_code
        self._write(RecordPhase.ENDED, exit_code=exit_code, reason=reason)
        self._end = (exit_code, reason)
        self._later(self._machine.rng.uniform(0.0, CLOSING_S), self._leave, exit_code)

    def _leave(self, exit_code: int) -> None:
        if self._phase is not _Phase.GONE:
            self._phase = _Phase.GONE
            self._cancel_timer()
            self._machine.gone(self, exit_code)

    @property
    def ended_well(self) -> bool:
        """Whether its command ended with exit code 0, whoever came to know of it."""
        return self._ended_with == 0

    @property
    def ended_badly(self) -> bool:
        """Whether its command ended by itself with another exit code, or at its deadline."""
        return self._ended_with not in (None, 0, TERMINATED_CODE)

    def _later(self, delay_s: float, act: Callable[..., None], *args: object) -> None:
        self._cancel_timer()
        self._timer = self._machine.loop.call_later(delay_s, act, *args)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- its words -------------------------------------------------------------------------------------

    def _put_chunk(self) -> None:
        self._chunks += 1
        if self.submission_id is not None:
            chunk = f"{self.step_id}: line {self._chunks}\n".encode()
            self._machine.bucket.output[self.submission_id, self._chunks] = chunk

    def _write(self, phase: RecordPhase, *, exit_code: int | None = None, reason: str = "") -> None:
        if self._is_silent or self.submission_id is None:
            return
        machine, profile = self._machine, self._machine.profile
        self._writes += 1
        late_s = 0.0
        record: StepRecord | None = StepRecord(
            submission_id=self.submission_id,
            cluster_uuid=self.cluster_uuid,
            mark=f"{self.step_id}/{self._writes}",
            phase=phase,
            at=machine.clock.now(),
            started_at=self._began_at,
            exit_code=exit_code,
            reason=reason,
            chunks=self._chunks,
            tail="ValueError: simulated\n" if exit_code else "",
        )
        if profile.records_late_s and not profile.is_calm:
            profile.counts["records_late_s"] += 1
            late_s = machine.rng.uniform(0.0, profile.records_late_s)
        if profile.happens("records_unreadable", "records", machine.rng):
            record = None
        machine.bucket.write(self.submission_id, record, visible_at=machine.clock.monotonic() + late_s)

"""The model of EMR in virtual time, with step processes that are timers and write the wrapper's records.

A timer step does what ``wrapper.emr_step_wrapper`` does, as far as others can see it: a record when it
starts and one when it ends, its own end at its deadline, last words after SIGTERM, none after SIGKILL or
when the machine is gone. Between its last words and EMR's own knowledge of its end passes a moment.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from emr_executor.aws.step import submission_of_step_name
from emr_executor.core.model import ClusterUuid, StepRecord, SubmissionId
from emr_executor.core.states import RecordPhase
from emr_executor.local.behaviour import EmrModel, KillProcess, ModelOptions, StartProcess
from emr_executor.simulation.clock import VirtualClock
from emr_executor.simulation.records import Bucket
from emr_executor.simulation.weather import Weather

EXIT_TIMEOUT = 124
EXIT_TERMINATED = 143
EXIT_KILLED = -9
NODE_LOST_EXIT = 1
OUTPUT = b"simulated output\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScript:
    """What a step's process does. ``_s`` are virtual seconds.

    timeout_s: the deadline that its wrapper was given
    dies_slowly_s: how long it takes to die after SIGTERM
    writes: whether it has output
    """

    duration_s: float = 5.0
    exit_code: int = 0
    timeout_s: float | None = None
    dies_slowly_s: float = 0.5
    writes: bool = False


@dataclass(slots=True, eq=False)
class _Process:
    """A step's process. ``is_ending``: it has come to its end, which is not yet reported to EMR."""

    cluster_id: str
    step_id: str
    script: StepScript
    submission_id: SubmissionId | None
    cluster_uuid: ClusterUuid
    is_silent: bool
    timer: asyncio.TimerHandle | None = None
    marks: int = 0
    is_ending: bool = False


class Cloud:
    """EMR and the machines of its clusters.

    script_of: what the step of a submission does; None where nobody knows (steps of other people)
    clock: the true one
    ended_well: steps whose command ended with exit code 0, whatever EMR came to show of them
    """

    def __init__(
        self,
        *,
        clock: VirtualClock,
        options: ModelOptions,
        weather: Weather,
        rng: random.Random,
        script_of: Callable[[SubmissionId], StepScript | None],
    ) -> None:
        self.model = EmrModel(options, id_seed=f"cloud/{rng.random()}")
        self.bucket = Bucket()
        self.ended_well: set[str] = set()
        self._clock, self._weather, self._rng, self._script_of = clock, weather, rng, script_of
        self._processes: dict[str, _Process] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    @property
    def now_s(self) -> float:
        """Epoch seconds on EMR's clock."""
        return self._clock.epoch_s()

    def call(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """One API call that arrives now. Raises EmrApiError."""
        try:
            return self.model.call(operation, request, self.now_s)
        finally:
            self.settle()

    def do(self, act: Callable[[EmrModel, float], Any]) -> Any:
        """Something happens to the model now: a fault, or a person at the console."""
        try:
            return act(self.model, self.now_s)
        finally:
            self.settle()

    def settle(self) -> None:
        """Start and kill processes as the model says, and wake up when it is next due."""
        while effects := self.model.take_effects():
            for effect in effects:
                if isinstance(effect, StartProcess):
                    self._start(effect)
                elif isinstance(effect, KillProcess):
                    self._kill(effect)
        self._set_timer()

    def running_steps(self, cluster_id: str) -> list[str]:
        """Ids of the steps of a cluster whose process is alive, by their start."""
        return [p.step_id for p in self._processes.values() if p.cluster_id == cluster_id]

    def fail_step(self, step_id: str) -> None:
        """A step's process fails by itself now, as when its executors are gone."""
        process = self._processes.get(step_id)
        if process is not None and not process.is_ending:
            self._come_to_end(process, NODE_LOST_EXIT, "")

    # -- time --------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        due = self.model.next_due
        if due is None or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._later(max(0.0, due - self.now_s), self._advance)

    def _advance(self) -> None:
        self._timer = None
        # A hair more, so that rounding between two time scales never leaves the timer just ahead.
        self.model.advance(self.now_s + 1e-6)
        self.settle()

    @staticmethod
    def _later(delay_s: float, act: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay_s, act, *args)

    # -- processes ---------------------------------------------------------------------------------------

    def _start(self, effect: StartProcess) -> None:
        submission_id = submission_of_step_name(str(effect.config["Name"]))
        script = self._script_of(submission_id) if submission_id is not None else None
        args = effect.config["HadoopJarStep"].get("Args", ())
        process = _Process(
            cluster_id=effect.cluster_id,
            step_id=effect.step_id,
            script=script or StepScript(duration_s=self._rng.uniform(5, 300)),
            submission_id=submission_id if script is not None else None,
            cluster_uuid=ClusterUuid(args[args.index("--cluster") + 1] if "--cluster" in args else ""),
            is_silent=script is None or self._weather.happens("records_silent", "records", self._rng),
        )
        self._processes[effect.step_id] = process
        self._write(process, RecordPhase.RUNNING)
        script = process.script
        if script.timeout_s is not None and script.timeout_s < script.duration_s:
            end = (script.timeout_s, EXIT_TIMEOUT, "timeout")
        else:
            end = (script.duration_s, script.exit_code, "")
        process.timer = self._later(end[0], self._come_to_end, process, end[1], end[2])

    def _come_to_end(self, process: _Process, exit_code: int, reason: str) -> None:
        """The command is over: last words, and soon EMR knows."""
        if process.timer is not None:
            process.timer.cancel()
        process.is_ending = True
        if exit_code == 0:
            self.ended_well.add(process.step_id)
        if process.script.writes and process.submission_id is not None:
            self.bucket.put_output(process.submission_id, OUTPUT)
        self._write(process, RecordPhase.ENDED, exit_code=exit_code, reason=reason)
        process.timer = self._later(self._rng.uniform(0.0, 3.0), self._gone, process, exit_code)

    def _kill(self, effect: KillProcess) -> None:
        process = self._processes.get(effect.step_id)
        if process is None:
            return
        if effect.force:
            if process.timer is not None:
                process.timer.cancel()
            process.is_ending = True
            process.timer = self._later(self._rng.uniform(0.0, 1.0), self._gone, process, EXIT_KILLED)
        elif not process.is_ending:
            if process.timer is not None:
                process.timer.cancel()
            process.timer = self._later(
                self._rng.uniform(0.0, 2 * process.script.dies_slowly_s),
                self._come_to_end,
                process,
                EXIT_TERMINATED,
                "terminated",
            )

    def _gone(self, process: _Process, exit_code: int) -> None:
        self._processes.pop(process.step_id, None)
        self.do(
            lambda model, now: model.process_ended(process.cluster_id, process.step_id, exit_code, now)
        )

    def _write(
        self, process: _Process, phase: RecordPhase, *, exit_code: int | None = None, reason: str = ""
    ) -> None:
        if process.is_silent or process.submission_id is None:
            return
        process.marks += 1
        late_s = 0.0 if self._weather.is_calm else self._rng.uniform(0.0, self._weather.records_late_s)
        self.bucket.write(
            StepRecord(
                submission_id=process.submission_id,
                cluster_uuid=process.cluster_uuid,
                mark=f"{process.step_id}/{process.marks}",
                phase=phase,
                at=self._clock.now(),
                exit_code=exit_code,
                reason=reason,
                chunks=1 if phase is RecordPhase.ENDED and process.script.writes else 0,
                tail="ValueError: simulated\n" if exit_code else "",
            ),
            visible_at=self._clock.monotonic() + late_s,
        )

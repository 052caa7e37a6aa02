"""The model of EMR in virtual time, with the processes of its steps as timers (``step_process``)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

from emr_executor.aws.step import submission_of_step_name
from emr_executor.core.model import ClusterUuid, SubmissionId
from emr_executor.local.behaviour import EmrModel, KillProcess, ModelOptions, StartProcess
from emr_executor.local.requests import validation
from emr_executor.wrapper.emr_step_wrapper import CLAIMED_CODE, NO_SPEC_CODE, TERMINATED_CODE
from tests.simulator.clock import EPOCH, VirtualClock
from tests.simulator.fault_profile import FaultProfile
from tests.simulator.records import Bucket
from tests.simulator.step_process import EXIT_KILLED, Machine, StepProcess, StepScript

__all__ = ["Cloud", "StepScript"]

EPOCH_S = EPOCH.timestamp()
FOREIGN_STEP_S = (5.0, 300.0)
"""How long the steps of other people run."""
NODE_LOST_EXIT = 1


class Cloud:
    """EMR and the machines of its clusters.

    refuses: whether EMR never takes the step of a submission, nor any other of its call
    script_of: what the step of a submission does; None where nobody knows (steps of other people)
    clock: the true one
    not_begun: steps whose wrapper could not claim their submission, since S3 refused
    stood_back: steps whose wrapper started no command: another step had claimed their submission, or it was
        ended before it could ask
    ended_well, ended_badly: steps whose command ended by itself with exit code 0, or with another, whatever
        EMR came to show of them
    """

    def __init__(
        self,
        *,
        clock: VirtualClock,
        options: ModelOptions,
        profile: FaultProfile,
        rng: random.Random,
        script_of: Callable[[SubmissionId], StepScript | None],
        refuses: Callable[[SubmissionId], bool] = lambda _: False,
    ) -> None:
        self.model = EmrModel(options, id_seed=f"cloud/{rng.random()}")
        self.bucket = Bucket()
        self.not_begun: set[str] = set()
        self.stood_back: set[str] = set()
        self.ended_well: set[str] = set()
        self.ended_badly: set[str] = set()
        self._loop = asyncio.get_running_loop()
        self._profile, self._rng, self._script_of, self._refuses = profile, rng, script_of, refuses
        self._processes: dict[str, StepProcess] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._machine = Machine(
            loop=self._loop,
            clock=clock,
            bucket=self.bucket,
            profile=profile,
            rng=rng,
            gone=self._gone,
            touch_busy=None if options.running_steps_are_busy else self._touch_busy,
        )

    @property
    def now_s(self) -> float:
        """Epoch seconds on EMR's clock, which is the true one."""
        return EPOCH_S + self._loop.time()

    def call(
        self, operation: str, request: Mapping[str, Any], *, as_of: float | None = None
    ) -> dict[str, Any]:
        """One API call that arrives now; ``as_of`` as in ``EmrModel.call``. Raises EmrApiError."""
        names = [str(step["Name"]) for step in request.get("Steps", ()) if operation == "AddJobFlowSteps"]
        if any(self._refuses(one) for name in names if (one := submission_of_step_name(name))):
            raise validation("simulated: one of the steps is not what it should be")
        try:
            return self.model.call(operation, request, self.now_s, as_of=as_of)
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
        return list(self.model.running_steps(cluster_id))

    def fail_step(self, step_id: str, exit_code: int = NODE_LOST_EXIT) -> None:
        """A step's command fails by itself now, as when its executors are gone."""
        if (process := self._processes.get(step_id)) is not None:
            process.fail(exit_code)

    # -- time --------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        due = self.model.next_due
        if due is None or (self._timer is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due - EPOCH_S, self._advance)

    def _advance(self) -> None:
        self._timer = None
        # The loop's time and the model's are rounded differently: what was due when this was set is due now.
        self.model.advance(max(self.now_s, self._timer_due))
        self.settle()

    # -- processes ---------------------------------------------------------------------------------------

    def _start(self, effect: StartProcess) -> None:
        submission_id = submission_of_step_name(str(effect.config["Name"]))
        script = self._script_of(submission_id) if submission_id is not None else None
        if script is None:
            submission_id = None
        args = effect.config["HadoopJarStep"].get("Args", ())
        process = StepProcess(
            self._machine,
            cluster_id=effect.cluster_id,
            step_id=effect.step_id,
            script=script or StepScript(duration_s=self._rng.uniform(*FOREIGN_STEP_S)),
            submission_id=submission_id,
            cluster_uuid=ClusterUuid(args[args.index("--cluster") + 1] if "--cluster" in args else ""),
            is_silent=submission_id is None or self._profile.happens("records_silent", "records", self._rng),
        )
        self._processes[effect.step_id] = process
        process.start()

    def _kill(self, effect: KillProcess) -> None:
        process = self._processes.get(effect.step_id)
        if process is None:
            return
        if effect.force:
            process.kill()
        else:
            process.terminate()

    def _gone(self, process: StepProcess, exit_code: int) -> None:
        self._processes.pop(process.step_id, None)
        if exit_code == NO_SPEC_CODE and not process.ended_badly:
            self.not_begun.add(process.step_id)
        was_early = not process.has_begun and exit_code in (EXIT_KILLED, TERMINATED_CODE)
        if exit_code == CLAIMED_CODE or was_early:
            self.stood_back.add(process.step_id)
        if process.ended_well:
            self.ended_well.add(process.step_id)
        if process.ended_badly:
            self.ended_badly.add(process.step_id)
        self.model.process_ended(process.cluster_id, process.step_id, exit_code, self.now_s)
        self.settle()

    def _touch_busy(self, process: StepProcess) -> None:
        self.model.mark_busy(process.cluster_id, self.now_s)
        self.settle()

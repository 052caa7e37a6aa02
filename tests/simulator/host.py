"""``ports.TaskHost`` in virtual time: each phase in a supervisor process that outlives the agent.

The agent's ``run`` only waits for that process. The process itself belongs to the world: ``spawn`` starts it,
and killing it is the world's, which then says so (``died``), as SIGCHLD tells the real host.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from emr_executor.ports import PhaseEnded, PhaseJob
from emr_executor.task.phase_result import EXIT_BROKEN
from tests.simulator.airflow_entities import FinishEnd, PrepareEnd, TryScript
from tests.simulator.fault_profile import Shares
from tests.simulator.supervisor import PhaseSurroundings, SupervisorProcess

EXIT_KILLED = -9

Enter = Callable[[PhaseJob, Callable[[], None]], PhaseSurroundings]
"""Called for each phase with a function to call when its process is killed: what that process reaches."""
Spawn = Callable[[Coroutine[Any, Any, None]], object]
"""Runs a process's coroutine as a task of the world's, which holds a reference to it."""


@dataclass(slots=True, kw_only=True)
class PhaseFaults(Shares):
    """What goes wrong in phases, beyond what scripts say; shares of phases.

    prepare_raises, prepare_dies: of user code in prepare
    finish_dies, finish_held: of user code in finish; it is run again
    s3_fails: of stagings; ``s3_is_down`` of all
    """

    prepare_raises: float = 0.0
    prepare_dies: float = 0.0
    finish_dies: float = 0.0
    finish_held: float = 0.0
    s3_fails: float = 0.0
    s3_is_down: bool = False


class SimTaskHost:
    """One agent's task host.

    script_of: a try's script by its ti id (``AirflowModel.script_of``)
    """

    def __init__(
        self,
        *,
        capacity: int,
        script_of: Callable[[str], TryScript | None],
        enter: Enter,
        spawn: Spawn,
        rng: random.Random,
        faults: PhaseFaults | None = None,
    ) -> None:
        self._capacity, self._script_of, self._enter, self._spawn = capacity, script_of, enter, spawn
        self._rng, self.faults = rng, faults or PhaseFaults()
        self._slots = asyncio.Semaphore(capacity)
        self._waiting: dict[asyncio.Future[int], None] = {}

    @property
    def capacity(self) -> int:
        """How many phases may run at once."""
        return self._capacity

    @property
    def is_ready(self) -> bool:
        """Yes: it comes up with its agent, in no time."""
        return True

    async def start(self) -> None:
        """It is up."""

    async def run(self, job: PhaseJob) -> PhaseEnded:
        """Wait for the phase's process."""
        async with self._slots:
            ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._waiting[ended] = None

            def end(exit_code: int) -> None:
                if not ended.done():
                    ended.set_result(exit_code)

            try:
                around = self._enter(job, lambda: end(EXIT_KILLED))
                self._spawn(self._process(job, around, end))
                exit_code = await ended
            finally:
                self._waiting.pop(ended, None)
        return PhaseEnded(workload_id=job.workload_id, claim_token=job.claim_token, exit_code=exit_code)

    def die(self) -> None:
        """The agent's process is gone: nobody waits any more, running phases end by themselves."""
        for ended in list(self._waiting):
            ended.cancel()

    async def _process(self, job: PhaseJob, around: PhaseSurroundings, end: Callable[[int], None]) -> None:
        exit_code = EXIT_BROKEN
        try:
            process = SupervisorProcess(
                job,
                around,
                script=self._fated(self._script_of(job.workload_id) or TryScript()),
                s3_is_down=lambda: self.faults.s3_is_down or self._happens("s3_fails"),
                rng=self._rng,
            )
            exit_code = await process.run()
        except asyncio.CancelledError:
            exit_code = EXIT_KILLED
            raise
        finally:
            end(exit_code)

    def _fated(self, script: TryScript) -> TryScript:
        """The script, unless a fault of ours changes its end."""
        if script.prepare is PrepareEnd.PARKS:
            if self._happens("prepare_raises"):
                script = replace(script, prepare=PrepareEnd.RAISES)
            elif self._happens("prepare_dies"):
                script = replace(script, prepare=PrepareEnd.DIES)
        if self._happens("finish_dies"):
            return replace(script, finish=FinishEnd.DIES)
        if self._happens("finish_held"):
            return replace(script, finish=FinishEnd.HELD)
        return script

    def _happens(self, what: str) -> bool:
        return self.faults.happens(what, self._rng)

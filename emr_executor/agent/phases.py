"""Claims prepare and finish work and runs it on the task host, as many at once as that allows.

Every agent does this; only the one that steers frees claims whose process fell silent. What a
phase achieved is written by the phase's own process, so nothing here is lost with this agent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import structlog

from emr_executor.agent.stale import StaleWatch
from emr_executor.agent.surroundings import Surroundings
from emr_executor.agent.tasklog import agent_line
from emr_executor.core.backoff import doubled_s
from emr_executor.core.model import Workload, WorkloadId
from emr_executor.core.states import WorkloadState
from emr_executor.errors import StaleWriter, StoreBusy, TaskGone, TryAgain
from emr_executor.ports import PhaseJob

SILENT_RETRY_S = 1.0
LONGEST_SILENT_RETRY_S = 60.0
"""A phase whose process ends without a word is run again after one second, doubled with each attempt up to
this: what ends them all (a full disk, a host out of memory) may last for minutes."""

log = structlog.get_logger(__name__)


class Phases:
    """Runs phases.

    masks: what to redact from each try's driver output, in memory only
    no_runner: why the task host takes no phase now
    """

    def __init__(self, around: Surroundings, *, on_ended: Callable[[], None]) -> None:
        self._store, self._host, self._api = around.store, around.host, around.api
        self._task_log = around.task_log
        self._clock, self._settings, self._identity = around.clock, around.settings, around.identity
        self._new_token, self._on_ended = around.new_id, on_ended
        self._running: set[asyncio.Task[None]] = set()
        self._claims: StaleWatch[tuple[WorkloadId, str]] = StaleWatch(max_gap_s=around.settings.claim_s / 2)
        self.masks: dict[WorkloadId, tuple[str, ...]] = {}
        self.no_runner: str | None = None

    @property
    def running(self) -> int:
        """How many phases are under way."""
        return len(self._running)

    async def fill(self) -> None:
        """Claim and start as many phases as there is room for; finishing goes first: it frees results.

        Nothing while the host is not up, which another agent's may be. Raises TryAgain.
        """
        if not self._host.is_ready:
            self.no_runner = "the agent's task host is not up yet"
            try:
                await self._host.start()
            except TryAgain as error:
                self.no_runner = str(error)
                raise
            return
        self.no_runner = None
        if len(self._running) >= self._host.capacity:
            return
        for kind in await self._store.claimable(self._clock.now()):
            room = self._host.capacity - len(self._running)
            if room <= 0:
                return
            claimed = await self._store.claim(
                kind, room, self._identity, now=self._clock.now(), new_token=self._new_token
            )
            for workload in claimed:
                task = asyncio.ensure_future(self._guarded(workload))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def free_silent(self) -> None:
        """Give back claims whose process showed no sign of life for ``claim_s``."""
        claims = await self._store.claims()
        beats = {(workload_id, token): beat for workload_id, token, beat in claims}
        silent = self._claims.look(beats, monotonic=self._clock.monotonic())
        for (workload_id, token), silent_s in silent.items():
            if silent_s < self._settings.claim_s:
                continue
            not_before = self._clock.now() + timedelta(seconds=SILENT_RETRY_S)
            if await self._store.free_claim(workload_id, token, beats[workload_id, token], not_before):
                log.warning("phase_fell_silent", workload_id=workload_id, silent_s=round(silent_s))

    async def forget(self) -> None:
        """Let go of the masks of tries that are over, wherever they ended."""
        if known := set(self.masks):
            for workload_id in known - await self._store.live(known):
                self.masks.pop(workload_id, None)

    async def drain(self) -> None:
        """Wait for the phases that are under way."""
        while self._running:
            await asyncio.wait(self._running)

    async def _guarded(self, workload: Workload) -> None:
        try:
            await self._run(workload)
        except (TryAgain, StaleWriter) as error:
            log.warning("phase_not_run", workload_id=workload.workload_id, error=str(error))
        except Exception:
            log.exception("phase_failed_unexpectedly", workload_id=workload.workload_id)
        finally:
            self._on_ended()

    async def _run(self, workload: Workload) -> None:
        token = workload.claim_token or ""
        finishing = workload.state is WorkloadState.FINISHING
        if finishing and workload.phase_attempts > self._settings.finish_attempts:
            await self._give_up(workload, token)
            return
        try:
            ended = await self._host.run(PhaseJob(workload=workload, claim_token=token))
        except TryAgain:
            await self._free_if_unsaid(workload, token)
            raise
        if ended.masks:
            self.masks[workload.workload_id] = ended.masks
        await self._free_if_unsaid(workload, token)

    async def _free_if_unsaid(self, workload: Workload, token: str) -> None:
        """No process has the claim, or the one that had is gone: else it would be freed after ``claim_s``."""
        for workload_id, held, beat in await self._store.claims():
            if (workload_id, held) == (workload.workload_id, token):
                pause_s = doubled_s(SILENT_RETRY_S, LONGEST_SILENT_RETRY_S, failures=workload.phase_attempts)
                not_before = self._clock.now() + timedelta(seconds=pause_s)
                await self._store.free_claim(workload_id, token, beat, not_before)

    async def _give_up(self, workload: Workload, token: str) -> None:
        """The step's outcome is known and nobody can hear of it: end the try without a retry.

        A retry would run a finished step again.
        """
        outcome = workload.outcome
        verdict = outcome.verdict if outcome else "unknown"
        text = (
            f"the step ended ({verdict}), but the task could not be finished in "
            f"{self._settings.finish_attempts} attempts, because its DAG file is gone or does not parse, or "
            "for what the lines above say; the try is failed without a retry, so that the step does not run"
            " again"
        )
        now = self._clock.now()
        await self._task_log.append({workload.log_path: [agent_line(now, text, level="error")]})
        await self._store.record_intent(workload.workload_id, token, "failed")
        try:
            await self._api.fail_terminally(workload.workload_id, ended_at=now)
        except TaskGone as gone:
            await self._store.record_gone(workload.workload_id, token, str(gone), now)
            return
        try:
            await self._store.record_over(workload.workload_id, token, "failed", now)
        except StoreBusy:
            log.warning("give_up_not_stored", workload_id=workload.workload_id)

"""The loops of one agent: each at its own pace, each guarded, so that no error of one ends another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import structlog

from emr_executor.agent.emr_actions import EmrActions
from emr_executor.agent.heartbeats import Heartbeats
from emr_executor.agent.lease import LeaseKeeper
from emr_executor.agent.phases import Phases
from emr_executor.agent.record_poll import RecordPoll
from emr_executor.agent.retention_db import ROUND_INTERVAL_S, DatabaseRetention
from emr_executor.agent.steering import Steering
from emr_executor.agent.surroundings import Surroundings
from emr_executor.agent.waiting_lines import ROUND_S, LinesBetweenTicks
from emr_executor.core.waiting import Holds
from emr_executor.errors import EmrExecutorError, StaleWriter, StoreBusy, TryAgain

UNWANTED_INTERVAL_S = 5.0
IDLE_TICKS = 5
"""With nothing alive the tick is this many times slower."""
ERROR_PAUSE_S = 2.0

log = structlog.get_logger("emr_executor.agent")


class Agent:
    """The loops of one agent, each guarded: an error is told and the loop goes on."""

    def __init__(
        self,
        around: Surroundings,
        *,
        lease: LeaseKeeper,
        steering: Steering,
        records: RecordPoll,
        actions: EmrActions,
        phases: Phases,
        heartbeats: Heartbeats,
        housekeeping: DatabaseRetention,
        between_ticks: LinesBetweenTicks,
        wake_steering: asyncio.Event,
        wake_phases: asyncio.Event,
    ) -> None:
        self._settings, self._clock, self._lease = around.settings, around.clock, lease
        self.steering, self.records, self.actions, self.phases = steering, records, actions, phases
        self._heartbeats, self._housekeeping, self._between_ticks = heartbeats, housekeeping, between_ticks
        self._wake_steering, self._wake_phases = wake_steering, wake_phases
        self._stopping = asyncio.Event()
        self._rounds: dict[object, float] = {}

    @property
    def is_steering(self) -> bool:
        """Whether this agent holds the lease now."""
        return self._lease.token is not None

    @property
    def holds(self) -> Holds:
        """What the last tick did not ask of EMR."""
        return self.steering.told_holds

    @property
    def longest_round_s(self) -> float:
        """How long the slowest loop is at its present round; a round that never ends is a deadlock."""
        return self._clock.monotonic() - min(self._rounds.values(), default=self._clock.monotonic())

    def stop(self) -> None:
        """Begin the orderly end: loops stop, running phases end, the lease is handed back."""
        self._stopping.set()
        self._wake_steering.set()
        self._wake_phases.set()
        self.records.wanted.set()

    async def run(self, also: Sequence[tuple[Callable[[], Awaitable[None]], float]] = ()) -> None:
        """Run every loop until ``stop``. also: more work, each with its pause in seconds."""
        settings = self._settings
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._every(self._lease.step, self._lease.beat_interval_s))
            loops.create_task(self._steer())
            loops.create_task(self._poll_records())
            loops.create_task(self._fill_phases())
            loops.create_task(self._beat())
            loops.create_task(self._every(self._look, UNWANTED_INTERVAL_S))
            loops.create_task(self._every(self._free_silent, settings.claim_s / 6))
            loops.create_task(self._every(self._housekeeping.round, ROUND_INTERVAL_S))
            loops.create_task(self._every(self._tell_between_ticks, ROUND_S))
            for work, interval_s in also:
                loops.create_task(self._every(work, interval_s))

    async def close(self) -> None:
        """After ``run``: let the acts under way end, then hand the lease back."""
        log.info("agent_stopping", running_phases=self.phases.running)
        await self.actions.settle()
        try:
            await self._lease.release()
        except StoreBusy as error:
            log.warning("lease_not_handed_back", error=str(error))

    async def _steer(self) -> None:
        interval_s = self._settings.tick_interval_s
        while not self._stopping.is_set():
            token = self._lease.token
            alive = True
            if token is not None:
                try:
                    with self._round():
                        alive = await self.steering.tick(token)
                except StaleWriter as stale:
                    log.info("tick_dropped", why=str(stale))
                except StoreBusy as error:
                    log.debug("tick_failed", error=str(error))  # told once, by agent.dependencies
                    await self._clock.sleep(ERROR_PAUSE_S)
                except TryAgain as error:
                    log.warning("tick_failed", error=str(error))
                    await self._clock.sleep(ERROR_PAUSE_S)
                except EmrExecutorError as error:
                    log.error("tick_failed", error=str(error), kind=type(error).__name__)
                    await self._clock.sleep(ERROR_PAUSE_S)
                except Exception:
                    log.exception("tick_failed_unexpectedly")
                    await self._clock.sleep(ERROR_PAUSE_S)
                self._wake_phases.set()
            await self._pause(self._wake_steering, interval_s if alive else interval_s * IDLE_TICKS)

    async def _poll_records(self) -> None:
        while not self._stopping.is_set():
            if self._lease.token is not None:
                await self._guarded(self.records.round)
            await self._pause(self.records.wanted, self._settings.records_interval_s)

    async def _fill_phases(self) -> None:
        while not self._stopping.is_set():
            await self._guarded(self.phases.fill)
            await self._pause(self._wake_phases, self._settings.tick_interval_s)

    async def _beat(self) -> None:
        # An agent that has just taken the lease beats at once: its predecessor may have been silent for long.
        while not self._stopping.is_set():
            pause_s = self._lease.beat_interval_s
            if self._lease.token is not None:
                try:
                    with self._round():
                        pause_s = await self._heartbeats.beat()
                except TryAgain as error:
                    log.debug("heartbeats_failed", error=str(error))
                except Exception:
                    log.exception("heartbeats_failed_unexpectedly")
            await self._pause(self._stopping, pause_s, clear=False)

    async def _look(self) -> None:
        if self._lease.token is not None:
            await self._heartbeats.look()

    async def _tell_between_ticks(self) -> None:
        if self._lease.token is not None:
            await self._between_ticks.round()

    async def _free_silent(self) -> None:
        await self.phases.forget()
        if self._lease.token is not None:
            await self.phases.free_silent()

    async def _every(self, work: Callable[[], Awaitable[None]], interval_s: float) -> None:
        while not self._stopping.is_set():
            await self._guarded(work)
            await self._pause(self._stopping, interval_s, clear=False)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            with self._round():
                await work()
        except StoreBusy as error:
            log.debug("loop_failed", work=getattr(work, "__name__", ""), error=str(error))
        except TryAgain as error:
            log.warning("loop_failed", work=getattr(work, "__name__", ""), error=str(error))
        except Exception:
            log.exception("loop_failed_unexpectedly", work=getattr(work, "__name__", ""))

    @contextmanager
    def _round(self) -> Iterator[None]:
        key = object()
        self._rounds[key] = self._clock.monotonic()
        try:
            yield
        finally:
            del self._rounds[key]

    async def _pause(self, wake: asyncio.Event, delay_s: float, *, clear: bool = True) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(wake.wait(), delay_s)
        if clear:
            wake.clear()

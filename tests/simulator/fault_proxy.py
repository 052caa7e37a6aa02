"""Where a simulated process meets the world: every call of a port passes its gate, and may not come back.

A process (an agent, a scheduler, a phase's supervisor) has one gate, and reaches its ports through proxies
that ask the gate before and after each call. The gate can make the call slow, refuse it, lose its answer
after it had its effect, or end the process right there: the await never returns, so no line of the
process runs any more, not even a ``finally``. Since all I/O passes here, a crash before and after each
call is a crash at every await that matters.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from emr_executor.errors import AwsUnavailable, EmrExecutorError, StoreBusy, TryAgain
from tests.simulator.fault_profile import FaultProfile

Port = TypeVar("Port")

_REFUSALS: dict[str, type[EmrExecutorError]] = {
    "store": StoreBusy,
    "records": AwsUnavailable,
    "host": TryAgain,
}
"""What a refused call of a port raises. Refusals of EMR and Airflow are made by their own models."""
_LOSABLE = frozenset({"store"})
"""Ports whose answer may be lost after the effect, with the same error."""


class Gate:
    """The fate of one process's calls.

    name: of the process, for the story
    on_crash: called once when the process dies at a call
    """

    def __init__(
        self, name: str, profile: FaultProfile, rng: random.Random, *, on_crash: Callable[[Gate, str], None]
    ) -> None:
        self.name = name
        self.is_dead = self.is_buried = False
        self._thawed: asyncio.Event | None = None
        self._profile, self._rng, self._on_crash = profile, rng, on_crash

    def crash(self, where: str) -> None:
        """The process is gone from now on, wherever it stands."""
        if not self.is_dead:
            self.is_dead = True
            self._on_crash(self, where)

    async def before(self, port: str, call: str) -> None:
        """Ask before a call. Raises the port's refusal; does not return for the dead."""
        await self._meet(port, call, "before")
        refusal = _REFUSALS.get(port)
        if refusal is not None and self._profile.happens("refused", port, self._rng):
            raise refusal(f"simulated: {port}.{call} was refused")

    async def after(self, port: str, call: str) -> None:
        """Ask after a call that had its effect. Raises when its answer is lost."""
        await self._meet(port, call, "after")
        if port in _LOSABLE and self._profile.happens("answer_lost", port, self._rng):
            raise _REFUSALS[port](f"simulated: the answer of {port}.{call} was lost")

    def freeze(self) -> None:
        """The process stands still (SIGSTOP, a blocked loop): no call begins or returns until ``thaw``."""
        if self._thawed is None:
            self._thawed = asyncio.Event()

    def thaw(self) -> None:
        """It goes on, as if nothing had been."""
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None

    async def _meet(self, port: str, call: str, moment: str) -> None:
        if self.is_dead:
            await self._never()
        while self._thawed is not None:
            await self._thawed.wait()
            if self.is_dead:
                await self._never()
        if self._profile.happens("crash", port, self._rng):
            self.crash(f"{moment} {port}.{call}")
            await self._never()
        delay_s = self._profile.delay_s(port, self._rng)
        if delay_s > 0.0:
            await asyncio.sleep(delay_s)
            if self.is_dead:
                await self._never()

    async def _never(self) -> NoReturn:
        if self.is_buried:
            # A task that had swallowed its cancellation (asyncio.wait_for of Python 3.11 does at times).
            raise asyncio.CancelledError
        await asyncio.get_running_loop().create_future()
        raise AssertionError("a dead process went on")


def through(gate: Gate, port: str, target: Port, calls: Counter[str] | None = None) -> Port:
    """The target as the gate's process sees it: the same methods, each with the gate's fate.

    calls: counts what was called, by ``port.method``
    """
    proxy: Any = _Proxy(gate, port, target, calls)
    return proxy


class _Proxy:
    def __init__(self, gate: Gate, port: str, target: Any, calls: Counter[str] | None) -> None:
        self._gate, self._port, self._target, self._calls = gate, port, target, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not asyncio.iscoroutinefunction(found):
            return found
        gated = self._gated(name, found)
        setattr(self, name, gated)
        return gated

    def _gated(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        gate, port, calls, counted = self._gate, self._port, self._calls, f"{self._port}.{name}"

        async def gated(*args: Any, **kwargs: Any) -> Any:
            await gate.before(port, name)
            if calls is not None:
                calls[counted] += 1
            answer = await call(*args, **kwargs)
            await gate.after(port, name)
            return answer

        return gated

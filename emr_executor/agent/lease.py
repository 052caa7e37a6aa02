"""One agent steers: the lease, its sign of life, and how a successor takes over.

The holder bumps the lease's beat; a watcher takes the lease with a new token when the beat stood
still for ``lease_s`` on the watcher's own clock. The token fences every steering write: an agent
that lost the lease without noticing finds its writes refused (``StaleWriter``).
"""

from __future__ import annotations

from emr_executor.agent.stale import StaleWatch
from emr_executor.errors import StoreBusy
from emr_executor.ports import Clock
from emr_executor.store.agent_store import AgentStore
from emr_executor.store.schema import STEERING

BEATS_A_LEASE = 4
"""The holder beats four times in ``lease_s`` and stops steering at three quarters of it without a beat."""


class LeaseKeeper:
    """Holds or watches the steering lease for one agent."""

    def __init__(self, store: AgentStore, clock: Clock, *, holder: str, lease_s: float) -> None:
        self._store, self._clock = store, clock
        self._holder, self._lease_s = holder, lease_s
        self._token: int | None = None
        self._beaten_at = 0.0
        self._watch: StaleWatch[str] = StaleWatch(max_gap_s=2 * self.beat_interval_s)

    @property
    def beat_interval_s(self) -> float:
        """How often ``step`` wants to be called."""
        return self._lease_s / BEATS_A_LEASE

    @property
    def token(self) -> int | None:
        """The fencing token while this agent may steer, else None."""
        if self._token is None:
            return None
        silent_s = self._clock.monotonic() - self._beaten_at
        return self._token if silent_s < self._lease_s * 3 / 4 else None

    async def step(self) -> None:
        """Beat the lease, or take it when its holder is silent. A busy store leaves things as they are."""
        try:
            if self._token is not None:
                await self._beat()
            else:
                await self._try_take()
        except StoreBusy:
            return

    async def release(self) -> None:
        """Hand the lease back, so that a successor need not wait."""
        if self._token is not None:
            token, self._token = self._token, None
            await self._store.release_lease(STEERING, self._holder, token)

    async def _beat(self) -> None:
        asked_at = self._clock.monotonic()
        if self._token is not None and await self._store.beat_lease(STEERING, self._holder, self._token):
            self._beaten_at = asked_at
        else:
            self._token = None

    async def _try_take(self) -> None:
        seen = await self._store.read_lease(STEERING)
        asked_at = self._clock.monotonic()
        unchanged = self._watch.look({STEERING: (seen.token, seen.beat)}, monotonic=asked_at)
        if seen.holder is not None and unchanged[STEERING] < self._lease_s:
            return
        token = await self._store.take_lease(STEERING, self._holder, seen)
        if token is not None:
            self._token, self._beaten_at = token, asked_at

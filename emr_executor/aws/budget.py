"""How many calls EMR takes: token buckets for each operation and for the account, shared by all calls.

EMR's defaults are tiny and count for everybody in the account and region (Service Quotas, "Amazon EMR":
e.g. ListSteps 10 at once and then one in two seconds; 25 and then 5 a second for all operations
together). A throttled answer lowers a bucket's rate at once; time without one brings it back.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from emr_executor.errors import BudgetSpent
from emr_executor.ports import Clock

EMR_BUCKETS: Mapping[str, tuple[float, float]] = {
    "RunJobFlow": (10, 0.5),
    "AddJobFlowSteps": (10, 0.5),
    "CancelSteps": (10, 0.5),
    "TerminateJobFlows": (10, 0.5),
    "ModifyCluster": (10, 0.5),
    "DescribeCluster": (10, 1.0),
    "DescribeStep": (10, 0.5),
    "ListSteps": (10, 0.5),
    "ListClusters": (20, 0.5),
    "ListInstances": (10, 0.5),
    "ListInstanceGroups": (10, 1.0),
    "ListInstanceFleets": (5, 0.5),
    "AddTags": (5, 0.5),
    "SetTerminationProtection": (5, 0.2),
}
"""Burst and refill a second by operation."""
ACCOUNT_BUCKET = (25.0, 5.0)
UNKNOWN_OPERATION = (5.0, 0.5)
LEARN_DOWN = 0.5
"""What a throttled answer leaves of an operation's rate."""
LEARN_DOWN_ACCOUNT = 0.8
RATE_FLOOR = 0.05
"""Of a bucket's full rate: calls never stop for good."""
RECOVER_S = 300.0
"""From the floor to the full rate, when nothing is throttled."""


@dataclass(slots=True)
class Bucket:
    """Tokens that refill with time. ``updated_at`` is on the monotonic clock."""

    burst: float
    full_rate: float
    updated_at: float
    rate: float = field(init=False)
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.rate, self.tokens = self.full_rate, self.burst

    def wait_s(self, now: float) -> float:
        """Seconds until there is a token."""
        self._refill(now)
        return max(0.0, (1.0 - self.tokens) / self.rate)

    def spend(self, now: float, count: int) -> None:
        """Take tokens that a call used; retries may take it below zero."""
        self._refill(now)
        self.tokens -= count

    def throttled(self, now: float, learn_down: float) -> None:
        """AWS says that the bucket is emptier than we thought."""
        self._refill(now)
        self.rate = max(self.full_rate * RATE_FLOOR, self.rate * learn_down)
        self.tokens = min(self.tokens, 0.0)

    def _refill(self, now: float) -> None:
        elapsed = max(0.0, now - self.updated_at)
        self.tokens = min(self.burst, self.tokens + elapsed * self.rate)
        self.rate = min(self.full_rate, self.rate + self.full_rate * elapsed / RECOVER_S)
        self.updated_at = now


class Budget:
    """Waits until a call may be made; first come, first served within an operation."""

    def __init__(
        self,
        clock: Clock,
        buckets: Mapping[str, tuple[float, float]] = EMR_BUCKETS,
        account: tuple[float, float] = ACCOUNT_BUCKET,
    ) -> None:
        self._clock = clock
        now = clock.monotonic()
        self._account = Bucket(*account, now)
        self._known = buckets
        self._buckets: dict[str, Bucket] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def wait_s(self, operation: str) -> float:
        """How long a call made now would wait, not counting those already waiting."""
        now = self._clock.monotonic()
        return max(self._bucket(operation).wait_s(now), self._account.wait_s(now))

    async def take(self, operation: str, *, within_s: float | None = None) -> None:
        """Return when the call may be made. Raises BudgetSpent when that is not ``within_s`` from now."""
        asked_at = self._clock.monotonic()
        async with self._turns[operation]:
            while (wait_s := self.wait_s(operation)) > 0:
                self._refuse_late(operation, asked_at, wait_s, within_s)
                # A hair longer, so that rounding never asks for another, endless, tiny wait.
                await self._clock.sleep(wait_s + 1e-3)
            # The process may have stood still meanwhile, for any time.
            self._refuse_late(operation, asked_at, 0.0, within_s)
            self._spend(operation, 1)

    def _refuse_late(self, operation: str, asked_at: float, wait_s: float, within_s: float | None) -> None:
        if within_s is not None and self._clock.monotonic() + wait_s - asked_at > within_s:
            raise BudgetSpent(
                f"{operation} could not be called within {within_s:g} s: too many calls wait for EMR"
            )

    def answered(self, operation: str, retries: int) -> None:
        """Count the calls that botocore's own retries made besides the one taken."""
        if retries > 0:
            self._spend(operation, retries)

    def _spend(self, operation: str, count: int) -> None:
        for bucket in (self._bucket(operation), self._account):
            bucket.spend(self._clock.monotonic(), count)

    def throttled(self, operation: str) -> None:
        """Learn from a throttled answer: it does not say which bucket was empty, so both go down."""
        now = self._clock.monotonic()
        self._bucket(operation).throttled(now, LEARN_DOWN)
        self._account.throttled(now, LEARN_DOWN_ACCOUNT)

    def _bucket(self, operation: str) -> Bucket:
        if operation not in self._buckets:
            limits = self._known.get(operation, UNKNOWN_OPERATION)
            self._buckets[operation] = Bucket(*limits, self._clock.monotonic())
        return self._buckets[operation]

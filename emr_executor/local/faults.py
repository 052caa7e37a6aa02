"""What can go wrong, as values: launches that fail, and API calls that are throttled, lost or slow.

Pure like ``behaviour``: time is an argument, nothing is random. ``ApiFaults.decide`` is asked once
for every API call and answers with the call's fate; the caller (HTTP endpoint or simulator) makes it so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeVar

ANY_OPERATION = "*"
_T = TypeVar("_T")

# Default token buckets, (size, refill a second), as Service Quotas lists them; all are adjustable in AWS.
# Operations without a row there are limited by the account's bucket alone.
DEFAULT_BUCKETS: dict[str, tuple[float, float]] = {
    "RunJobFlow": (10, 0.5),
    "AddJobFlowSteps": (10, 0.5),
    "CancelSteps": (10, 0.5),
    "TerminateJobFlows": (10, 0.5),
    "ModifyCluster": (10, 0.5),
    "ListInstanceGroups": (10, 1.0),
    "ListBootstrapActions": (10, 1.0),
    "DescribeCluster": (10, 1.0),
    "DescribeStep": (10, 0.5),
    "ListSteps": (10, 0.5),
    "ListClusters": (20, 0.5),
    "ListInstances": (10, 0.5),
    "ListInstanceFleets": (5, 0.5),
    "AddTags": (5, 0.5),
    "RemoveTags": (5, 0.5),
    "SetTerminationProtection": (5, 0.2),
}
ACCOUNT_BUCKET = (25.0, 5.0)


class LaunchFailureKind(StrEnum):
    """Why a cluster that RunJobFlow accepted never becomes usable."""

    CAPACITY = "CAPACITY"
    """EC2 has no instance of the wanted type."""
    SPOT_CAPACITY = "SPOT_CAPACITY"
    """EC2 has no spot capacity for the primary node."""
    BOOTSTRAP = "BOOTSTRAP"
    """A bootstrap action returned a non-zero code."""
    VALIDATION = "VALIDATION"
    """EC2 refused the request: an instance type that the zone does not have."""
    FLEET_TIMEOUT = "FLEET_TIMEOUT"
    """The spot provisioning timeout passed, with TimeoutAction TERMINATE_CLUSTER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFailure:
    """How a failed launch looks in DescribeCluster; codes from botocore and EMR's error-detail pages."""

    code: str
    message: str
    error_code: str | None = None
    error_data: tuple[dict[str, str], ...] = ()
    stage: Literal["provision", "bootstrap"] = "provision"


def launch_failure(
    kind: LaunchFailureKind,
    *,
    instance_type: str,
    instance_id: str,
    action: int = 1,
    how: str = "returned a non-zero return code",
) -> LaunchFailure:
    """The failure of one launch, worded for its primary instance.

    action, how: the number of the bootstrap action that failed, and in which way
    """
    match kind:
        case LaunchFailureKind.CAPACITY:
            return LaunchFailure(
                code="INTERNAL_ERROR",
                message=f"EC2 is out of capacity for {instance_type}",
                error_code="INTERNAL_ERROR_EC2_INSUFFICIENT_CAPACITY_AZ",
                error_data=({"instance-type": instance_type, "availability-zone": "local-1a"},),
            )
        case LaunchFailureKind.SPOT_CAPACITY:
            return LaunchFailure(
                code="INTERNAL_ERROR",
                message=f"EC2 has no spot capacity for {instance_type}",
                error_code="INTERNAL_ERROR_SPOT_NO_CAPACITY_PRIMARY",
                error_data=({"instance-type": instance_type},),
            )
        case LaunchFailureKind.BOOTSTRAP:
            return LaunchFailure(
                code="BOOTSTRAP_FAILURE",
                message=f"On the master instance ({instance_id}), bootstrap action {action} {how}",
                error_code="BOOTSTRAP_FAILURE_PRIMARY_WITH_NON_ZERO_CODE",
                error_data=({"primary-instance-id": instance_id, "bootstrap-action": str(action)},),
                stage="bootstrap",
            )
        case LaunchFailureKind.VALIDATION:
            return LaunchFailure(
                code="VALIDATION_ERROR",
                message=(
                    f"The requested instance type {instance_type} is not supported "
                    "in the requested Availability Zone"
                ),
                error_code="VALIDATION_ERROR_INSTANCE_TYPE_NOT_SUPPORTED",
                error_data=({"instance-type": instance_type},),
            )
        case LaunchFailureKind.FLEET_TIMEOUT:
            return LaunchFailure(
                code="INSTANCE_FLEET_TIMEOUT",
                message="Spot provisioning timeout - terminating cluster",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFate:
    """What becomes of one API call, in this order: wait, refuse or drop, act, drop the answer."""

    delay_s: float = 0.0
    throttled: bool = False
    error: tuple[str, str, int] | None = None
    """code, message and HTTP status to answer with instead of acting."""
    dropped: Literal["no", "before", "after"] = "no"
    """The connection is cut before the act, or after it and before the answer."""


@dataclass(slots=True)
class TokenBucket:
    """``size`` tokens at most, ``refill`` more each second."""

    size: float
    refill: float
    level: float
    at: float

    def take(self, now: float) -> bool:
        """Take one token; False leaves the bucket as it is."""
        self.level = min(self.size, self.level + max(0.0, now - self.at) * self.refill)
        self.at = now
        if self.level < 1.0:
            return False
        self.level -= 1.0
        return True


@dataclass(slots=True)
class _Slow:
    delay_s: float
    left: int | None


@dataclass(slots=True)
class ApiFaults:
    """The faults of API calls that are set now. ``*`` means any operation; an exact name goes first."""

    _throttle: dict[str, int] = field(default_factory=dict)
    _drop: dict[str, tuple[Literal["before", "after"], int]] = field(default_factory=dict)
    _fail: dict[str, tuple[tuple[str, str, int], int]] = field(default_factory=dict)
    _slow: dict[str, _Slow] = field(default_factory=dict)
    _buckets: dict[str, TokenBucket] | None = None
    _account: TokenBucket | None = None

    def throttle_next(self, operation: str, count: int = 1) -> None:
        """The next ``count`` calls are answered ThrottlingException and do nothing."""
        self._throttle[operation] = count

    def drop_next(
        self, operation: str, count: int = 1, *, when: Literal["before", "after"] = "after"
    ) -> None:
        """The next ``count`` calls get no answer; with ``after`` they have had their effect."""
        self._drop[operation] = (when, count)

    def fail_next(
        self, operation: str, count: int = 1, *, code: str, message: str = "", status: int = 400
    ) -> None:
        """The next ``count`` calls are answered with this error and do nothing."""
        self._fail[operation] = ((code, message, status), count)

    def slow(self, operation: str, delay_s: float, count: int | None = None) -> None:
        """Calls wait ``delay_s`` before they act; None means until ``clear``."""
        self._slow[operation] = _Slow(delay_s, count)

    def use_buckets(self, now: float, buckets: dict[str, tuple[float, float]] | None = None) -> None:
        """Throttle as AWS does, by one bucket for each operation and one for the account, full at first."""
        rows = DEFAULT_BUCKETS if buckets is None else buckets
        self._buckets = {
            name: TokenBucket(size=size, refill=refill, level=size, at=now)
            for name, (size, refill) in rows.items()
        }
        size, refill = ACCOUNT_BUCKET
        self._account = TokenBucket(size=size, refill=refill, level=size, at=now)

    def clear(self) -> None:
        """Forget every fault, buckets included."""
        self._throttle.clear()
        self._drop.clear()
        self._fail.clear()
        self._slow.clear()
        self._buckets = self._account = None

    def decide(self, operation: str, now: float) -> CallFate:
        """The fate of a call made now; counts are used up by asking."""
        delay_s = self._next_delay(operation)
        if self._use(self._throttle, operation) or not self._token(operation, now):
            return CallFate(delay_s=delay_s, throttled=True)
        if (error := _use_paired(self._fail, operation)) is not None:
            return CallFate(delay_s=delay_s, error=error)
        if (when := _use_paired(self._drop, operation)) is not None:
            return CallFate(delay_s=delay_s, dropped=when)
        return CallFate(delay_s=delay_s)

    def as_dict(self) -> dict[str, Any]:
        """The faults that are set, for people."""
        return {
            "throttle": dict(self._throttle),
            "drop": {name: {"when": when, "left": left} for name, (when, left) in self._drop.items()},
            "fail": {name: {"code": error[0], "left": left} for name, (error, left) in self._fail.items()},
            "slow": {name: {"delay_s": slow.delay_s, "left": slow.left} for name, slow in self._slow.items()},
            "buckets": self._buckets is not None,
        }

    def _token(self, operation: str, now: float) -> bool:
        if self._buckets is None or self._account is None:
            return True
        own = self._buckets.get(operation)
        if own is not None and not own.take(now):
            return False
        return self._account.take(now)

    def _next_delay(self, operation: str) -> float:
        for name in (operation, ANY_OPERATION):
            slow = self._slow.get(name)
            if slow is None:
                continue
            if slow.left is not None:
                slow.left -= 1
                if slow.left <= 0:
                    del self._slow[name]
            return slow.delay_s
        return 0.0

    @staticmethod
    def _use(counts: dict[str, int], operation: str) -> bool:
        for name in (operation, ANY_OPERATION):
            if name in counts:
                counts[name] -= 1
                if counts[name] <= 0:
                    del counts[name]
                return True
        return False


def _use_paired(faults: dict[str, tuple[_T, int]], operation: str) -> _T | None:
    for name in (operation, ANY_OPERATION):
        if name in faults:
            value, left = faults.pop(name)
            if left > 1:
                faults[name] = (value, left - 1)
            return value
    return None

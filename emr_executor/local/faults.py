"""What can go wrong, as values: launches that fail, and API calls that are throttled, lost or slow.

Pure like ``behaviour``: time is an argument, nothing is random. ``ApiFaults.decide`` is asked once
for every API call and answers with the call's fate; the caller (HTTP endpoint or simulator) makes it so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

ANY_OPERATION = "*"

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
    error_data: Mapping[str, str] = field(default_factory=dict)
    stage: Literal["provision", "bootstrap"] = "provision"


_LAUNCH_FAILURES = {
    LaunchFailureKind.CAPACITY: LaunchFailure(
        code="INTERNAL_ERROR",
        message="EC2 is out of capacity for {instance_type}",
        error_code="INTERNAL_ERROR_EC2_INSUFFICIENT_CAPACITY_AZ",
        error_data={"instance-type": "{instance_type}", "availability-zone": "local-1a"},
    ),
    LaunchFailureKind.SPOT_CAPACITY: LaunchFailure(
        code="INTERNAL_ERROR",
        message="EC2 has no spot capacity for {instance_type}",
        error_code="INTERNAL_ERROR_SPOT_NO_CAPACITY_PRIMARY",
        error_data={"instance-type": "{instance_type}"},
    ),
    LaunchFailureKind.BOOTSTRAP: LaunchFailure(
        code="BOOTSTRAP_FAILURE",
        message="On the master instance ({instance_id}), bootstrap action {action} {how}",
        error_code="BOOTSTRAP_FAILURE_PRIMARY_WITH_NON_ZERO_CODE",
        error_data={"primary-instance-id": "{instance_id}", "bootstrap-action": "{action}"},
        stage="bootstrap",
    ),
    LaunchFailureKind.VALIDATION: LaunchFailure(
        code="VALIDATION_ERROR",
        message=(
            "The requested instance type {instance_type} is not supported in the requested Availability Zone"
        ),
        error_code="VALIDATION_ERROR_INSTANCE_TYPE_NOT_SUPPORTED",
        error_data={"instance-type": "{instance_type}"},
    ),
    LaunchFailureKind.FLEET_TIMEOUT: LaunchFailure(
        code="INSTANCE_FLEET_TIMEOUT", message="Spot provisioning timeout - terminating cluster"
    ),
}


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
    failure = _LAUNCH_FAILURES[kind]
    words = {"instance_type": instance_type, "instance_id": instance_id, "action": action, "how": how}
    data = {name: text.format_map(words) for name, text in failure.error_data.items()}
    return replace(failure, message=failure.message.format_map(words), error_data=data)


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


class ApiFaults:
    """The faults of API calls that are set now. ``*`` means any operation; an exact name goes first."""

    def __init__(self) -> None:
        self._set: dict[str, dict[str, tuple[Any, int | None]]]
        """By kind and operation: what it does, and to how many more calls (None: to all)."""
        self._buckets: dict[str, TokenBucket] | None
        self._account: TokenBucket
        self.clear()

    def throttle_next(self, operation: str, count: int = 1) -> None:
        """The next ``count`` calls are answered ThrottlingException and do nothing."""
        self._set["throttle"][operation] = (True, count)

    def drop_next(
        self, operation: str, count: int = 1, *, when: Literal["before", "after"] = "after"
    ) -> None:
        """The next ``count`` calls get no answer; with ``after`` they have had their effect."""
        self._set["drop"][operation] = (when, count)

    def fail_next(
        self, operation: str, count: int = 1, *, code: str, message: str = "", status: int = 400
    ) -> None:
        """The next ``count`` calls are answered with this error and do nothing."""
        self._set["fail"][operation] = ((code, message, status), count)

    def slow(self, operation: str, delay_s: float, count: int | None = None) -> None:
        """Calls wait ``delay_s`` before they act; None means until ``clear``."""
        self._set["slow"][operation] = (delay_s, count)

    def use_buckets(self, now: float, buckets: dict[str, tuple[float, float]] | None = None) -> None:
        """Throttle as AWS does, by one bucket for each operation and one for the account, full at first."""
        rows = DEFAULT_BUCKETS if buckets is None else buckets
        self._buckets = {name: _full_bucket(row, now) for name, row in rows.items()}
        self._account = _full_bucket(ACCOUNT_BUCKET, now)

    def clear(self) -> None:
        """Forget every fault, buckets included."""
        self._set = {"throttle": {}, "drop": {}, "fail": {}, "slow": {}}
        self._buckets = None

    def decide(self, operation: str, now: float) -> CallFate:
        """The fate of a call made now; counts are used up by asking."""
        delay_s = self._use("slow", operation) or 0.0
        if self._use("throttle", operation) or not self._token(operation, now):
            return CallFate(delay_s=delay_s, throttled=True)
        if (error := self._use("fail", operation)) is not None:
            return CallFate(delay_s=delay_s, error=error)
        return CallFate(delay_s=delay_s, dropped=self._use("drop", operation) or "no")

    def as_dict(self) -> dict[str, Any]:
        """The faults that are set, for people."""
        throttle, drop, fail, slow = (
            self._set[kind].items() for kind in ("throttle", "drop", "fail", "slow")
        )
        return {
            "throttle": {name: left for name, (_, left) in throttle},
            "drop": {name: {"when": when, "left": left} for name, (when, left) in drop},
            "fail": {name: {"code": error[0], "left": left} for name, (error, left) in fail},
            "slow": {name: {"delay_s": delay_s, "left": left} for name, (delay_s, left) in slow},
            "buckets": self._buckets is not None,
        }

    def _token(self, operation: str, now: float) -> bool:
        if self._buckets is None:
            return True
        own = self._buckets.get(operation)
        return (own is None or own.take(now)) and self._account.take(now)

    def _use(self, kind: str, operation: str) -> Any:
        """What a fault of this kind does to a call, which uses it up by one; None without one."""
        faults = self._set[kind]
        for name in (operation, ANY_OPERATION):
            if name in faults:
                value, left = faults.pop(name)
                if left is None or left > 1:
                    faults[name] = (value, left and left - 1)
                return value
        return None


def _full_bucket(row: tuple[float, float], now: float) -> TokenBucket:
    size, refill = row
    return TokenBucket(size=size, refill=refill, level=size, at=now)

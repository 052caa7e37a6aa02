"""An aiobotocore-shaped client of the simulated EMR: its answers, its refusals, and its silences.

The production ``aws.emr.EmrClient`` runs on it unchanged. What becomes of a call is a ``Fate``, drawn from
the caller's fault profile.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from emr_executor.local.faults import TokenBucket
from emr_executor.local.operations import READS
from emr_executor.local.requests import EmrApiError
from tests.simulator.cloud import Cloud
from tests.simulator.fault_profile import FaultProfile

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
LOOK_TIMEOUT_S = 10.0
"""As ``aws.session``: how long a client waits for an answer that never comes."""
LATEST_ACT_S = 10.0
"""A request that EMR took in and its client gave up on is carried out within this."""
DOUBLE_LATE_S = 120.0
"""A request that was doubled on its way arrives again within this."""
URL = "https://elasticmapreduce.simulated"
THROTTLED = ("ThrottlingException", "Rate exceeded", 400)
BROKEN = ("InternalServerException", "simulated", 500)

Silence = Callable[[], Exception]


def no_connection() -> Exception:
    """There is nobody: the request was never sent."""
    return EndpointConnectionError(endpoint_url=URL)


def connect_timeout() -> Exception:
    """Nobody answers: the request was never sent."""
    return ConnectTimeoutError(endpoint_url=URL)


def read_timeout() -> Exception:
    """The request was sent, and no answer came."""
    return ReadTimeoutError(endpoint_url=URL)


def connection_closed() -> Exception:
    """The request was sent, and the connection was cut."""
    return ConnectionClosedError(endpoint_url=URL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What becomes of one call, in this order: EMR acts, the caller waits and hears.

    acts: how often EMR carries the request out: 0 never, 2 when the way there doubles it
    act_late_s: it does so that long after the caller has heard its error, and nobody hears the answer
    act_again_s: what is carried out twice is done again so long after, and nobody hears of that
    refusal: code, message and status that the caller hears instead of the answer, whether EMR acted or not
    silence, silence_s: what the caller hears when no answer comes, and after how long
    lag_s: a read shows the state of so long ago
    """

    acts: int = 1
    act_late_s: float = 0.0
    act_again_s: float = 0.0
    refusal: tuple[str, str, int] | None = None
    silence: Silence | None = None
    silence_s: float = 0.0
    lag_s: float = 0.0


GOOD = Fate()


class CloudClient:
    """One agent's client. Without retries of its own: for reads the agent's next look is the retry.

    fate_of: what becomes of a call of an operation; None draws it from the profile
    """

    def __init__(
        self,
        cloud: Cloud,
        profile: FaultProfile,
        rng: random.Random,
        limits: CallLimits | None = None,
        *,
        fate_of: Callable[[str], Fate] | None = None,
    ) -> None:
        self._cloud, self._profile, self._rng, self._limits = cloud, profile, rng, limits
        self._fate_of = fate_of or self._drawn_fate

    def __getattr__(self, name: str) -> Callable[..., Awaitable[dict[str, Any]]]:
        """The operation of a method: ``list_steps`` is ListSteps."""
        return partial(self._call, name.title().replace("_", ""))

    # -- one call ----------------------------------------------------------------------------------------

    async def _call(self, operation: str, **request: Any) -> dict[str, Any]:
        fate = self._fate_of(operation)
        if fate is GOOD:
            return self._act(operation, request, fate)
        answer: dict[str, Any] | None = None
        error: ClientError | None = None
        if fate.act_late_s > 0:
            asyncio.get_running_loop().call_later(fate.act_late_s, self._act_unheard, operation, request)
        else:
            try:
                if fate.act_again_s > 0:
                    asyncio.get_running_loop().call_later(
                        fate.act_again_s, self._act_unheard, operation, request
                    )
                for _ in range(1 if fate.act_again_s > 0 else fate.acts):
                    answer = self._act(operation, request, fate)
            except ClientError as refused:
                error = refused
        if fate.silence is not None:
            longest_s = LOOK_TIMEOUT_S if operation in READS else READ_TIMEOUT_S
            await asyncio.sleep(min(fate.silence_s, longest_s))
            raise fate.silence()
        if fate.refusal is not None:
            raise _refusal(operation, *fate.refusal)
        if answer is None:
            raise error or _refusal(operation, *BROKEN)
        return answer

    def _act(self, operation: str, request: Mapping[str, Any], fate: Fate) -> dict[str, Any]:
        as_of = self._cloud.now_s - fate.lag_s if fate.lag_s > 0 else None
        asked = {k: v.timestamp() if isinstance(v, datetime) else v for k, v in request.items()}
        try:
            answer = self._cloud.call(operation, asked, as_of=as_of)
        except EmrApiError as error:
            raise _refusal(operation, error.code, error.message, error.status, error.error_code) from error
        for entity in (*answer.get("Steps", ()), *answer.get("Clusters", ()), answer.get("Cluster")):
            if entity is not None:
                timeline = entity["Status"]["Timeline"]
                timeline |= {name: datetime.fromtimestamp(at, UTC) for name, at in timeline.items()}
        return answer

    def _act_unheard(self, operation: str, request: Mapping[str, Any]) -> None:
        with contextlib.suppress(EmrApiError):
            self._cloud.call(operation, request)

    # -- what becomes of it ------------------------------------------------------------------------------

    def _drawn_fate(self, operation: str) -> Fate:
        profile, rng = self._profile, self._rng
        if "emr" in profile.down:
            return Fate(acts=0, silence=no_connection)
        if profile.is_calm:
            return GOOD
        if profile.happens("dropped_before", "emr", rng):
            return _dropped_before(rng)
        if profile.happens("throttled", "emr", rng) or not self._allowed(operation):
            return Fate(acts=0, refusal=THROTTLED)
        if profile.happens("emr_error", "emr", rng):
            return Fate(acts=0, refusal=BROKEN)
        if profile.happens("dropped_after", "emr", rng):
            return _dropped_after(rng)
        if operation == "AddJobFlowSteps" and profile.happens("adds_doubled", "emr", rng):
            return Fate(acts=2, act_again_s=rng.choice((0.0, rng.uniform(0.0, DOUBLE_LATE_S))))
        if operation in READS and profile.happens("stale", "emr", rng):
            return Fate(lag_s=rng.uniform(0.0, profile.stale_s))
        return GOOD

    def _allowed(self, operation: str) -> bool:
        return self._limits is None or self._limits.allow(operation)


def _dropped_before(rng: random.Random) -> Fate:
    """EMR never hears of it. The caller may know that, or not."""
    silence, silence_s = rng.choice(
        ((no_connection, 0.0), (connect_timeout, CONNECT_TIMEOUT_S), (read_timeout, READ_TIMEOUT_S))
    )
    return Fate(acts=0, silence=silence, silence_s=silence_s)


def _dropped_after(rng: random.Random) -> Fate:
    """EMR acts, or will soon, and the caller hears nothing, or what is not true.

    A throttled RunJobFlow was seen to have launched (aws-sdk-ruby issue 825).
    """
    return rng.choice(
        (
            Fate(silence=read_timeout, silence_s=READ_TIMEOUT_S),
            Fate(silence=connection_closed, silence_s=0.1),
            Fate(silence=connection_closed, act_late_s=rng.uniform(0.1, LATEST_ACT_S)),
            Fate(refusal=BROKEN),
            Fate(refusal=THROTTLED),
        )
    )


class CallLimits:
    """EMR's own token buckets, shared by all clients of the account."""

    def __init__(self, cloud: Cloud, profile: FaultProfile, rates: Mapping[str, tuple[float, float]]) -> None:
        self._cloud, self._profile = cloud, profile
        now = cloud.now_s
        self._buckets = {
            name: TokenBucket(size=size, refill=refill, level=size, at=now)
            for name, (size, refill) in rates.items()
        }

    def allow(self, operation: str) -> bool:
        """Whether a call that arrives now is taken."""
        bucket = self._buckets.get(operation)
        if bucket is None or not self._profile.buckets or self._profile.is_calm:
            return True
        is_taken = bucket.take(self._cloud.now_s)
        self._profile.counts["buckets"] += not is_taken
        return is_taken


def _refusal(
    operation: str, code: str, message: str, status: int, error_code: str | None = None
) -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    if error_code is not None:
        answer["ErrorCode"] = error_code
    return ClientError(answer, operation)

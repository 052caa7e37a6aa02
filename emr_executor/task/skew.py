"""Whether this host's clock agrees with the API server's well enough for the tokens that are made here.

A token says since when and until when it is valid, in the time of the host that makes it (``JWTGenerator``
sets ``nbf``, ``iat`` and ``exp``, and lets nobody set them otherwise). The API server allows ``[api_auth]
jwt_leeway`` and answers 403 to everything else, so no task starts and parked tasks fall silent.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

PROBE_TIMEOUT_S = 3.0
_DATE_RESOLUTION_S = 1.0


def ahead_s(date: str | None, now: datetime, *, took_s: float = 0.0) -> float | None:
    """By how many seconds ``now`` is ahead of an answer's Date header; None where that says nothing.

    took_s: from the request to the answer; the header was written somewhere in between
    """
    with suppress(TypeError, ValueError):
        sent_at = parsedate_to_datetime(date or "")
        # The header leaves out the fraction of a second.
        most = (now - sent_at.replace(tzinfo=sent_at.tzinfo or UTC)).total_seconds() - _DATE_RESOLUTION_S / 2
        return less_journey_s(most, took_s)
    return None


def less_journey_s(ahead_by_s: float, took_s: float) -> float:
    """A difference that was read when an answer came, without what the answer's journey may have added."""
    return min(ahead_by_s, max(ahead_by_s - took_s, 0.0))


def ask_ahead_s(server_url: str) -> float | None:
    """``ahead_s`` of this host, by asking the Execution API; None when it does not answer."""
    try:
        answer = httpx.get(f"{server_url.rstrip('/')}/health", timeout=PROBE_TIMEOUT_S)
    except httpx.HTTPError:
        return None
    return _ahead_by(answer)


def _ahead_by(answer: httpx.Response) -> float | None:
    took_s = answer.elapsed.total_seconds()
    return ahead_s(answer.headers.get("date"), datetime.now(tz=UTC), took_s=took_s)


def problem_of(ahead_by_s: float | None) -> str | None:
    """What is wrong with such a difference and what to do, or None."""
    if ahead_by_s is None:
        return None
    from airflow.configuration import conf

    leeway_s = conf.getfloat("api_auth", "jwt_leeway")
    lifetime_s = conf.getfloat("execution_api", "jwt_expiration_time")
    if -leeway_s - lifetime_s < ahead_by_s <= leeway_s:
        return None
    if ahead_by_s > 0:
        how = f"{ahead_by_s:.0f} s ahead of the Airflow API server's, so tokens made here are not valid yet"
        allowed = f"[api_auth] jwt_leeway allows {leeway_s:g} s"
    else:
        how = f"{-ahead_by_s:.0f} s behind the Airflow API server's, so tokens made here have expired"
        allowed = f"[execution_api] jwt_expiration_time is {lifetime_s:g} s"
    return f"this host's clock is {how} ({allowed}): synchronise the clocks of both hosts (NTP)"


def problem_of_answer(answer: httpx.Response) -> str | None:
    """``problem_of`` the answer that refused a token."""
    return problem_of(_ahead_by(answer))

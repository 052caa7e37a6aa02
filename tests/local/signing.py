"""Requests signed with nothing but hashlib, as the step wrapper signs them."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from tests.airflow_stack.emr_local_process import ReadyInfo


def connection_to(ready: ReadyInfo) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(ready.endpoint_url).netloc, timeout=10)


def by_hand(
    ready: ReadyInfo,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    service: str = "s3",
    headers: dict[str, str] | None = None,
    query: str = "",
    at: datetime | None = None,
    send_body: bytes | None = None,
    host: str | None = None,
    connection: http.client.HTTPConnection | None = None,
    hang_up: bool = False,
) -> http.client.HTTPResponse:
    """The answer to one request.

    send_body: another body than the one that was signed
    connection: one that is kept
    hang_up: send no more once the body is sent
    """
    payload = (headers or {}).get("x-amz-content-sha256") or hashlib.sha256(body).hexdigest()
    sent = {"host": host or urlsplit(ready.endpoint_url).netloc, "x-amz-content-sha256": payload}
    target, sent = signed(
        ready, method, path, sent | (headers or {}), service=service, query=query, at=at or datetime.now(UTC)
    )
    connection = connection or connection_to(ready)
    connection.request(method, target, body if send_body is None else send_body, sent)
    if hang_up and connection.sock is not None:
        connection.sock.shutdown(socket.SHUT_WR)
    return connection.getresponse()


def signed(
    ready: ReadyInfo,
    method: str,
    path: str,
    headers: dict[str, str],
    *,
    service: str,
    query: str = "",
    at: datetime,
) -> tuple[str, dict[str, str]]:
    """The request's target and all its headers; those that are given hold host and x-amz-content-sha256."""
    stamp, day = at.strftime("%Y%m%dT%H%M%SZ"), at.strftime("%Y%m%d")
    sent = headers | {"x-amz-date": stamp}
    names = ";".join(sorted(sent))
    canonical = "\n".join(
        [method, quote(path, safe="/-_.~"), query]
        + [f"{name}:{' '.join(sent[name].split())}" for name in sorted(sent)]
        + ["", names, sent["x-amz-content-sha256"]]
    )
    scope = f"{day}/{ready.region}/{service}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{ready.secret_access_key}".encode()
    for part in (day, ready.region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    sent["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={ready.access_key_id}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return quote(path, safe="/-_.~") + (f"?{query}" if query else ""), sent

"""Requests signed with nothing but hashlib, as the step wrapper signs them."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from emr_executor.local.process import ReadyInfo


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
    netloc = urlsplit(ready.endpoint_url).netloc
    now = at or datetime.now(UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    payload = (headers or {}).get("x-amz-content-sha256") or hashlib.sha256(body).hexdigest()
    sent = {"host": host or netloc, "x-amz-date": stamp, "x-amz-content-sha256": payload, **(headers or {})}
    names = ";".join(sorted(sent))
    canonical = "\n".join(
        [method, quote(path, safe="/-_.~"), query]
        + [f"{name}:{sent[name]}" for name in sorted(sent)]
        + ["", names, payload]
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
    connection = connection or http.client.HTTPConnection(netloc, timeout=10)
    target = quote(path, safe="/-_.~") + (f"?{query}" if query else "")
    connection.request(method, target, body if send_body is None else send_body, sent)
    if hang_up and connection.sock is not None:
        connection.sock.shutdown(socket.SHUT_WR)
    return connection.getresponse()

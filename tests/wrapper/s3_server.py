"""A small S3 on loopback: whole objects by path-style PUT and GET, a journal, faults on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.http_server import HttpServer

Fault = Callable[[str, str], "int | str | None"]
"""(method, path) -> an HTTP status to answer with, ``"drop"`` to close the connection, ``"deaf"`` to do so
after the deed, or None."""


class SmallS3(HttpServer):
    """What the wrapper sees as S3. ``journal`` holds (method, path, status) of every request."""

    def __init__(self, secret: str = "testing-secret") -> None:
        self.objects: dict[str, bytes] = {}
        self.versions: dict[str, list[bytes]] = {}
        self.journal: list[tuple[str, str, int]] = []
        self.bad_signatures: list[str] = []
        self.secret = secret
        self.fault: Fault = lambda _method, _path: None
        self.changed = threading.Condition()
        super().__init__()

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 15.0) -> Any:
        """The condition's first true value; AssertionError when it never comes."""
        with self.changed:
            self.changed.wait_for(condition, timeout_s)
            found = condition()
        assert found, f"it never came true; seen: {self.journal[-10:]}"
        return found

    def record(self, path: str) -> dict[str, Any]:
        return json.loads(self.objects[path])

    def records(self, path: str) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.versions.get(path, [])]

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, bytes] | None:
        fault = self.fault(method, path)
        with self.changed:
            status, content = self._done(method, path, headers, body, fault)
            self.journal.append((method, path, status))
            self.changed.notify_all()
        return None if fault in ("drop", "deaf") else (status, content)

    def _done(
        self, method: str, path: str, headers: Any, body: bytes, fault: int | str | None
    ) -> tuple[int, bytes]:
        if fault == "drop":
            return 0, b""
        if not self._is_signed(method, path, headers, body):
            self.bad_signatures.append(path)
        if isinstance(fault, int):
            return fault, b"<Error><Code>Planned</Code></Error>"
        if method == "GET":
            known = self.objects.get(path)
            return (404, b"<Error><Code>NoSuchKey</Code></Error>") if known is None else (200, known)
        if headers.get("If-None-Match") == "*" and path in self.objects:
            return 412, b"<Error><Code>PreconditionFailed</Code></Error>"
        self.objects[path] = body
        self.versions.setdefault(path, []).append(body)
        return 200, b""

    def _is_signed(self, method: str, path: str, headers: Any, body: bytes) -> bool:
        given = headers.get("Authorization", "")
        if not given.startswith("AWS4-HMAC-SHA256 Credential="):
            return False
        key_id, _date, region, service, _ = given.split("Credential=")[1].split(",")[0].split("/")
        request = AWSRequest(method=method, url=f"http://{headers['host']}{path}", data=body)
        for name in ("x-amz-content-sha256", "x-amz-date", "x-amz-security-token", "host"):
            if headers.get(name):
                request.headers[name] = headers[name]
        request.context["timestamp"] = headers["x-amz-date"]
        signer = S3SigV4Auth(Credentials(key_id, self.secret), service, region)
        canonical = signer.canonical_request(request)
        expected = signer.signature(signer.string_to_sign(request, canonical), request)
        return given.endswith(f"Signature={expected}")

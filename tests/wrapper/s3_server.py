"""A small S3 on loopback: whole objects by path-style PUT and GET, a journal, faults on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

Fault = Callable[[str, str], "int | str | None"]
"""(method, path) -> an HTTP status to answer with, ``"drop"`` to close the connection, ``"deaf"`` to do so
after the deed, or None."""


class SmallS3:
    """What the wrapper sees as S3. ``journal`` holds (method, path, status) of every request."""

    def __init__(self, secret: str = "testing-secret") -> None:
        self.objects: dict[str, bytes] = {}
        self.versions: dict[str, list[bytes]] = {}
        self.journal: list[tuple[str, str, int]] = []
        self.bad_signatures: list[str] = []
        self.secret = secret
        self.fault: Fault = lambda _method, _path: None
        self.changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

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

    def _handler(outer) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler below owns "self"
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._serve("GET", b"")

            def do_PUT(self) -> None:
                self._serve("PUT", self.rfile.read(int(self.headers["Content-Length"])))

            def _serve(self, method: str, body: bytes) -> None:
                fault = outer.fault(method, self.path)
                with outer.changed:
                    if fault == "drop":
                        outer.journal.append((method, self.path, 0))
                        outer.changed.notify_all()
                        self.close_connection = True
                        return
                    if not outer._is_signed(method, self.path, self.headers, body):
                        outer.bad_signatures.append(self.path)
                    if isinstance(fault, int):
                        status, answer = fault, b"<Error><Code>Planned</Code></Error>"
                    elif (
                        method == "PUT"
                        and self.headers.get("If-None-Match") == "*"
                        and self.path in outer.objects
                    ):
                        status, answer = 412, b"<Error><Code>PreconditionFailed</Code></Error>"
                    elif method == "PUT":
                        outer.objects[self.path] = body
                        outer.versions.setdefault(self.path, []).append(body)
                        status, answer = 200, b""
                    elif self.path in outer.objects:
                        status, answer = 200, outer.objects[self.path]
                    else:
                        status, answer = 404, b"<Error><Code>NoSuchKey</Code></Error>"
                    outer.journal.append((method, self.path, status))
                    outer.changed.notify_all()
                if fault == "deaf":
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

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

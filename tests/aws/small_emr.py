"""An EMR endpoint on loopback that answers what it is told to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class SmallEmr:
    """Answers are taken from ``answers`` in order, the last one stays.

    answers: (status, body) with the body as JSON or raw bytes, or "drop" to close the connection
    calls: (operation, request) of every call
    """

    def __init__(self) -> None:
        self.answers: list[Any] = [(200, {})]
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.signed_by: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.calls.append((self.headers["X-Amz-Target"].partition(".")[2], json.loads(body)))
                signed = self.headers.get("Authorization", "")
                outer.signed_by.append(signed.partition("Credential=")[2].partition("/")[0])
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if answer == "drop":
                    self.close_connection = True
                    return
                status, content = answer
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def refuse(self, code: str, message: str = "", status: int = 400) -> None:
        self.answers = [(status, {"__type": code, "message": message})]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

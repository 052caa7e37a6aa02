"""HTTP/1.1 of the endpoint: connections are kept for further requests, werkzeug's own server closes each."""

from __future__ import annotations

import contextlib
import socket
import traceback
from collections.abc import Iterable
from typing import Any

from werkzeug.exceptions import ClientDisconnected
from werkzeug.serving import WSGIRequestHandler
from werkzeug.wsgi import LimitedStream

_DRAINED_MAX = 64 * 1024 * 1024
_BODILESS = frozenset({204, 304})


class ConnectionCut(ConnectionError):
    """The answer is not to be sent: the connection is to be closed without a word."""


class KeepAliveHandler(WSGIRequestHandler):
    """One connection. Says nothing of requests, of clients that hang up, or of itself."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120  # of a connection on which nothing happens

    def run_wsgi(self) -> None:
        """Answer one request, and leave the connection where the next one begins."""
        try:
            environ = self._environ()
        except ValueError as error:
            self.close_connection = True
            self.send_error(400, str(error))
            return
        if self.headers.get("Expect", "").strip().lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            self._answer(environ)
        except (OSError, ClientDisconnected):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        except Exception:  # noqa: BLE001  (top of the loop: a bug must not take the connection's thread along)
            traceback.print_exc()
            self.close_connection = True
            self.send_error(500)

    def _environ(self) -> dict[str, Any]:
        """The WSGI environment, with a body that ends where the request does. Raises ValueError."""
        lengths, encoding = self.headers.get_all("Content-Length", []), self.headers.get("Transfer-Encoding")
        if len(set(lengths)) > 1 or (lengths and encoding) or (encoding or "chunked").lower() != "chunked":
            raise ValueError("Content-Length and Transfer-Encoding do not tell one length")
        length = lengths[0].strip() if lengths else "0"
        if not (length.isascii() and length.isdecimal() and len(length) <= len(str(1 << 63))):
            raise ValueError("Content-Length is no number")
        if any("\r" in value or "\n" in value for value in self.headers.values()):
            raise ValueError("a header goes on in a second line")
        environ: dict[str, Any] = self.make_environ()
        if not encoding:
            environ["wsgi.input"] = LimitedStream(self.rfile, int(length))
            environ["wsgi.input_terminated"] = True
        return environ

    def _answer(self, environ: dict[str, Any]) -> None:
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> None:
            head[:] = [status, headers]

        chunks: Iterable[bytes] = self.server.app(environ, start_response)
        try:
            # What is left of the body would be taken for the next request.
            drained = _drain(environ["wsgi.input"])
            status, headers = head
            code, length = int(status[:3]), dict(headers).get("Content-Length")
            with_body = self.command != "HEAD" and code not in _BODILESS
            if not drained or (length is None and with_body):
                self.close_connection = True
            self.send_response(code, status[4:])
            for name, value in (*headers, ("Connection", "close" if self.close_connection else "keep-alive")):
                self.send_header(name, value)
            self.end_headers()
            sent = 0
            for chunk in chunks if with_body else ():
                self.wfile.write(chunk)
                sent += len(chunk)
            if with_body and length is not None and sent != int(length):
                self.close_connection = True
        finally:
            if (close := getattr(chunks, "close", None)) is not None:
                close()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: a busy client makes thousands of calls."""

    def log_error(self, *_: object) -> None:
        """Nothing: the client is told."""

    def version_string(self) -> str:
        """No name of a server."""
        return "emr-local"


def _drain(body: Any) -> bool:
    """Read what the application left of a body; False when the rest is too long or cannot be read."""
    left = _DRAINED_MAX
    with contextlib.suppress(OSError, ClientDisconnected):
        while left > 0:
            piece = body.read(1 << 20)
            if not piece:
                return True
            left -= len(piece)
    return False

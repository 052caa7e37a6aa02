"""An EMR endpoint on loopback that answers what it is told to."""

from __future__ import annotations

import json
from typing import Any

from tests.http_server import HttpServer, key_of


class SmallEmr(HttpServer):
    """Answers are taken from ``answers`` in order, the last one stays.

    answers: (status, body) with the body as JSON or raw bytes, or None to close the connection
    calls: (operation, request) of every call
    """

    def __init__(self) -> None:
        self.answers: list[Any] = [(200, {})]
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.signed_by: list[str] = []
        super().__init__()

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, bytes] | None:
        self.calls.append((headers["X-Amz-Target"].partition(".")[2], json.loads(body)))
        self.signed_by.append(key_of(headers))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            return None
        status, content = answer
        return status, content if isinstance(content, bytes) else json.dumps(content).encode()

    def refuse(self, code: str, message: str = "", status: int = 400) -> None:
        self.answers = [(status, {"__type": code, "message": message})]

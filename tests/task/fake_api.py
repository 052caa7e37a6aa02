"""A small Execution API: the rules that parking depends on, and a record of every request."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

AWAY = 599


@dataclass
class Request:
    method: str
    path: str
    body: Any
    authorization: str = ""


@dataclass
class FakeApi:
    """One try's Airflow. state: of the task instance; answers: (method, end of path) to a forced status."""

    state: str = "queued"
    identity: tuple[str, str, int] | None = None
    max_tries: int = 0
    xcoms: dict[tuple[str, str], Any] = field(default_factory=dict)
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    dag_id: str = ""
    clock_ahead_s: float = 0.0

    def asked(self, method: str, end: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and r.path.endswith(end)]

    def states(self) -> list[str]:
        return [r.body["state"] for r in self.asked("PATCH", "/state")]

    def handle(self, request: Request) -> tuple[int, Any]:
        self.requests.append(request)
        for (method, end), answer in self.answers.items():
            if request.method == method and request.path.endswith(end):
                return answer
        parts = request.path.strip("/").split("/")[1:]
        name = f"{request.method} {parts[0]}{'/' + parts[-1] if parts[0] == 'task-instances' else ''}"
        handler = {
            "PATCH task-instances/run": self._run,
            "PUT task-instances/heartbeat": self._heartbeat,
            "PATCH task-instances/state": self._set_state,
            "PUT task-instances/rtif": lambda _r, _p: (201, {"message": "ok"}),
            "PATCH task-instances/rendered-map-index": lambda _r, _p: (201, {"message": "ok"}),
            "POST xcoms": self._set_xcom,
            "GET xcoms": self._get_xcom,
            "DELETE xcoms": self._delete_xcom,
            "GET connections": self._connection,
            "GET variables": self._variable,
        }.get(name)
        if handler is None:
            return 404, {"detail": {"reason": "not_found", "message": f"{name} is not faked"}}
        return handler(request, parts)

    def _run(self, request: Request, parts: list[str]) -> tuple[int, Any]:
        who = tuple(request.body[name] for name in ("hostname", "unixname", "pid"))
        again = self.state == "running" and who == self.identity
        if not again and self.state != "queued":
            return 409, {"detail": {"reason": "invalid_state", "previous_state": self.state}}
        self.state, self.identity = "running", who
        moment = "2026-01-01T00:00:00Z"
        dag_run = {
            "dag_id": self.dag_id,
            "run_id": "run",
            "logical_date": moment,
            "data_interval_start": moment,
            "data_interval_end": moment,
            "run_after": moment,
            "start_date": moment,
            "end_date": None,
            "run_type": "manual",
            "state": "running",
            "consumed_asset_events": [],
            "partition_key": None,
        }
        return 200, {
            "dag_run": dag_run,
            "max_tries": self.max_tries,
            "should_retry": self.max_tries > 0,
            "xcom_keys_to_clear": [key for _, key in self.xcoms],
        }

    def _heartbeat(self, request: Request, parts: list[str]) -> tuple[int, Any]:
        if self.state != "running":
            return 409, {"detail": {"reason": "not_running", "current_state": self.state}}
        hostname, _, pid = self.identity or ("", "", 0)
        if (request.body["hostname"], request.body["pid"]) != (hostname, pid):
            return 409, {"detail": {"reason": "running_elsewhere"}}
        return 204, None

    def _set_state(self, request: Request, parts: list[str]) -> tuple[int, Any]:
        if self.state != "running":
            return 409, {"detail": {"reason": "invalid_state", "previous_state": self.state}}
        self.state = request.body["state"]
        return 204, None

    def _set_xcom(self, request: Request, parts: list[str]) -> tuple[int, Any]:
        self.xcoms[parts[3], parts[4]] = request.body
        return 201, {"message": "ok"}

    def _get_xcom(self, request: Request, parts: list[str]) -> tuple[int, Any]:
        found = self.xcoms.get((parts[3], parts[4]))
        if parts[-1] == "slice":
            return 200, [] if found is None else [found]
        if found is None:
            return 404, {"detail": {"reason": "not_found", "message": "no such XCom"}}
        return 200, {"key": parts[4], "value": found}

    def _delete_xcom(self, request: Request, parts: list[str]) -> tuple[int, Any]:
        self.xcoms.pop((parts[3], parts[4]), None)
        return 200, {"message": "ok"}

    def _connection(self, request: Request, parts: list[str]) -> tuple[int, Any]:
        found = self.connections.get(parts[1])
        if found is None:
            return 404, {"detail": {"reason": "not_found", "message": "no such connection"}}
        empty = dict.fromkeys(("host", "schema", "login", "password", "port", "extra"))
        return 200, {"conn_id": parts[1], **empty, **found}

    def _variable(self, request: Request, parts: list[str]) -> tuple[int, Any]:
        found = self.variables.get(parts[1])
        if found is None:
            return 404, {"detail": {"reason": "not_found", "message": "no such variable"}}
        return 200, {"key": parts[1], "value": found}


class ApiServer:
    """Serves one FakeApi after the other on one port."""

    def __init__(self) -> None:
        self.api = FakeApi()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string((timestamp or time.time()) + outer.api.clock_ahead_s)

            def _any(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                raw = self.rfile.read(length)
                request = Request(
                    self.command,
                    unquote(urlsplit(self.path).path),
                    json.loads(raw) if raw else None,
                    self.headers.get("authorization", ""),
                )
                status, body = outer.api.handle(request)
                if status == AWAY:
                    self.close_connection = True
                    return
                content = b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_PATCH = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/execution/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

"""The emr-local endpoint: EMR, S3 and a control API on one loopback port.

It runs commands by design, so: it listens on 127.0.0.1 only; every request must be signed (SigV4) with the
access key of this start; the Host header must name loopback (a web page cannot get here by DNS rebinding);
no CORS header is ever sent; and answers to what is refused carry no content of the endpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from emr_executor.local.behaviour import EmrModel
from emr_executor.local.control_api import CONTROL_PREFIX, ControlApi
from emr_executor.local.emr_api import ConnectionCut, EmrApi
from emr_executor.local.engine import Engine
from emr_executor.local.entities import ModelOptions
from emr_executor.local.runner import RunnerOptions, StepRunner
from emr_executor.local.s3_api import S3Api
from emr_executor.local.s3_body import BodyTaker
from emr_executor.local.s3_http import S3Request
from emr_executor.local.s3_store import S3Error, S3Store
from emr_executor.local.s3_xml import error_document
from emr_executor.local.sigv4 import Credentials, SignatureRefused, SignedRequest, verify

LOOPBACK = "127.0.0.1"
_JSON_BODY_MAX = 16 * 1024 * 1024
_S3_SERVICE, _EMR_SERVICE = "s3", "elasticmapreduce"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Everything that can be chosen about one start. ``port`` 0 takes a free one."""

    root: Path
    port: int = 0
    model: ModelOptions = field(default_factory=ModelOptions)
    runner: RunnerOptions = field(default_factory=RunnerOptions)


class LocalEndpoint:
    """One running endpoint. Raises OSError when the port is taken."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.credentials = Credentials.random()
        root = options.root.resolve()
        store = S3Store(root / "s3")
        self._http = make_server(
            LOOPBACK, options.port, cast("Any", self), threaded=True, request_handler=_QuietHandler
        )
        self.port = self._http.server_port
        runner = StepRunner(
            root, store, aws_env=self.client_env(), on_ended=self._on_ended, options=options.runner
        )
        self._runner = runner
        self.engine = Engine(EmrModel(options.model, id_seed=secrets.token_hex(8)), runner)
        self._s3 = S3Api(store, region=options.model.region)
        self._store = store
        self._emr = EmrApi(self.engine, sleep=time.sleep)
        self._control = ControlApi(self.engine)
        self._hosts = frozenset(f"{name}:{self.port}" for name in (LOOPBACK, "localhost"))
        self._thread = threading.Thread(target=self._http.serve_forever, name="emr-local http", daemon=True)

    @property
    def endpoint_url(self) -> str:
        """What clients are given."""
        return f"http://{LOOPBACK}:{self.port}"

    def client_env(self) -> dict[str, str]:
        """The AWS variables of a client of this endpoint, such as a step."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.credentials.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_access_key,
            "AWS_REGION": self.options.model.region,
            "AWS_DEFAULT_REGION": self.options.model.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def ready_info(self) -> dict[str, str]:
        """What the ready file holds for clients; secret."""
        return {
            "endpoint_url": self.endpoint_url,
            "access_key_id": self.credentials.access_key_id,
            "secret_access_key": self.credentials.secret_access_key,
            "region": self.options.model.region,
        }

    def start(self) -> None:
        """Answer requests, let time pass."""
        self.engine.start()
        self._thread.start()

    def close(self) -> None:
        """End every cluster and every process of a step, then stop answering."""
        self.engine.close(timeout_s=10)
        self._runner.close()
        self._http.shutdown()
        self._http.server_close()

    def _on_ended(self, cluster_id: str, step_id: str, exit_code: int, failure: dict[str, str]) -> None:
        self.engine.process_ended(cluster_id, step_id, exit_code, failure)

    # -- one request ----------------------------------------------------------------------------------

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """WSGI."""
        request = Request(environ)
        try:
            response = self._respond(request)
        except ConnectionCut:
            connection: socket.socket = environ["werkzeug.socket"]
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            raise
        return response(environ, start_response)

    def _respond(self, request: Request) -> Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        if headers.get("host") not in self._hosts:
            return _drained(request, _refusal("AccessDenied", "Only loopback names are served.", headers))
        raw_path, _, raw_query = str(request.environ["REQUEST_URI"]).partition("?")
        declared = headers.get("x-amz-content-sha256")
        body: bytes | None = None
        try:
            if declared is None:
                body = _small_body(request)
                declared = hashlib.sha256(body).hexdigest()
            signed = SignedRequest(
                method=request.method,
                raw_path=raw_path,
                raw_query=raw_query,
                headers=headers,
                payload_hash=declared,
            )
            service = verify(signed, self.credentials, now=datetime.now(UTC))
        except SignatureRefused as refused:
            return _drained(request, _refusal(refused.code, refused.message, headers))
        if raw_path.startswith(CONTROL_PREFIX):
            body = _small_body(request) if body is None else body
            return self._control.handle(request.method, raw_path, dict(parse_qsl(raw_query)), body)
        if service == _EMR_SERVICE:
            body = _small_body(request) if body is None else body
            return self._emr.handle(headers.get("x-amz-target", ""), body)
        if service == _S3_SERVICE:
            return _drained(request, self._s3.handle(_s3_request(request, headers, raw_path, raw_query)))
        return _drained(
            request, _refusal("UnknownService", f"emr-local does not serve {service}.", headers, status=400)
        )


def _s3_request(request: Request, headers: Mapping[str, str], raw_path: str, raw_query: str) -> S3Request:
    bucket, _, key = raw_path.lstrip("/").partition("/")
    return S3Request(
        method=request.method,
        bucket=unquote(bucket),
        key=unquote(key),
        query=dict(parse_qsl(raw_query, keep_blank_values=True)),
        headers=headers,
        body=BodyTaker(request.stream, headers),
    )


def _small_body(request: Request) -> bytes:
    length = request.content_length or 0
    if length > _JSON_BODY_MAX:
        raise SignatureRefused("RequestTooLarge", "The request body is larger than any EMR request.")
    return request.stream.read(_JSON_BODY_MAX)


def _drained(request: Request, response: Response) -> Response:
    """Read what is left of a body: an unread rest would be taken for the connection's next request."""
    with contextlib.suppress(OSError):
        while request.stream.read(1 << 20):
            pass
    return response


def _refusal(code: str, message: str, headers: Mapping[str, str], *, status: int = 403) -> Response:
    if "x-amz-target" in headers:
        body = f'{{"__type": "{code}", "message": "{message}"}}'
        return Response(
            body, status=status if code != "MissingAuthenticationToken" else 400, mimetype="application/json"
        )
    return Response(
        error_document(S3Error(code, message, status=status), ""), status=status, mimetype="application/xml"
    )


class _QuietHandler(WSGIRequestHandler):
    """No line for each request, and no banner that names the server."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: a busy client makes thousands of calls."""

    def version_string(self) -> str:
        return "emr-local"

"""The emr-local endpoint: EMR, S3 and a control API on one loopback port.

It runs commands by design, so: it listens on 127.0.0.1 only; every request must be signed (SigV4) with the
access key of this start; the Host header must name loopback (a web page cannot get here by DNS rebinding);
no CORS header is ever sent; and answers to what is refused carry no content of the endpoint.
"""

from __future__ import annotations

import hashlib
import json
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

from werkzeug.exceptions import ClientDisconnected
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from emr_executor.local.behaviour import EmrModel
from emr_executor.local.control_api import CONTROL_PREFIX, ControlApi
from emr_executor.local.emr_api import CONTENT_TYPE, EmrApi
from emr_executor.local.engine import Engine
from emr_executor.local.entities import ModelOptions
from emr_executor.local.http import ConnectionCut, KeepAliveHandler
from emr_executor.local.runner import RunnerOptions, StepRunner
from emr_executor.local.s3_api import S3Api
from emr_executor.local.s3_body import BodyTaker
from emr_executor.local.s3_http import S3Request
from emr_executor.local.s3_store import S3Error, S3Store
from emr_executor.local.s3_xml import error_document
from emr_executor.local.sigv2 import is_presigned_v2, verify_v2
from emr_executor.local.sigv4 import (
    UNSIGNED_PAYLOAD,
    Credentials,
    SignatureRefused,
    SignedRequest,
    is_presigned,
    verify,
)

LOOPBACK = "127.0.0.1"
_JSON_BODY_MAX = 16 * 1024 * 1024
_KEPT_BODY = "emr_local.body"
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
        # Bound here, because werkzeug would end the process when the port is taken.
        with _listen(options.port) as listener:
            self._http = make_server(
                *listener.getsockname(),
                cast("Any", self),
                threaded=True,
                request_handler=KeepAliveHandler,
                fd=listener.fileno(),
            )
        self.port = self._http.port
        self._runner = StepRunner(
            root,
            store,
            aws_env=self.client_env(),
            on_ended=lambda *end: self.engine.process_ended(*end),  # noqa: PLW0108  (the engine comes later)
            options=options.runner,
        )
        self.engine = Engine(EmrModel(options.model, id_seed=secrets.token_hex(8)), self._runner)
        self._s3 = S3Api(store, region=options.model.region)
        self._store = store
        self._emr = EmrApi(self.engine, sleep=time.sleep)
        self._control = ControlApi(self.engine, self._set_away)
        self._is_away = self._is_closed = False
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
        self._is_closed = True
        self._http.shutdown()
        self._http.server_close()

    def _set_away(self, is_away: bool) -> None:
        self._is_away = is_away

    # -- one request ----------------------------------------------------------------------------------

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """WSGI. Raises ConnectionCut when there is to be no answer."""
        return self._respond(Request(environ))(environ, start_response)

    def _respond(self, request: Request) -> Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        if headers.get("host") not in self._hosts:
            return _refusal("AccessDenied", "Only loopback names are served.", headers)
        raw_path, _, raw_query = str(request.environ["REQUEST_URI"]).partition("?")
        if self._is_closed or (self._is_away and not raw_path.startswith(CONTROL_PREFIX)):
            raise ConnectionCut
        try:
            service = self._verify(request, headers, raw_path, raw_query)
            if service == _S3_SERVICE and not raw_path.startswith(CONTROL_PREFIX):
                return self._s3.handle(_s3_request(request, headers, raw_path, raw_query))
            body = _small_body(request, headers)
        except SignatureRefused as refused:
            return _refusal(refused.code, refused.message, headers)
        except ClientDisconnected:
            raise ConnectionCut from None
        except OSError as error:
            if error.errno is not None:
                raise
            # Of werkzeug, about a chunked body.
            return _refusal("IncompleteBody", f"The body cannot be read: {error}", headers, status=400)
        if raw_path.startswith(CONTROL_PREFIX):
            return self._control.handle(request.method, raw_path, dict(parse_qsl(raw_query)), body)
        if service == _EMR_SERVICE:
            return self._emr.handle(headers.get("x-amz-target", ""), body)
        return _refusal("UnknownService", f"emr-local does not serve {service}.", headers, status=400)

    def _verify(self, request: Request, headers: Mapping[str, str], raw_path: str, raw_query: str) -> str:
        """The service that the request is signed for. Raises SignatureRefused."""
        declared = headers.get("x-amz-content-sha256")
        if declared is None:
            declared = UNSIGNED_PAYLOAD if _is_presigned(raw_query) else _sha256(_bounded_body(request))
        signed = SignedRequest(
            method=request.method,
            raw_path=raw_path,
            raw_query=raw_query,
            headers=headers,
            payload_hash=declared,
        )
        now = datetime.now(UTC)
        if is_presigned_v2(raw_query):
            verify_v2(signed, self.credentials, now=now)
            return _S3_SERVICE
        return verify(signed, self.credentials, now=now)


def _listen(port: int) -> socket.socket:
    """A listening socket on loopback. Raises OSError when the port is taken."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _is_presigned(raw_query: str) -> bool:
    return is_presigned(raw_query) or is_presigned_v2(raw_query)


def _s3_request(request: Request, headers: Mapping[str, str], raw_path: str, raw_query: str) -> S3Request:
    if "x-amz-content-sha256" not in headers and not _is_presigned(raw_query):
        message = "Missing required header for this request: x-amz-content-sha256"
        raise SignatureRefused("InvalidRequest", message)
    bucket, _, key = raw_path.removeprefix("/").partition("/")
    return S3Request(
        method=request.method,
        bucket=unquote(bucket),
        key=unquote(key),
        query=dict(parse_qsl(raw_query, keep_blank_values=True)),
        headers=headers,
        body=BodyTaker(request.stream, headers),
    )


def _small_body(request: Request, headers: Mapping[str, str]) -> bytes:
    """The whole body, which must be the one that was signed. Raises SignatureRefused."""
    body = _bounded_body(request)
    if headers.get("x-amz-content-sha256", _sha256(body)) != _sha256(body):
        raise SignatureRefused("SignatureDoesNotMatch", "The body is not the one that was signed.")
    return body


def _bounded_body(request: Request) -> bytes:
    """The body, kept for the next reader too. Raises SignatureRefused when it is too large."""
    kept: bytes | None = request.environ.get(_KEPT_BODY)
    if kept is None:
        kept = request.stream.read(_JSON_BODY_MAX + 1)
        # A chunked body may give less than what was asked for.
        while len(kept) <= _JSON_BODY_MAX and (piece := request.stream.read(_JSON_BODY_MAX + 1 - len(kept))):
            kept += piece
        if len(kept) > _JSON_BODY_MAX:
            raise SignatureRefused("RequestTooLarge", "The request body is too large.")
        request.environ[_KEPT_BODY] = kept
    return kept


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _refusal(code: str, message: str, headers: Mapping[str, str], *, status: int = 403) -> Response:
    """An error in the form that the client reads: JSON for EMR's protocol, XML for the others."""
    if "x-amz-target" in headers:
        members = {"__type": code, "message": message}
        return Response(json.dumps(members), status=status, content_type=CONTENT_TYPE)
    body = error_document(S3Error(code, message, status=status), "")
    return Response(body, status=status, content_type="application/xml")

"""Whatever comes over the wire is answered with a 4xx at worst, and the next request as ever."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emr_executor.emr_request import emr_model
from emr_executor.local.behaviour import EmrModel
from emr_executor.local.emr_api import EmrApi
from emr_executor.local.engine import Engine
from emr_executor.local.operations import OPERATIONS, READS
from emr_executor.local.server import LocalEndpoint, ServerOptions
from tests.airflow_stack.emr_local_process import ReadyInfo
from tests.local.signing import signed
from tests.local.world import launch_request, step_config

BOUNDED = settings(
    max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
DEEP = 100_000


class NoProcesses:
    """Steps whose command nobody runs: what is sent here is no command that anyone chose."""

    def start(self, _: object) -> None:
        """Nothing."""

    kill = start


class Client:
    """An endpoint without a server: requests go to its WSGI application."""

    def __init__(self, root: Path) -> None:
        self.endpoint = LocalEndpoint(ServerOptions(root=root))
        self.endpoint._emr = EmrApi(Engine(EmrModel(), NoProcesses()), sleep=time.sleep)
        self.ready = ReadyInfo(**self.endpoint.ready_info(), pid=0)
        self.cluster_id = self.emr("RunJobFlow", launch_request())[1]["JobFlowId"]

    def emr(self, operation: str, request: Any) -> tuple[int, Any]:
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        headers = {"x-amz-target": f"ElasticMapReduce.{operation}"}
        status, answer = self.send("POST", "/", headers, body=body, service="elasticmapreduce")
        return status, json.loads(answer)

    def send(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        *,
        query: str = "",
        body: bytes = b"",
        service: str = "s3",
    ) -> tuple[int, bytes]:
        host = {"host": urlsplit(self.ready.endpoint_url).netloc}
        payload = {"x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
        target, sent = signed(
            self.ready,
            method,
            path,
            payload | {"content-length": str(len(body))} | (headers or {}) | host,
            service=service,
            query=query,
            at=datetime.now(UTC),
        )
        return self.raw(method, target, sent, body)

    def raw(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "REQUEST_URI": target,
            "PATH_INFO": "/",
            "SERVER_NAME": "x",
            "SERVER_PORT": "0",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.input_terminated": True,
        }
        for name, value in headers.items():
            key = name.upper().replace("-", "_")
            environ[key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}"] = value
        statuses: list[str] = []
        chunks = self.endpoint(environ, lambda status, *_: statuses.append(status))
        answer = b"".join(chunks)
        getattr(chunks, "close", lambda: None)()
        return int(statuses[0][:3]), answer


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(tmp_path_factory.mktemp("fuzz"))
    assert client.send("PUT", "/fuzz")[0] == 200
    assert client.send("PUT", "/fuzz/k", body=b"0123456789")[0] == 200
    yield client
    client.endpoint._http.server_close()


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 1, 2, 257, 2_000_000_000, 1 << 63, 10**400, -1e308, 5.5]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(
        ["", "\0", "\ud800", "9" * 5000, "2026-12-01", "CONTINUE", "MASTER", "x" * 20_000, "<$|>"]
    ),
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def mostly(usual: st.SearchStrategy[Any], strange: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 19).flatmap(lambda n: strange if n == 19 else usual)


def requests_of(shape: Any, known: str, depth: int = 0) -> st.SearchStrategy[Any]:
    """Requests that look like a shape's, with junk in some places."""
    kind = shape.type_name
    if depth > 5:
        return st.just({"structure": {}, "list": [], "map": {}}.get(kind, "x"))
    if kind == "structure":
        members = {name: requests_of(member, known, depth + 1) for name, member in shape.members.items()}
        required = {name: members.pop(name) for name in shape.required_members}
        some = st.sets(st.sampled_from(sorted(members)), max_size=4) if members else st.just(set())
        chosen = some.flatmap(
            lambda names: st.fixed_dictionaries(required | {name: members[name] for name in names})
        )
        return mostly(chosen, JUNK)
    if kind == "list":
        return mostly(st.lists(requests_of(shape.member, known, depth + 1), max_size=2), JUNK)
    if kind == "map":
        return st.dictionaries(st.text(max_size=8), requests_of(shape.value, known, depth + 1), max_size=2)
    if kind == "string" and shape.enum:
        return mostly(st.sampled_from(list(shape.enum)), SCALARS)
    if kind == "string":
        return mostly(st.sampled_from([known, "m5.xlarge", "command-runner.jar", "emr-7.13.0"]), SCALARS)
    if kind in ("integer", "long"):
        return mostly(st.integers(0, 300), SCALARS)
    return mostly(st.booleans() if kind == "boolean" else st.integers(0, 1 << 32), SCALARS)


@given(data=st.data())
@BOUNDED
def test_no_emr_request_is_a_5xx(client: Client, data: st.DataObject) -> None:
    operation = data.draw(st.sampled_from(sorted({*OPERATIONS, *READS})))
    shape = emr_model().operation_model(operation).input_shape
    request = data.draw(requests_of(shape, client.cluster_id))
    assert client.emr(operation, request)[0] in (200, 400)


@given(body=st.binary(max_size=200) | JUNK.map(lambda value: json.dumps(value).encode()))
@BOUNDED
def test_no_body_is_a_5xx(client: Client, body: bytes) -> None:
    assert client.emr("RunJobFlow", body)[0] == 400


GROUP = {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1}
FLEET = {"InstanceFleetType": "MASTER", "TargetOnDemandCapacity": 1}
MANY = 2_000_000_000


def groups(*groups: dict[str, Any]) -> dict[str, Any]:
    return launch_request(Instances={"InstanceGroups": list(groups)})


STRANGE: dict[str, tuple[str, Any]] = {
    "many instances": ("RunJobFlow", launch_request(Instances={"InstanceCount": MANY})),
    "many in a group": ("RunJobFlow", groups(GROUP, GROUP | {"InstanceRole": "CORE", "InstanceCount": MANY})),
    "many in a fleet": (
        "RunJobFlow",
        launch_request(
            Instances={
                "InstanceFleets": [FLEET, FLEET | {"InstanceFleetType": "CORE", "TargetSpotCapacity": MANY}]
            }
        ),
    ),
    "less than none": ("RunJobFlow", groups(GROUP | {"InstanceCount": -1})),
    "deep JSON": ("RunJobFlow", b"[" * DEEP + b"]" * DEEP),
    "deep JSON in a member": ("RunJobFlow", b'{"Name":' + b'{"a":' * DEEP + b"1" + b"}" * (DEEP + 1)),
    "deep Configurations": (
        "RunJobFlow",
        b'{"Configurations":' + b'[{"Configurations":' * 200 + b"[]" + b"}]" * 200 + b"}",
    ),
    "a date as text": ("ListClusters", {"CreatedAfter": "2026-12-01T00:00:00Z"}),
    "a date out of range": ("ListClusters", b'{"CreatedAfter": 1e999}'),
    "no number": ("ListClusters", b'{"CreatedAfter": NaN}'),
    "a tag without a key": ("RunJobFlow", launch_request(Tags=[{"Value": "x"}])),
    "a long marker": ("ListClusters", {"Marker": "9" * 5000}),
    "NUL in an argument": ("AddJobFlowSteps", {"JobFlowId": "j-X", "Steps": [step_config(args=("a\0b",))]}),
    "half a pair": ("AddJobFlowSteps", {"JobFlowId": "j-X", "Steps": [step_config(args=("a\ud800",))]}),
    "a long pattern": ("RunJobFlow", launch_request(Name="x" * 20_000)),
    "not UTF-8": ("RunJobFlow", b'{"Name": "\xff\xfe"}'),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_users_sent_is_a_400_with_a_text_within_a_second(client: Client, kind: str) -> None:
    operation, request = STRANGE[kind]
    started = time.monotonic()
    status, answer = client.emr(operation, request)
    if kind == "a date out of range":
        assert status == 200  # later than any cluster
    else:
        assert (status, bool(answer["message"])) == (400, True)
    assert time.monotonic() - started < 1
    assert client.emr("DescribeCluster", {"ClusterId": client.cluster_id})[0] == 200


def test_a_body_over_the_limit_is_refused(client: Client) -> None:
    status, answer = client.emr("ListClusters", b'{"Marker": "' + b"1" * (17 << 20) + b'"}')
    assert (status, answer["__type"]) == (403, "RequestTooLarge")


HEADER_NAMES = """
    range if-match if-none-match if-modified-since if-unmodified-since content-md5
    x-amz-copy-source x-amz-copy-source-range x-amz-copy-source-if-match x-amz-meta-a
    x-amz-content-sha256 x-amz-decoded-content-length x-amz-metadata-directive content-encoding
    x-amz-checksum-crc32 x-amz-checksum-sha256 expires content-type x-amz-if-match-size
"""
HEADERS = st.sampled_from(HEADER_NAMES.split())
LATIN = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20)
VALUES = LATIN | st.sampled_from(
    [
        *("", "*", "bytes=-", "bytes=5-2", "bytes=99-", "bytes=0-" + "9" * 5000, "-1", "9" * 5000),
        *("/fuzz/k", "fuzz", "/fuzz/../../etc/passwd", "\xff", "a\tb", "REPLACE", "UNSIGNED-PAYLOAD"),
        *("STREAMING-UNSIGNED-PAYLOAD-TRAILER", "Mon, 99 Foo", "Tue, 01 Jan 0001"),
        "Thu, 01 Jan 9999 00:00:00 -9999",
    ]
)
PARAMETER_NAMES = """
    list-type prefix delimiter marker max-keys continuation-token start-after uploads
    uploadId partNumber delete encoding-type location acl versionId fetch-owner
"""
PARAMETERS = st.sampled_from(PARAMETER_NAMES.split())
KEYS = st.text(max_size=12) | st.sampled_from(
    ["k", "", "a/b", "k/under", "../x", "a//b", "\0", "\x01", "x" * 300, "k" * 1100, "/", ".", "folder/"]
)
XML = st.sampled_from(
    [
        b"",
        b"<Delete/>",
        b"<Delete><Object><Key></Key></Object></Delete>",
        b"<Delete><Object><Key>k2</Key><ETag>x</ETag></Object><Object/></Delete>",
        b'<?xml version="1.0" encoding="nonsense"?><Delete/>',
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        b"<a>" * 50_000,
        b"<C><Part><PartNumber>" + b"9" * 5000 + b"</PartNumber><ETag>../../x</ETag></Part></C>",
        b"<C><Part><PartNumber>1</PartNumber><ETag>../../../x</ETag></Part></C>",
    ]
)


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"]),
    bucket=mostly(st.just("fuzz"), st.sampled_from(["", "absent", "a..b", "\0", "..", "x" * 300])),
    key=mostly(st.just("k"), KEYS) | KEYS,
    headers=st.dictionaries(HEADERS, VALUES, max_size=2),
    query=st.dictionaries(PARAMETERS, st.text(max_size=8) | VALUES, max_size=2) | st.just({}),
    body=st.binary(max_size=50) | XML,
)
@BOUNDED
def test_no_s3_request_is_a_5xx(  # noqa: PLR0917  (hypothesis gives them by name)
    client: Client,
    method: str,
    bucket: str,
    key: str,
    headers: dict[str, str],
    query: dict[str, str],
    body: bytes,
) -> None:
    client.send("PUT", "/fuzz")
    client.send("PUT", "/fuzz/k", body=b"0123456789")
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items())
    text = "&".join(f"{name}={value}" for name, value in pairs)
    status, answer = client.send(method, f"/{bucket}/{key}", headers, query=text, body=body)
    # 501: a condition that S3 does not know on this operation; it is S3's own answer.
    assert 200 <= status < 500 or (status == 501 and b"<Code>NotImplemented</Code>" in answer), answer
    assert status < 400 or not answer or ET.fromstring(answer).tag == "Error"


@given(method=st.sampled_from(["GET", "PUT", "POST"]), values=st.lists(VALUES, min_size=8, max_size=8))
@BOUNDED
def test_no_signature_is_a_5xx(client: Client, method: str, values: list[str]) -> None:
    """Whoever has no key is refused, and nothing that was sent is looked at."""
    host = {"host": urlsplit(client.ready.endpoint_url).netloc}
    key, day = client.ready.access_key_id, datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{key}/{day[:8]}/us-east-1/s3/aws4_request"
    parts = [quote(value) for value in values]
    v4 = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={quote(scope)}&X-Amz-Date={day}"
    v4 += "&X-Amz-SignedHeaders=host"
    for query in (
        f"{v4}&X-Amz-Expires={parts[0]}&X-Amz-Signature={parts[1]}",
        f"{v4}&X-Amz-Expires=60&X-Amz-Signature={parts[1]}&list-type={parts[2]}",
        f"AWSAccessKeyId={key}&Expires={parts[3]}&Signature={parts[4]}",
        f"AWSAccessKeyId={parts[5]}&Expires=99999999999&Signature={parts[4]}",
    ):
        assert client.raw(method, f"/fuzz/k?{query}", host)[0] == 403
    header = (
        f"AWS4-HMAC-SHA256 Credential={values[5]}/{scope}, SignedHeaders={values[6]}, Signature={values[7]}"
    )
    for authorization in (header, values[0], f"AWS4-HMAC-SHA256 {values[1]}", f"AWS {key}:{values[2]}"):
        sent = host | {"authorization": authorization, "x-amz-date": values[3], "content-length": "0"}
        assert client.raw(method, "/fuzz/k", sent)[0] == 403


def test_nothing_left_the_bucket(client: Client) -> None:
    root = client.endpoint.options.root.resolve()
    assert not {entry.name for entry in os.scandir(root)} - {"s3", "s3-state", "logs", "run"}
    assert client.send("GET", "/fuzz", query="list-type=2")[0] == 200

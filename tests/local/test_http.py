"""Connections are kept, and what comes over one that makes no sense ends it with a 400."""

from __future__ import annotations

import http.client
import socket
from urllib.parse import urlsplit

import pytest

from emr_executor.local import http as local_http
from tests.airflow_stack.emr_local_process import ReadyInfo
from tests.local.signing import by_hand, connection_to

TIMEOUT_S = 10


def connected(ready: ReadyInfo) -> socket.socket:
    parts = urlsplit(ready.endpoint_url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=TIMEOUT_S)


def until_closed(connection: socket.socket) -> bytes:
    got = b""
    while piece := connection.recv(1 << 16):
        got += piece
    return got


def test_further_requests_on_one_connection_are_answered(ready: ReadyInfo) -> None:
    by_hand(ready, "PUT", "/keep")
    connection = connection_to(ready)
    connection.connect()
    kept = connection.sock
    for n in range(3):
        answer = by_hand(ready, "PUT", f"/keep/{n}", b"x" * 1000, connection=connection)
        assert (answer.status, answer.getheader("connection"), answer.read()) == (200, "keep-alive", b"")
        answer = by_hand(ready, "GET", f"/keep/{n}", connection=connection)
        assert (answer.status, len(answer.read())) == (200, 1000)
        assert by_hand(ready, "HEAD", f"/keep/{n}", connection=connection).read() == b""
        assert by_hand(ready, "DELETE", f"/keep/{n}", connection=connection).read() == b""
        assert connection.sock is kept


def test_an_unread_body_is_not_taken_for_the_next_request(ready: ReadyInfo) -> None:
    connection = connection_to(ready)
    connection.connect()
    kept = connection.sock
    for _ in range(2):
        connection.request("PUT", "/bucket/key", b"GET / HTTP/1.1\r\n\r\n" * 10_000)
        answer = connection.getresponse()
        assert (answer.status, b"MissingAuthenticationToken" in answer.read()) == (403, True)
    assert connection.sock is kept


def test_a_body_that_is_too_long_to_be_drained_closes_the_connection(
    ready: ReadyInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_http, "_DRAINED_MAX", 1000)
    connection = connection_to(ready)
    headers = {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    connection.request("PUT", "/bucket/key", b"x" * (3 << 20), headers)
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("connection")) == (403, "close")


@pytest.mark.parametrize("header", ["Connection: close\r\n", ""])
def test_a_client_that_wants_the_connection_closed_gets_that(ready: ReadyInfo, header: str) -> None:
    version = "1.1" if header else "1.0"
    with connected(ready) as connection:
        connection.sendall(f"GET / HTTP/{version}\r\nHost: x\r\n{header}\r\n".encode())
        assert until_closed(connection).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "head",
    [
        b"PUT /b/k HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /b/k HTTP/1.1\r\nx-amz-meta-a: one\r\n two\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_a_request_whose_end_cannot_be_known_is_a_400(
    ready: ReadyInfo, capfd: pytest.CaptureFixture[str], head: bytes
) -> None:
    with connected(ready) as connection:
        connection.sendall(head)
        assert b"400" in until_closed(connection)
    assert by_hand(ready, "GET", "/").status == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("service", ["s3", "elasticmapreduce"])
def test_a_client_that_hangs_up_is_no_ones_trouble(
    ready: ReadyInfo, capfd: pytest.CaptureFixture[str], service: str
) -> None:
    by_hand(ready, "PUT", "/hung-up")
    connection = connection_to(ready)
    headers = {"content-length": "5000", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    with pytest.raises((http.client.HTTPException, OSError)):
        by_hand(
            ready,
            "POST" if service != "s3" else "PUT",
            "/" if service != "s3" else "/hung-up/k",
            service=service,
            headers=headers,
            send_body=b"x" * 10,
            connection=connection,
            hang_up=True,
        )
    assert by_hand(ready, "GET", "/hung-up/k").status == 404
    assert capfd.readouterr().err == ""


def test_a_chunked_body_is_read_and_a_broken_one_is_a_400(ready: ReadyInfo) -> None:
    for body, status in ((b"5\r\nhello\r\n0\r\n\r\n", b" 403 "), (b"zz\r\nhello", b" 403 ")):
        with connected(ready) as connection:
            connection.sendall(b"PUT /b/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
            connection.shutdown(socket.SHUT_WR)
            assert status in until_closed(connection).splitlines()[0]

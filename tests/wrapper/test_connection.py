"""The wrapper's HTTP against answers of every shape, as raw bytes."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from emr_executor.wrapper import emr_step_wrapper as wrapper


class RawServer:
    """Answers each request of each connection with the next bytes; closes a connection after ``b""``."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: list[bytes] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
                with self._tls.wrap_socket(accepted, server_side=True) if self._tls else accepted as peer:
                    self.connections += 1
                    self._talk(peer)
            except ssl.SSLError:
                continue
            except OSError:
                return

    def _talk(self, peer: socket.socket) -> None:
        while self.answers:
            request = b""
            while b"\r\n\r\n" not in request:
                more = peer.recv(65536)
                if not more:
                    return
                request += more
            self.requests.append(request)
            answer = self.answers.pop(0)
            peer.sendall(answer)
            if not answer or b"close" in answer or b"cut" in answer:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def server() -> Iterator[RawServer]:
    running = RawServer()
    yield running
    running.close()


@pytest.mark.parametrize("take", [None, [].append], ids=["whole", "by blocks"])
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ncut",
        b"HTTP/1.1 many close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: 1\r\n" * 300 + b"close\r\n",
    ],
)
def test_broken_answers_are_faults_that_are_retried(server: RawServer, answer: bytes, take: Any) -> None:
    server.answers = [answer]
    connection = wrapper.connection_to("http", f"127.0.0.1:{server.port}")
    with pytest.raises(wrapper.FAULTS):
        wrapper.exchange(connection, "GET", "/key", {}, take=take)
    connection.close()


@pytest.fixture
def s3(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> wrapper.S3:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}/prefix/")
    return wrapper.S3(wrapper.Metadata())


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_connection_is_kept_for_the_next_object(s3: wrapper.S3, server: RawServer) -> None:
    server.answers = [OK, OK]
    s3.put("s3://b/one", b"1")
    s3.put("s3://b/two", b"2")
    assert server.connections == 1
    assert [request.split()[1] for request in server.requests] == [b"/prefix/b/one", b"/prefix/b/two"]


def test_kept_connection_that_the_server_closed_is_made_anew(s3: wrapper.S3, server: RawServer) -> None:
    server.answers = [OK, b"", OK]
    s3.put("s3://b/one", b"1")
    s3.put("s3://b/two", b"2")
    assert server.connections == 2


def test_new_connection_that_breaks_is_a_fault(s3: wrapper.S3, server: RawServer) -> None:
    server.answers = [b"", OK]
    with pytest.raises(ConnectionError):
        s3.put("s3://b/one", b"1")


def test_bucket_in_another_region_is_signed_for_there(s3: wrapper.S3, server: RawServer) -> None:
    elsewhere = b"HTTP/1.1 400 Bad\r\nx-amz-bucket-region: us-west-2\r\nContent-Length: 0\r\n\r\n"
    server.answers = [elsewhere, OK, OK]
    s3.put("s3://b/one", b"1")
    s3.put("s3://b/two", b"2")
    assert [b"us-west-2" in request for request in server.requests] == [False, True, True]


def test_moment_of_expiry_is_utc() -> None:
    assert wrapper.epoch("2026-07-01T00:00:00Z") == 1_782_864_000
    assert wrapper.epoch("2026-01-31T23:59:59.123Z") == 1_769_903_999


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for localhost that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "localhost.pem"
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, pkcs8, plain))
    return path


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[RawServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    running = RawServer(context)
    yield running
    running.close()


def test_https_with_a_trusted_certificate(
    tls_server: RawServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls_server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"]
    connection = wrapper.connection_to("https", f"localhost:{tls_server.port}")
    assert wrapper.exchange(connection, "GET", "/key", {})[1] == b"yes"
    connection.close()


def test_https_with_an_unknown_certificate_is_a_fault(tls_server: RawServer) -> None:
    connection = wrapper.connection_to("https", f"localhost:{tls_server.port}")
    with pytest.raises(ssl.SSLCertVerificationError) as raised:
        wrapper.exchange(connection, "GET", "/key", {})
    assert isinstance(raised.value, wrapper.FAULTS)

"""Takes the body of an S3 request in: to a file, hashed on the way, unwrapped when it is aws-chunked.

AWS's clients send ``Content-Encoding: aws-chunked`` with ``x-amz-content-sha256: STREAMING-...`` for signed
or unsigned chunks and with trailing checksums. Chunk signatures are not checked again: the request's own
signature was, over loopback. Checksums are, where the standard library can compute them.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from zlib import crc32

from emr_executor.local.s3_store import S3Error

_PIECE = 1 << 20
_LINE_MAX = 8192
_HEX = re.compile(rb"[0-9a-fA-F]{1,12}")


class Readable(Protocol):
    """A binary stream that ends where the request's body does."""

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes; empty at the end."""
        ...

    def readline(self, size: int = -1, /) -> bytes:
        """One line with its end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A body that was taken in. The file is the taker's to move or to delete."""

    path: Path
    size: int
    md5: str


class BodyTaker:
    """Reads one body once."""

    def __init__(self, stream: Readable, headers: Mapping[str, str]) -> None:
        self._stream = stream
        self._headers = headers
        self._trailers: dict[str, str] = {}

    def take(self, path: Path) -> Body:
        """Write the body to ``path``. Raises S3Error, leaving no file, when its headers say otherwise."""
        declared = self._headers.get("x-amz-content-sha256", "")
        sums = _Sums()
        try:
            with path.open("wb") as file:
                pieces = self._chunked() if declared.startswith("STREAMING-") else self._plain()
                for piece in pieces:
                    sums.add(piece)
                    file.write(piece)
            self._check(sums, declared)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Body(path=path, size=sums.size, md5=sums.md5.hexdigest())

    def _plain(self) -> Iterator[bytes]:
        while piece := self._stream.read(_PIECE):
            yield piece

    def _chunked(self) -> Iterator[bytes]:
        while True:
            size = self._chunk_size()
            if size == 0:
                break
            left = size
            while left:
                piece = self._stream.read(min(left, _PIECE))
                if not piece:
                    raise S3Error("IncompleteBody", "The aws-chunked body ends within a chunk.", status=400)
                left -= len(piece)
                yield piece
            self._stream.readline(_LINE_MAX)
        while line := self._stream.readline(_LINE_MAX).strip():
            name, _, value = line.decode("latin-1").partition(":")
            self._trailers[name.strip().lower()] = value.strip()

    def _chunk_size(self) -> int:
        line = self._stream.readline(_LINE_MAX)
        size = line.split(b";", 1)[0].strip()
        if _HEX.fullmatch(size):
            return int(size, 16)
        raise S3Error("IncompleteBody", "The aws-chunked body has a chunk without a size.", status=400)

    def _check(self, sums: _Sums, declared: str) -> None:
        length = self._headers.get("x-amz-decoded-content-length")
        if declared.startswith("STREAMING-") and length is not None and length.strip() != str(sums.size):
            raise S3Error(
                "IncompleteBody", "The body is not as long as x-amz-decoded-content-length.", status=400
            )
        if _is_sha256(declared) and declared != sums.sha256.hexdigest():
            raise S3Error(
                "XAmzContentSHA256Mismatch", "The body's SHA-256 is not x-amz-content-sha256.", status=400
            )
        md5 = self._headers.get("content-md5")
        if md5 is not None and md5 != _b64(sums.md5.digest()):
            raise S3Error(
                "BadDigest", "The Content-MD5 you specified did not match what we received.", status=400
            )
        for name, actual in sums.checksums().items():
            given = self._headers.get(name, self._trailers.get(name))
            if given is not None and given != actual:
                raise S3Error("BadDigest", f"The body does not match {name}.", status=400)


class _Sums:
    def __init__(self) -> None:
        self.size = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.sha1 = hashlib.sha1(usedforsecurity=False)
        self.sha256 = hashlib.sha256()
        self.crc32 = 0

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        self.md5.update(piece)
        self.sha1.update(piece)
        self.sha256.update(piece)
        self.crc32 = crc32(piece, self.crc32)

    def checksums(self) -> dict[str, str]:
        """By header name, base64 as S3 has them. CRC32C and CRC64NVME need more than the standard library."""
        return {
            "x-amz-checksum-crc32": _b64(self.crc32.to_bytes(4, "big")),
            "x-amz-checksum-sha1": _b64(self.sha1.digest()),
            "x-amz-checksum-sha256": _b64(self.sha256.digest()),
        }


def _b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _is_sha256(text: str) -> bool:
    with contextlib.suppress(binascii.Error, ValueError):
        return len(bytes.fromhex(text)) == hashlib.sha256().digest_size
    return False

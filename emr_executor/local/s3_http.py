"""Values and small helpers that every S3 operation needs: the request, headers, ranges, conditions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import BinaryIO

from werkzeug.wrappers import Response

from emr_executor.local.s3_body import Body, BodyTaker
from emr_executor.local.s3_store import ObjectInfo, S3Error, S3Store

_KEPT_HEADERS = (
    "content-type",
    "content-disposition",
    "content-language",
    "cache-control",
    "expires",
)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Request:
    """One request, with its bucket and key taken from the path; header names in lower case."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: BodyTaker

    def take_body(self, store: S3Store) -> Body:
        """The body in a temporary file, which the caller moves or deletes."""
        return self.body.take(store.new_temporary())

    def read_body(self, store: S3Store) -> bytes:
        """A small body, whole."""
        body = self.take_body(store)
        try:
            return body.path.read_bytes()
        finally:
            body.path.unlink(missing_ok=True)


def xml(body: bytes, status: int = 200) -> Response:
    """An answer with an XML body."""
    return Response(body, status=status, content_type="application/xml")


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What an object remembers of the request that wrote it: content headers and user metadata."""
    kept = {name: headers[name] for name in _KEPT_HEADERS if headers.get(name)}
    kept |= {name: value for name, value in headers.items() if name.startswith("x-amz-meta-")}
    encodings = [part.strip() for part in headers.get("content-encoding", "").split(",")]
    if encoding := ",".join(part for part in encodings if part and part != "aws-chunked"):
        kept["content-encoding"] = encoding
    return kept


def object_headers(info: ObjectInfo) -> dict[str, str]:
    """The headers of GetObject and HeadObject."""
    headers = {"content-type": "binary/octet-stream", **info.headers}
    return headers | {
        "ETag": f'"{info.etag}"',
        "Last-Modified": formatdate(info.modified_at, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Length": str(info.size),
    }


def failed_condition(headers: Mapping[str, str], info: ObjectInfo) -> int | None:
    """304 or 412 when a conditional read does not hold, else None."""
    if (wanted := headers.get("if-match")) is not None and not _names(wanted, info.etag):
        return 412
    if (known := headers.get("if-none-match")) is not None:
        return 304 if _names(known, info.etag) else None
    since = headers.get("if-modified-since")
    if since is not None and int(info.modified_at) <= parsedate_to_datetime(since).timestamp():
        return 304
    return None


def _names(tags: str, etag: str) -> bool:
    return any(tag.strip().strip('"') in ("*", etag) for tag in tags.split(","))


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last, for a Range header; None when it asks for all."""
    match = _RANGE.fullmatch((header or "").strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), size if last == "" else min(int(last) + 1, size)
    if start >= end:
        raise S3Error("InvalidRange", "The requested range is not satisfiable", status=416)
    return start, end


class Limited:
    """The next ``length`` bytes of a binary file, as a readable of its own."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        self._left = length

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes; empty at the end."""
        piece = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(piece)
        return piece

    def readline(self, size: int = -1, /) -> bytes:
        """One line with its end."""
        piece = self._file.readline(self._left if size < 0 else min(size, self._left))
        self._left -= len(piece)
        return piece

"""Values and small helpers that every S3 operation needs: the request, headers, ranges, conditions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import BinaryIO

from werkzeug.wrappers import Response

from emr_executor.local.s3_body import Body, BodyTaker
from emr_executor.local.s3_store import ALWAYS, Condition, ObjectInfo, S3Error, S3Store

_KEPT_HEADERS = (
    "content-type",
    "content-disposition",
    "content-language",
    "cache-control",
    "expires",
)
_CONDITIONS_OF_OTHERS = (
    "if-modified-since",
    "if-unmodified-since",
    "x-amz-if-match-last-modified-time",
    "x-amz-if-match-size",
)
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


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
    also = ("x-amz-meta-", "x-amz-checksum-sha256")
    kept |= {name: value for name, value in headers.items() if name.startswith(also)}
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


def failed_condition(headers: Mapping[str, str], info: ObjectInfo, *, prefix: str = "") -> int | None:
    """304 or 412 when a conditional read does not hold, else None.

    prefix: of the headers' names, for the conditions on the source of a copy
    """
    modified_at = int(info.modified_at)
    if (wanted := headers.get(f"{prefix}if-match")) is not None:
        if not _names(wanted, info.etag):
            return 412
    elif (until := _moment(headers.get(f"{prefix}if-unmodified-since"))) is not None and modified_at > until:
        return 412
    if (known := headers.get(f"{prefix}if-none-match")) is not None:
        return 304 if _names(known, info.etag) else None
    since = _moment(headers.get(f"{prefix}if-modified-since"))
    return 304 if since is not None and modified_at <= since else None


def write_condition(headers: Mapping[str, str]) -> Condition:
    """What the headers of a PUT, a copy, a completed upload or a DELETE ask of the object that is there.

    S3's answers: 412 when the condition does not hold, 404 for If-Match without an object, 501 for conditions
    that general purpose buckets do not know.
    """
    unknown = [name for name in _CONDITIONS_OF_OTHERS if name in headers]
    if_match, if_none_match = headers.get("if-match"), headers.get("if-none-match")
    if unknown or (if_none_match or "*").strip() != "*" or (if_match and if_none_match):
        named = unknown[0] if unknown else "If-None-Match"
        message = f"A header you provided implies functionality that is not implemented: {named}"
        raise S3Error("NotImplemented", message, status=501)
    if if_match is None and if_none_match is None:
        return ALWAYS

    def check(present: ObjectInfo | None) -> None:
        if if_match is not None and present is None:
            raise S3Error("NoSuchKey", "The specified key does not exist.", status=404)
        held = _names(if_match, present.etag) if if_match is not None and present else present is None
        if not held:
            raise precondition_failed()

    return check


def precondition_failed() -> S3Error:
    """The answer to a request whose condition does not hold."""
    message = "At least one of the pre-conditions you specified did not hold"
    return S3Error("PreconditionFailed", message, status=412)


def _moment(date: str | None) -> float | None:
    """Epoch seconds of an HTTP date; None without one, or for what is none, which S3 ignores."""
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
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

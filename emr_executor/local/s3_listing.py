"""ListObjectsV2, ListObjects and ListBuckets: pages, delimiters, continuation."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from werkzeug.wrappers import Response

from emr_executor.local import s3_xml
from emr_executor.local.s3_http import S3Request, xml
from emr_executor.local.s3_store import ObjectInfo, S3Error, S3Store
from emr_executor.local.s3_xml import Child, document

MAX_KEYS = 1000
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(slots=True)
class _Page:
    """One page: objects and common prefixes together count against max-keys."""

    max_keys: int
    objects: list[ObjectInfo] = field(default_factory=list)
    prefixes: dict[str, None] = field(default_factory=dict)
    truncated: bool = False
    last: str = ""

    @property
    def count(self) -> int:
        """Objects and prefixes."""
        return len(self.objects) + len(self.prefixes)

    def children(self, query: Mapping[str, str], encode: Callable[[str], str]) -> list[Child]:
        """What both versions of the answer share."""
        return [
            ("MaxKeys", self.max_keys),
            ("EncodingType", query.get("encoding-type")),
            ("IsTruncated", self.truncated),
            *(("Contents", _contents(info, encode)) for info in self.objects),
            *(("CommonPrefixes", [("Prefix", encode(prefix))]) for prefix in self.prefixes),
        ]


def _contents(info: ObjectInfo, encode: Callable[[str], str]) -> list[Child]:
    return [
        ("Key", encode(info.key)),
        ("LastModified", s3_xml.timestamp(info.modified_at)),
        ("ETag", f'"{info.etag}"'),
        ("Size", info.size),
        ("StorageClass", "STANDARD"),
    ]


class Listing:
    """Answers listings from the store."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    def buckets(self, _: S3Request) -> Response:
        """ListBuckets."""
        buckets: list[Child] = [
            ("Bucket", [("Name", name), ("CreationDate", s3_xml.timestamp(created))])
            for name, created in self._store.buckets()
        ]
        owner: Child = ("Owner", [("ID", "emr-local"), ("DisplayName", "emr-local")])
        return xml(document("ListAllMyBucketsResult", [owner, ("Buckets", buckets)]))

    def objects_v2(self, request: S3Request) -> Response:
        """ListObjectsV2."""
        query = request.query
        token = query.get("continuation-token")
        page = self._page(request, _untoken(token) if token else query.get("start-after", ""))
        encode = _encoder(query)
        children: list[Child] = [
            ("Name", request.bucket),
            ("Prefix", encode(query.get("prefix", ""))),
            ("Delimiter", _given(query, "delimiter", encode)),
            ("StartAfter", _given(query, "start-after", encode)),
            ("ContinuationToken", token),
            ("NextContinuationToken", _token(page.last) if page.truncated else None),
            ("KeyCount", page.count),
        ]
        return xml(document("ListBucketResult", children + page.children(query, encode)))

    def objects_v1(self, request: S3Request) -> Response:
        """ListObjects, the older one."""
        query = request.query
        page = self._page(request, query.get("marker", ""))
        encode = _encoder(query)
        with_next = page.truncated and query.get("delimiter")
        children: list[Child] = [
            ("Name", request.bucket),
            ("Prefix", encode(query.get("prefix", ""))),
            ("Marker", encode(query.get("marker", ""))),
            ("NextMarker", encode(page.last) if with_next else None),
            ("Delimiter", _given(query, "delimiter", encode)),
        ]
        return xml(document("ListBucketResult", children + page.children(query, encode)))

    def _page(self, request: S3Request, after: str) -> _Page:
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        page = _Page(max_keys=_max_keys(request.query))
        keys = self._store.walk(request.bucket, prefix, after)
        for key in keys:
            group = _group(key, prefix, delimiter)
            if group is not None and (after.startswith(group) or group in page.prefixes):
                continue
            if page.count >= page.max_keys:
                page.truncated = page.max_keys > 0
                break
            if group is not None:
                page.prefixes[group] = None
            elif (info := self._store.listed(request.bucket, key)) is not None:
                page.objects.append(info)
            page.last = group or key
        return page


def _max_keys(query: Mapping[str, str]) -> int:
    wanted = query.get("max-keys", str(MAX_KEYS))
    if not _NUMBER.fullmatch(wanted):
        raise S3Error("InvalidArgument", "max-keys is a number from 0", status=400)
    return min(int(wanted), MAX_KEYS)


def _group(key: str, prefix: str, delimiter: str) -> str | None:
    if not delimiter:
        return None
    head, found, _ = key[len(prefix) :].partition(delimiter)
    return f"{prefix}{head}{found}" if found else None


def _encoder(query: Mapping[str, str]) -> Callable[[str], str]:
    return (lambda text: quote(text, safe="/-_.*")) if query.get("encoding-type") == "url" else str


def _given(query: Mapping[str, str], name: str, encode: Callable[[str], str]) -> str | None:
    return encode(query[name]) if query.get(name) else None


def _token(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _untoken(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, ValueError):
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect", status=400) from None

"""Whole S3 objects over aiobotocore, one or many, with our errors; and what is staged among them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import structlog

from emr_executor.aws import layout, translate
from emr_executor.aws.layout import S3Uri
from emr_executor.ports import StagedObject, StagedPage

_log = structlog.get_logger(__name__)

_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
"""There is no such object; of a missing bucket S3 says something else."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One key of a listing, with the ETag and the size in bytes of the object as listed."""

    key: str
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's bytes, with their ETag."""

    data: bytes
    etag: str


class S3Objects:
    """Get, put, delete and list. Every method may raise ``TryAgain``."""

    def __init__(self, client: Any, credentials_refused: Callable[[], None] = lambda: None) -> None:
        self._client = client
        self._credentials_refused = credentials_refused

    async def get(self, uri: S3Uri) -> StoredObject | None:
        """The object, or None when there is none."""

        async def read(**where: str) -> StoredObject:
            answer = await self._client.get_object(**where)
            async with answer["Body"] as body:
                return StoredObject(await body.read(), str(answer.get("ETag") or ""))

        return await self._do("GetObject", read, _MISSING, Bucket=uri.bucket, Key=uri.key)

    async def put(self, uri: S3Uri, data: bytes) -> None:
        """Write the whole object."""
        await self._do("PutObject", self._client.put_object, Bucket=uri.bucket, Key=uri.key, Body=data)

    async def put_new(self, uri: S3Uri, data: bytes) -> bool:
        """Write an object that is not there yet; False when there is one."""
        request = {"Bucket": uri.bucket, "Key": uri.key, "Body": data, "IfNoneMatch": "*"}
        there_is = frozenset({"PreconditionFailed"})
        return await self._do("PutObject", self._client.put_object, there_is, **request) is not None

    async def list(self, prefix: S3Uri) -> AsyncIterator[Listed]:
        """Every key below a prefix, 1,000 to a call."""
        after = ""
        while True:
            page = await self.list_page(prefix, after)
            for entry in page.get("Contents") or ():
                after = str(entry["Key"])
                yield Listed(after, str(entry.get("ETag") or ""), int(entry.get("Size") or 0))
            if not (page.get("IsTruncated") and page.get("Contents")):
                return

    async def list_page(self, prefix: S3Uri, after: str = "") -> Mapping[str, Any]:
        """ListObjectsV2's answer: up to 1,000 keys below a prefix, from behind the key ``after`` on."""
        where: dict[str, Any] = {"Bucket": prefix.bucket, "Prefix": prefix.key}
        if after:
            where["StartAfter"] = after
        return await self._do("ListBucket", self._client.list_objects_v2, **where)

    async def delete_many(self, bucket: str, keys: Sequence[str]) -> tuple[str, ...]:
        """Delete at most 1,000 objects in one call; absent is fine. ``key: why`` of each that S3 refused."""
        which = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        answer = await self._do("DeleteObject", self._client.delete_objects, Bucket=bucket, Delete=which)
        refused = answer.get("Errors") or ()
        return tuple(f"{e.get('Key')}: {e.get('Code')}: {e.get('Message')}" for e in refused)

    async def copy_onto_itself(self, uri: S3Uri) -> None:
        """Give an object, of at most 5 GB (CopyObject), a new age; nothing when it is absent."""
        where = {"Bucket": uri.bucket, "Key": uri.key}
        # S3 copies an object onto itself only where something changes with it.
        request: dict[str, Any] = {**where, "CopySource": where, "MetadataDirective": "REPLACE"}
        await self._do("PutObject", self._client.copy_object, _MISSING, **request)

    async def _do(
        self,
        permission: str,
        call: Callable[..., Awaitable[Any]],
        none_for: frozenset[str] = frozenset(),
        **request: Any,
    ) -> Any:
        """What the call answers, or None for these codes of an error."""
        try:
            return await call(**request)
        except Exception as fault:
            if translate.code_of(fault) in none_for:
                return None
            if translate.is_refused_credential(fault):
                self._credentials_refused()
            raise translate.error_of(fault, permission, service="s3") from fault


class S3StagedObjects:
    """``ports.StagedObjects``: what stands below one ``staging_uri``, with its age by S3's own clock.

    Keys are relative to it. Every method may raise ``TryAgain``.
    """

    def __init__(self, objects: S3Objects, staging_uri: str) -> None:
        self._objects = objects
        self._staging = layout.staging_prefix(staging_uri)

    async def page(self, prefix: str, after: str = "") -> StagedPage:
        """Up to 1,000 objects below a prefix, from behind a key on: one ListObjectsV2."""
        below = len(self._staging.key)
        answer = await self._objects.list_page(
            self._staging.below(prefix), self._staging.key + after if after else ""
        )
        now = _time_of(answer)
        objects = tuple(
            StagedObject(key=str(entry["Key"])[below:], age_s=(now - entry["LastModified"]).total_seconds())
            for entry in answer.get("Contents") or ()
        )
        return StagedPage(objects=objects, more=bool(answer.get("IsTruncated")) and bool(objects))

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete at most 1,000 objects in one DeleteObjects call; how many are gone. Refusals are logged."""
        refused = await self._objects.delete_many(
            self._staging.bucket, [self._staging.below(key).key for key in keys]
        )
        if refused:
            _log.warning("objects_not_deleted", count=len(refused), first=refused[0])
        return len(keys) - len(refused)

    async def refresh(self, key: str) -> None:
        """Give an object a new age; nothing when it is gone."""
        await self._objects.copy_onto_itself(self._staging.below(key))


def _time_of(answer: Mapping[str, Any]) -> datetime:
    """S3's clock as it answered, so that no age depends on this host's."""
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(said) if said else datetime.now(tz=UTC)

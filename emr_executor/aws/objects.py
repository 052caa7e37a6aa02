"""Whole S3 objects over aiobotocore, one or many, with our errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emr_executor.aws import translate
from emr_executor.aws.layout import S3Uri

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

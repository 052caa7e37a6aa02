"""Whole S3 objects over aiobotocore, one or many, with our errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from emr_executor.aws import translate
from emr_executor.aws.layout import S3Uri


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
        try:
            answer = await self._client.get_object(Bucket=uri.bucket, Key=uri.key)
            async with answer["Body"] as body:
                return StoredObject(await body.read(), str(answer.get("ETag") or ""))
        except ClientError as fault:
            if translate.is_missing_object(fault):
                return None
            raise self._judged(fault, "GetObject") from fault
        except Exception as fault:
            raise self._judged(fault, "GetObject") from fault

    async def exists(self, uri: S3Uri) -> bool:
        """Whether there is such an object."""
        try:
            await self._client.head_object(Bucket=uri.bucket, Key=uri.key)
        except ClientError as fault:
            if translate.is_missing_object(fault):
                return False
            raise self._judged(fault, "GetObject") from fault
        except Exception as fault:
            raise self._judged(fault, "GetObject") from fault
        return True

    async def put(self, uri: S3Uri, data: bytes) -> None:
        """Write the whole object."""
        await self._do("PutObject", self._client.put_object, Bucket=uri.bucket, Key=uri.key, Body=data)

    async def put_new(self, uri: S3Uri, data: bytes) -> bool:
        """Write an object that is not there yet; False when there is one."""
        try:
            await self._client.put_object(Bucket=uri.bucket, Key=uri.key, Body=data, IfNoneMatch="*")
        except ClientError as fault:
            if fault.response.get("Error", {}).get("Code") == "PreconditionFailed":
                return False
            raise self._judged(fault, "PutObject") from fault
        except Exception as fault:
            raise self._judged(fault, "PutObject") from fault
        return True

    async def list(self, prefix: S3Uri) -> AsyncIterator[Listed]:
        """Every key below a prefix, 1,000 to a call."""
        token: str | None = None
        while True:
            more = {"ContinuationToken": token} if token else {}
            page = await self._do(
                "ListBucket", self._client.list_objects_v2, Bucket=prefix.bucket, Prefix=prefix.key, **more
            )
            for entry in page.get("Contents") or ():
                if isinstance(entry, Mapping) and entry.get("Key"):
                    yield Listed(str(entry["Key"]), str(entry.get("ETag") or ""), int(entry.get("Size") or 0))
            token = page.get("NextContinuationToken") if page.get("IsTruncated") else None
            if not token:
                return

    async def list_page(self, prefix: S3Uri, after: str = "") -> Mapping[str, Any]:
        """ListObjectsV2's answer: up to 1,000 keys below a prefix, from behind the key ``after`` on."""
        start = {"StartAfter": after} if after else {}
        return await self._do(
            "ListBucket", self._client.list_objects_v2, Bucket=prefix.bucket, Prefix=prefix.key, **start
        )

    async def delete_many(self, bucket: str, keys: Sequence[str]) -> tuple[str, ...]:
        """Delete at most 1,000 objects in one call; absent is fine. ``key: why`` of each that S3 refused."""
        answer = await self._do(
            "DeleteObject",
            self._client.delete_objects,
            Bucket=bucket,
            Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True},
        )
        refused = answer.get("Errors") or ()
        return tuple(f"{e.get('Key')}: {e.get('Code')}: {e.get('Message')}" for e in refused)

    async def copy_onto_itself(self, uri: S3Uri) -> None:
        """Give an object, of at most 5 GB (CopyObject), a new age; nothing when it is absent."""
        try:
            await self._client.copy_object(
                Bucket=uri.bucket,
                Key=uri.key,
                CopySource={"Bucket": uri.bucket, "Key": uri.key},
                # S3 copies an object onto itself only where something changes with it.
                MetadataDirective="REPLACE",
            )
        except ClientError as fault:
            if not translate.is_missing_object(fault):
                raise self._judged(fault, "PutObject") from fault
        except Exception as fault:
            raise self._judged(fault, "PutObject") from fault

    async def _do(
        self, permission: str, call: Callable[..., Awaitable[Mapping[str, Any]]], **request: Any
    ) -> Mapping[str, Any]:
        try:
            return await call(**request)
        except Exception as fault:
            raise self._judged(fault, permission) from fault

    def _judged(self, fault: Exception, permission: str) -> Exception:
        if translate.is_refused_credential(fault):
            self._credentials_refused()
        return translate.error_of(fault, permission, service="s3")

"""S3 as an agent and a phase see it, over the objects that step wrappers reach by HTTP."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

from emr_executor.aws.layout import S3Uri
from emr_executor.aws.objects import Listed


class Bucket:
    """The objects of ``SmallS3`` as the agent and a phase see them."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    # -- the agent's side (aws.objects.S3Objects)

    async def get(self, uri: S3Uri) -> Any:
        data = self.objects.get(f"/{uri.bucket}/{uri.key}")
        return None if data is None else SimpleNamespace(data=data, etag=hashlib.md5(data).hexdigest())

    async def put_new(self, uri: S3Uri, data: bytes) -> bool:
        return self.objects.setdefault(f"/{uri.bucket}/{uri.key}", data) is data

    async def delete_many(self, bucket: str, keys: Sequence[str]) -> tuple[str, ...]:
        for key in keys:
            self.objects.pop(f"/{bucket}/{key}", None)
        return ()

    async def list(self, prefix: S3Uri) -> AsyncIterator[Listed]:
        for path in sorted(self.objects):
            if path.startswith(f"/{prefix.bucket}/{prefix.key}"):
                etag = hashlib.md5(self.objects[path]).hexdigest()
                yield Listed(path.removeprefix(f"/{prefix.bucket}/"), etag, len(self.objects[path]))

    # -- a phase's side (boto3)

    def head_object(self, *, Bucket: str, Key: str, **_: Any) -> dict[str, str]:  # noqa: N803 - boto3's names
        data = self.objects.get(f"/{Bucket}/{Key}")
        if data is None:
            raise ClientError({"ResponseMetadata": {"HTTPStatusCode": 404}}, "HeadObject")
        return {"ChecksumSHA256": b64encode(hashlib.sha256(data).digest()).decode()}

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, **_: Any) -> None:  # noqa: N803
        self.objects[f"/{Bucket}/{Key}"] = Body

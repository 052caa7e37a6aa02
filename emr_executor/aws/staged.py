"""``ports.StagedObjects`` over S3: pages of what is staged, its age by S3's own clock, and its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import structlog

from emr_executor.aws import layout
from emr_executor.aws.objects import S3Objects
from emr_executor.ports import StagedObject, StagedPage

_log = structlog.get_logger(__name__)


class S3StagedObjects:
    """What stands below one ``staging_uri``; keys are relative to it. Every method may raise ``TryAgain``."""

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

"""A staging area in memory, its clock, and what deployments have in it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from emr_executor.agent.retention_s3 import Expired, S3Retention
from emr_executor.aws import layout
from emr_executor.config import ClusterPool, Settings
from emr_executor.core.model import StepPlan, SubmissionId
from emr_executor.ports import StagedObject, StagedPage
from emr_executor.store.rows import json_of
from emr_executor.task.messages import Park
from emr_executor.task.staging import Staging

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY_S = 86_400.0
PAGE = 1000
SHA256_LENGTH = 64
URI = "s3://bucket/af/"


class Area:
    """Objects by key, with the time of their last write; ``passed_s`` moves on as a test wants.

    before: called with the name of each operation before it happens, by whomever
    """

    def __init__(self) -> None:
        self.written: dict[str, float] = {}
        self.passed_s = 0.0
        self.page_size = PAGE
        self.before: Callable[[str], None] = lambda _operation: None
        self.calls: list[str] = []
        self.refuse: dict[str, Exception] = {}

    def put(self, *keys: str, days_ago: float = 0.0) -> None:
        for key in keys:
            self.written[key] = self.passed_s - days_ago * DAY_S

    def now(self) -> datetime:
        return START + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        return self.passed_s

    async def sleep(self, delay_s: float) -> None:
        self.passed_s += delay_s

    def _called(self, operation: str) -> None:
        self.before(operation)
        self.calls.append(operation)
        if operation in self.refuse:
            raise self.refuse[operation]

    # -- StagedObjects

    async def page(self, prefix: str, after: str = "") -> StagedPage:
        self._called("page")
        keys = sorted(key for key in self.written if key.startswith(prefix) and key > after)
        shown = tuple(
            StagedObject(key=key, age_s=self.passed_s - self.written[key]) for key in keys[: self.page_size]
        )
        return StagedPage(objects=shown, more=len(keys) > self.page_size)

    async def delete(self, keys: Sequence[str]) -> int:
        self._called("delete")
        for key in keys:
            self.written.pop(key, None)
        return len(keys)

    async def refresh(self, key: str) -> None:
        self._called("refresh")
        if key in self.written:
            self.written[key] = self.passed_s

    # -- what staging makes of a boto3 client

    def head_object(self, *, Bucket: str, Key: str, **_: Any) -> dict[str, str]:  # noqa: N803 - boto3's names
        self._called("head")
        if Key.removeprefix("af/") not in self.written:
            raise ClientError({"ResponseMetadata": {"HTTPStatusCode": 404}}, "HeadObject")
        digest = max(Key.split("/"), key=lambda part: len(part.removesuffix(".json")) == SHA256_LENGTH)
        return {"ChecksumSHA256": b64encode(bytes.fromhex(digest.removesuffix(".json"))).decode()}

    def put_object(self, *, Bucket: str, Key: str, **_: Any) -> None:  # noqa: N803 - boto3's names
        self._called("put")
        self.put(Key.removeprefix("af/"))

    def upload_file(self, _path: str, bucket: str, key: str, **_: Any) -> None:
        self.put_object(Bucket=bucket, Key=key)


class Deployment:
    """One deployment of the area: steps that live, and its expiry."""

    def __init__(self, area: Area, name: str, *, keep_days: float = 7) -> None:
        self.area, self.name = area, name
        self.steps: dict[str, StepPlan] = {}
        self.submissions: set[SubmissionId] = set()
        self.expiry = S3Retention(
            staged=area, needs=self, clock=area, deployment_id=name, keep_s=keep_days * DAY_S
        )

    async def shared(self) -> set[str]:
        self.area.before("needs")
        return {
            name for step in self.steps.values() for name in layout.shared_names(str(json_of("step", step)))
        }

    async def live(self, submission_ids: Collection[SubmissionId]) -> set[SubmissionId]:
        self.area.before("needs")
        return self.submissions & set(submission_ids)

    def park(self, name: str, park: Park, *, skew_s: float = 0.0) -> StepPlan:
        """Stage a step as a prepare phase does, its host's clock wrong by so much, and let it live."""
        here = self.area.now() + timedelta(seconds=skew_s)
        settings = Settings(staging_uri=URI, cluster_pools=(ClusterPool(template={}),))
        plan = Staging(settings, self.area, now=lambda: here).complete(park)
        self.steps[name] = plan
        return plan

    def missing(self) -> set[str]:
        """What live steps name and the area does not have."""
        named = {
            name for step in self.steps.values() for name in layout.shared_names(str(json_of("step", step)))
        }
        return {name for name in named if not any(key.startswith(name) for key in self.area.written)}

    async def walk(self) -> Expired:
        """One whole walk."""
        did = Expired()
        self.expiry.begin()
        while self.expiry.is_walking:
            await self.expiry.round(did)
        return did

"""What is staged, on two S3 servers: in pages, with its age, deleted in batches, made young again."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from emr_executor.aws.layout import S3Uri
from emr_executor.aws.objects import S3StagedObjects
from emr_executor.aws.session import Aws, open_aws
from emr_executor.config import AwsAccess
from emr_executor.errors import TryAgain
from emr_executor.local.entities import ModelOptions
from emr_executor.local.runner import RunnerOptions
from emr_executor.local.server import LocalEndpoint, ServerOptions
from tests.agent.manual_clock import ManualClock

DAY_S = 86_400.0


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEndpoint]:
    endpoint = LocalEndpoint(
        ServerOptions(
            root=tmp_path_factory.mktemp("emr-local"),
            model=ModelOptions(),
            runner=RunnerOptions(kill_grace_s=0.5),
        )
    )
    endpoint.start()
    yield endpoint
    endpoint.close()


@pytest.fixture
async def local_aws(ours: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Aws]:
    info = ours.ready_info()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", info["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", info["secret_access_key"])
    access = AwsAccess(region_name=info["region"], endpoint_url=info["endpoint_url"])
    async with open_aws(access, ManualClock()) as opened:
        yield opened


class Place:
    """A bucket with a ``staging_uri`` in it."""

    def __init__(self, aws: Aws, bucket: str) -> None:
        self.bucket, self._objects = bucket, aws.objects
        self.staged = S3StagedObjects(aws.objects, f"s3://{bucket}/af/")

    async def put(self, *keys: str) -> None:
        for key in keys:
            await self._objects.put(S3Uri(self.bucket, f"af/{key}"), key.encode())

    async def data(self, key: str) -> bytes | None:
        found = await self._objects.get(S3Uri(self.bucket, f"af/{key}"))
        return None if found is None else found.data


async def place_in(aws: Aws, **options: Any) -> Place:
    bucket = f"staged-{uuid.uuid4().hex[:12]}"
    await aws.objects._client.create_bucket(Bucket=bucket, **options)
    return Place(aws, bucket)


@pytest.fixture
async def here(local_aws: Aws) -> Place:
    return await place_in(local_aws)


@pytest.fixture(params=["moto", "ours"])
async def place(request: pytest.FixtureRequest, aws: Aws, local_aws: Aws) -> Place:
    if request.param == "ours":
        return await place_in(local_aws)
    return await place_in(aws, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})


async def test_pages_go_on_behind_a_key_and_stay_below_their_prefix(place: Place) -> None:
    await place.put("specs/a", "specs/b", "specs/c", "specs2/d", "files/e")
    page = await place.staged.page("specs/")
    assert [o.key for o in page.objects] == ["specs/a", "specs/b", "specs/c"]
    assert not page.more
    assert all(-2 < o.age_s < 60 for o in page.objects)
    assert [o.key for o in (await place.staged.page("specs/", "specs/b")).objects] == ["specs/c"]
    assert (await place.staged.page("none/")).objects == ()


async def test_a_page_says_that_there_is_more(place: Place) -> None:
    await place.put(*(f"specs/{n}" for n in range(5)))
    place.staged._objects._client.meta.events.register(
        "provide-client-params.s3.ListObjectsV2", lambda params, **_: params | {"MaxKeys": 2}
    )
    keys: list[str] = []
    pages = 0
    while True:
        page = await place.staged.page("specs/", keys[-1] if keys else "")
        keys += [o.key for o in page.objects]
        pages += 1
        if not page.more:
            break
    assert (keys, pages) == ([f"specs/{n}" for n in range(5)], 3)


async def test_a_batch_is_deleted_and_absent_ones_are_fine(place: Place) -> None:
    await place.put("output/ä 1", "output/2", "output/3")
    assert await place.staged.delete(["output/ä 1", "output/2", "output/gone"]) == 3
    assert [o.key for o in (await place.staged.page("output/")).objects] == ["output/3"]


async def test_a_refreshed_object_is_the_same_and_a_missing_one_stays_missing(place: Place) -> None:
    await place.put("files/x y")
    await place.staged.refresh("files/x y")
    assert await place.data("files/x y") == b"files/x y"
    await place.staged.refresh("files/absent")
    assert await place.data("files/absent") is None


async def test_age_is_the_time_since_the_last_write_and_refreshing_sets_it_back(
    here: Place, ours: LocalEndpoint
) -> None:
    await here.put("files/old")
    path = ours.options.root.resolve() / "s3" / here.bucket / "af" / "files" / "old"
    age_file(path, 10 * DAY_S)
    (old,) = (await here.staged.page("files/")).objects
    assert old.age_s == pytest.approx(10 * DAY_S, abs=60)
    await here.staged.refresh("files/old")
    (young,) = (await here.staged.page("files/")).objects
    assert young.age_s < 60


def age_file(path: Path, age_s: float) -> None:
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))


async def test_what_s3_refuses_is_not_counted_as_gone(here: Place) -> None:
    await here.put("output/1")
    with capture_logs() as logs:
        assert await here.staged.delete(["output/1", "output/../2"]) == 1
    assert [(entry["event"], entry["count"]) for entry in logs] == [("objects_not_deleted", 1)]


async def test_a_bucket_that_is_not_there_is_asked_again_later(local_aws: Aws) -> None:
    nowhere = S3StagedObjects(local_aws.objects, "s3://no-such-bucket/af/")
    with pytest.raises(TryAgain, match="NoSuchBucket"):
        await nowhere.page("files/")
    with pytest.raises(TryAgain):
        await nowhere.delete(["files/x"])
    with pytest.raises(TryAgain):
        await nowhere.refresh("files/x")

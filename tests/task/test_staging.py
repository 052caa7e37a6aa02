"""Files, spec and wrapper in S3, by the hash of their content."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from emr_executor.config import ClusterPool, Settings
from emr_executor.errors import StagingFailed, StaleWriter
from emr_executor.task.messages import LocalFile, Park
from emr_executor.task.staging import Staging

DAY = datetime(2026, 1, 1, tzinfo=UTC)
"""The first of three days."""
SETTINGS = Settings(staging_uri="s3://bucket/prefix", cluster_pools=(ClusterPool(template={}),))


def error(status: int, code: str) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}},
        "PutObject",
    )


def checksum(content: bytes) -> str:
    return b64encode(hashlib.sha256(content).digest()).decode()


# boto3 names its arguments so.
# ruff: noqa: N803


class Bucket:
    """The few calls of an S3 client that staging makes. errors: raised by the next writes, in turn."""

    def __init__(self, *errors: Exception, head_status: int = 404) -> None:
        self.objects: dict[str, bytes] = {}
        self.writes: list[str] = []
        self.errors = list(errors)
        self.head_status = head_status
        self.knows_checksums = True

    def head_object(self, Bucket: str, Key: str, ChecksumMode: str) -> dict[str, Any]:
        assert (Bucket, ChecksumMode) == ("bucket", "ENABLED")
        if Key not in self.objects:
            raise error(self.head_status, "absent")
        return {"ChecksumSHA256": checksum(self.objects[Key])} if self.knows_checksums else {}

    def put_object(self, Bucket: str, Key: str, Body: bytes, ChecksumSHA256: str) -> None:
        if self.errors:
            raise self.errors.pop(0)
        assert ChecksumSHA256 == checksum(Body), "S3 refuses it (BadDigest)"
        self.writes.append(Key)
        self.objects[Key] = Body

    def upload_file(
        self, path: str, bucket: str, key: str, *, Config: Any, ExtraArgs: dict[str, str], Callback: Any
    ) -> None:
        Callback(1)
        assert Config.multipart_threshold == 5 * 1024**3
        self.put_object(bucket, key, Path(path).read_bytes(), **ExtraArgs)


def park(*files: LocalFile) -> Park:
    return Park(
        translator="spark_submit",
        command=["spark-submit", "--files", ",".join(f"{file.token}#n" for file in files), "s3://jobs/x.py"],
        env={"A": "1"},
        files=list(files),
        execution_timeout_s=None,
        rendered_fields={"conf": {}},
    )


@pytest.fixture
def table(tmp_path: Path) -> LocalFile:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n")
    return LocalFile(token="@token-0@", argument="files", path=str(path))


def test_a_step_is_staged_once_and_then_found(table: LocalFile) -> None:
    bucket = Bucket()
    digest = hashlib.sha256(b"a,b\n").hexdigest()
    first = Staging(SETTINGS, bucket, now=lambda: DAY).complete(park(table))
    assert first.command[2] == f"s3://bucket/prefix/files/2026-01-01/{digest}/table.csv#n"
    assert len(bucket.writes) == 3
    later = DAY + timedelta(days=2.9)
    assert Staging(SETTINGS, bucket, now=lambda: later).complete(park(table)) == first
    assert len(bucket.writes) == 3
    spec = json.loads(bucket.objects[first.spec_uri.removeprefix("s3://bucket/")])
    assert spec["command"] == list(first.command)
    assert spec["output"] == {"interval_s": 15.0, "max_bytes": 16 * 1024 * 1024}


def test_what_stands_under_the_name_and_is_something_else_is_written_again(table: LocalFile) -> None:
    bucket = Bucket()
    plan = Staging(SETTINGS, bucket, now=lambda: DAY).complete(park(table))
    staged = dict(bucket.objects)
    for key in staged:
        bucket.objects[key] = b"forged"
    assert Staging(SETTINGS, bucket, now=lambda: DAY).complete(park(table)) == plan
    assert bucket.objects == staged
    assert len(bucket.writes) == 6


def test_what_s3_knows_no_checksum_of_is_written_again(table: LocalFile) -> None:
    bucket = Bucket()
    bucket.knows_checksums = False
    plan = Staging(SETTINGS, bucket, now=lambda: DAY).complete(park(table))
    assert Staging(SETTINGS, bucket, now=lambda: DAY).complete(park(table)) == plan
    assert len(bucket.writes) == 6


def test_what_an_earlier_span_of_days_staged_is_left_to_expire(table: LocalFile) -> None:
    bucket = Bucket()
    first = Staging(SETTINGS, bucket, now=lambda: DAY).complete(park(table))
    later = DAY + timedelta(days=3)
    second = Staging(SETTINGS, bucket, now=lambda: later).complete(park(table))
    assert len(bucket.writes) == 6
    assert second.command[2] == first.command[2].replace("2026-01-01", "2026-01-04")
    assert len({first.spec_uri, second.spec_uri, first.wrapper_uri, second.wrapper_uri}) == 4


def test_signs_of_life_are_given_while_bytes_move_and_a_lost_claim_stops_it(table: LocalFile) -> None:
    beats: list[int] = []
    Staging(SETTINGS, Bucket(), beat=lambda: beats.append(1)).complete(park(table))
    assert len(beats) >= 4

    def lost() -> None:
        raise StaleWriter("lost")

    bucket = Bucket()
    with pytest.raises(StaleWriter):
        Staging(SETTINGS, bucket, beat=lost).complete(park(table))
    assert bucket.writes == []


def test_a_bucket_that_does_not_answer_is_asked_again(table: LocalFile) -> None:
    pauses: list[float] = []
    away = EndpointConnectionError(endpoint_url="http://x")
    bucket = Bucket(error(503, "SlowDown"), away)
    Staging(SETTINGS, bucket, sleep=pauses.append).complete(park(table))
    assert pauses == [2.0, 4.0]
    assert len(bucket.writes) == 3


def test_a_refusal_names_the_argument_the_file_and_the_place(table: LocalFile) -> None:
    with pytest.raises(
        StagingFailed,
        match=r"files: .*table.csv cannot be written to s3://bucket/prefix/files/.*AccessDenied",
    ):
        Staging(SETTINGS, Bucket(error(403, "AccessDenied"))).complete(park(table))


def test_a_file_that_went_away_is_named(table: LocalFile) -> None:
    Path(table.path).unlink()
    with pytest.raises(StagingFailed, match=r"files: .*table.csv cannot be read: No such file"):
        Staging(SETTINGS, Bucket()).complete(park(table))


def test_without_the_right_to_list_an_absent_object_is_written(table: LocalFile) -> None:
    bucket = Bucket(head_status=403)
    Staging(SETTINGS, bucket).complete(park(table))
    assert len(bucket.writes) == 3

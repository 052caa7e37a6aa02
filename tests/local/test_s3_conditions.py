"""Conditions on a change of an object hold at the moment of the change, or are refused: none is ignored."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.airflow_stack.emr_local_process import ReadyInfo
from tests.local.signing import by_hand

AT_ONCE = 16


def put(s3: Any, bucket: str, **condition: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"new", **condition)


def copy(s3: Any, bucket: str, **condition: str) -> None:
    s3.put_object(Bucket=bucket, Key="source", Body=b"new")
    s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "source"}, **condition)


def complete(s3: Any, bucket: str, **condition: str) -> None:
    upload = {"Bucket": bucket, "Key": "k"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    part = {"PartNumber": 1, "ETag": s3.upload_part(**upload, PartNumber=1, Body=b"new")["ETag"]}
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]}, **condition)


def delete(s3: Any, bucket: str, **condition: str) -> None:
    s3.delete_object(Bucket=bucket, Key="k", **condition)


Change = Callable[..., None]
WRITES = pytest.mark.parametrize("change", [put, copy, complete])
CHANGES = pytest.mark.parametrize("change", [put, copy, complete, delete])


def refused(change: Change, s3: Any, bucket: str, **condition: str) -> tuple[str, int]:
    with pytest.raises(ClientError) as error:
        change(s3, bucket, **condition)
    response = error.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def held(s3: Any, bucket: str, new: bytes, **condition: str) -> bool:
    try:
        s3.put_object(Bucket=bucket, Key="k", Body=new, **condition)
    except ClientError as error:
        if error.response["Error"]["Code"] == "PreconditionFailed":
            return False
        raise
    return True


def body(s3: Any, bucket: str) -> bytes:
    return bytes(s3.get_object(Bucket=bucket, Key="k")["Body"].read())


@CHANGES
def test_if_match_lets_a_change_of_the_object_that_was_seen_pass(
    s3: Any, bucket: str, change: Change
) -> None:
    assert refused(change, s3, bucket, IfMatch='"e"') == ("NoSuchKey", 404)
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"old")["ETag"]
    assert refused(change, s3, bucket, IfMatch='"another"') == ("PreconditionFailed", 412)
    assert body(s3, bucket) == b"old"
    change(s3, bucket, IfMatch=etag)
    if change is not delete:
        assert body(s3, bucket) == b"new"


@WRITES
def test_if_none_match_lets_only_the_first_write_pass(s3: Any, bucket: str, change: Change) -> None:
    change(s3, bucket, IfNoneMatch="*")
    assert refused(change, s3, bucket, IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert refused(change, s3, bucket, IfNoneMatch='"e"') == ("NotImplemented", 501)


def test_of_many_claims_at_once_exactly_one_wins(s3: Any, bucket: str) -> None:
    def claim(n: int) -> bool:
        return held(s3, bucket, str(n).encode(), IfNoneMatch="*")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        won = [n for n, is_mine in enumerate(pool.map(claim, range(AT_ONCE))) if is_mine]
    assert [str(n).encode() for n in won] == [body(s3, bucket)]


def test_no_update_is_lost_that_names_what_it_read(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0")

    def count() -> None:
        while True:
            seen = s3.get_object(Bucket=bucket, Key="k")
            next_body = str(int(seen["Body"].read()) + 1).encode()
            if held(s3, bucket, next_body, IfMatch=seen["ETag"]):
                return

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(count) for _ in range(20)]:
            each.result()
    assert body(s3, bucket) == b"20"


def test_a_batch_deletes_what_still_is_what_was_seen(s3: Any, bucket: str) -> None:
    tags = {key: s3.put_object(Bucket=bucket, Key=key, Body=b"x")["ETag"] for key in ("a", "b")}
    objects = [{"Key": "a", "ETag": tags["a"]}, {"Key": "b", "ETag": '"another"'}, {"Key": "c", "Size": 1}]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})
    assert [each["Key"] for each in answer["Deleted"]] == ["a"]
    assert [(each["Key"], each["Code"]) for each in answer["Errors"]] == [
        ("b", "PreconditionFailed"),
        ("c", "NotImplemented"),
    ]


def test_a_copy_can_ask_for_its_source(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="source", Body=b"x")["ETag"]
    source = {"Bucket": bucket, "Key": "source"}
    s3.copy_object(Bucket=bucket, Key="k", CopySource=source, CopySourceIfMatch=etag)
    for condition in ({"CopySourceIfMatch": '"another"'}, {"CopySourceIfNoneMatch": etag}):
        with pytest.raises(ClientError) as error:
            s3.copy_object(Bucket=bucket, Key="k", CopySource=source, **condition)
        assert error.value.response["Error"]["Code"] == "PreconditionFailed"


@pytest.mark.parametrize("name", ["if-unmodified-since", "x-amz-if-match-size"])
def test_a_condition_that_s3_does_not_know_on_a_write_is_501(
    s3: Any, ready: ReadyInfo, bucket: str, name: str
) -> None:
    answer = by_hand(ready, "PUT", f"/{bucket}/k", b"x", headers={name: "1"})
    assert (answer.status, b"NotImplemented" in answer.read()) == (501, True)
    assert by_hand(ready, "GET", f"/{bucket}/k").status == 404

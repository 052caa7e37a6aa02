"""The S3 that boto3 users rely on: one suite, run against moto's server and against ours."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from aiobotocore.session import get_session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from emr_executor.local.server import LocalEndpoint
from tests.local.conftest import ready_info

Args = dict[str, str]
MIB = 1024 * 1024


@pytest.fixture(scope="session")
def moto_args() -> Iterator[Args]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "endpoint_url": f"http://{host}:{port}",
        "aws_access_key_id": "moto",
        "aws_secret_access_key": "moto",
        "region_name": "us-east-1",
    }
    server.stop()


@pytest.fixture(params=["moto", "ours"])
def args(request: pytest.FixtureRequest, shared_endpoint: LocalEndpoint) -> Args:
    if request.param == "moto":
        return dict(request.getfixturevalue("moto_args"))
    return ready_info(shared_endpoint).client_args()


@pytest.fixture
def s3(args: Args) -> Any:
    return boto3.client("s3", **args, config=Config(s3={"addressing_style": "path"}))


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"contract-{os.urandom(4).hex()}"
    s3.create_bucket(Bucket=name)
    return name


def code_of(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    response = error.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def keys_of(page: dict[str, Any]) -> list[str]:
    return [entry["Key"] for entry in page.get("Contents", ())]


def prefixes_of(page: dict[str, Any]) -> list[str]:
    return [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]


def test_buckets_are_made_found_and_removed(s3: Any, bucket: str) -> None:
    assert s3.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert bucket in [each["Name"] for each in s3.list_buckets()["Buckets"]]
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    with pytest.raises(ClientError) as full:
        s3.delete_bucket(Bucket=bucket)
    assert code_of(full) == ("BucketNotEmpty", 409)
    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)
    with pytest.raises(ClientError) as gone:
        s3.head_bucket(Bucket=bucket)
    assert code_of(gone) == ("404", 404)


def test_an_object_comes_back_with_its_bytes_headers_and_etag(s3: Any, bucket: str) -> None:
    body = b"some bytes"
    put = s3.put_object(
        Bucket=bucket, Key="a/b.txt", Body=body, ContentType="text/plain", Metadata={"who": "me"}
    )
    got = s3.get_object(Bucket=bucket, Key="a/b.txt")
    head = s3.head_object(Bucket=bucket, Key="a/b.txt")
    etag = f'"{hashlib.md5(body).hexdigest()}"'
    assert got["Body"].read() == body
    assert [each["ETag"] for each in (put, got, head)] == [etag] * 3
    assert (head["ContentLength"], head["ContentType"], head["Metadata"]) == (10, "text/plain", {"who": "me"})
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert (listed["ETag"], listed["Size"], listed["StorageClass"]) == (etag, 10, "STANDARD")
    assert abs((listed["LastModified"] - head["LastModified"]).total_seconds()) < 1.1


def test_an_overwrite_changes_bytes_etag_and_headers(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"one", ContentType="text/plain", Metadata={"a": "1"})
    s3.put_object(Bucket=bucket, Key="k", Body=b"two")
    head = s3.head_object(Bucket=bucket, Key="k")
    assert head["ETag"] == f'"{hashlib.md5(b"two").hexdigest()}"'
    assert (head["Metadata"], head["ContentType"]) == ({}, "binary/octet-stream")


@pytest.mark.parametrize(
    ("wanted", "bytes_", "content_range"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=8-100", b"89", "bytes 8-9/10"),
    ],
)
def test_ranges(s3: Any, bucket: str, wanted: str, bytes_: bytes, content_range: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    got = s3.get_object(Bucket=bucket, Key="k", Range=wanted)
    assert (got["Body"].read(), got["ContentRange"]) == (bytes_, content_range)
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206


def test_a_range_beyond_the_end_is_refused(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    with pytest.raises(ClientError) as refused:
        s3.get_object(Bucket=bucket, Key="k", Range="bytes=10-")
    assert code_of(refused) == ("InvalidRange", 416)


def test_what_is_missing_is_told(s3: Any, bucket: str) -> None:
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket=bucket, Key="nothing")
    with pytest.raises(ClientError) as head:
        s3.head_object(Bucket=bucket, Key="nothing")
    assert code_of(head) == ("404", 404)
    with pytest.raises(ClientError) as no_bucket:
        s3.put_object(Bucket=f"{bucket}-not", Key="k", Body=b"")
    assert code_of(no_bucket) == ("NoSuchBucket", 404)
    with pytest.raises(ClientError) as no_list:
        s3.list_objects_v2(Bucket=f"{bucket}-not")
    assert code_of(no_list) == ("NoSuchBucket", 404)
    assert s3.delete_object(Bucket=bucket, Key="nothing")["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_conditional_reads(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    assert s3.get_object(Bucket=bucket, Key="k", IfMatch=etag)["Body"].read() == b"x"
    with pytest.raises(ClientError) as unchanged:
        s3.get_object(Bucket=bucket, Key="k", IfNoneMatch=etag)
    assert code_of(unchanged)[1] == 304
    with pytest.raises(ClientError) as changed:
        s3.get_object(Bucket=bucket, Key="k", IfMatch='"other"')
    assert code_of(changed)[1] == 412


def test_a_write_can_ask_for_a_new_key(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="lock", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError) as taken:
        s3.put_object(Bucket=bucket, Key="lock", Body=b"2", IfNoneMatch="*")
    assert code_of(taken) == ("PreconditionFailed", 412)
    assert s3.get_object(Bucket=bucket, Key="lock")["Body"].read() == b"1"


def test_copies_take_headers_along_or_replace_them(s3: Any, bucket: str) -> None:
    source = {"Bucket": bucket, "Key": "a b/ü.txt"}
    s3.put_object(**source, Body=b"x", ContentType="text/plain", Metadata={"a": "1"})
    copied = s3.copy_object(Bucket=bucket, Key="copy", CopySource=source)["CopyObjectResult"]
    s3.copy_object(
        Bucket=bucket, Key="new", CopySource=source, MetadataDirective="REPLACE", Metadata={"b": "2"}
    )
    head, new = (s3.head_object(Bucket=bucket, Key=key) for key in ("copy", "new"))
    assert (head["ContentType"], head["Metadata"], head["ETag"]) == ("text/plain", {"a": "1"}, copied["ETag"])
    assert new["Metadata"] == {"b": "2"}
    with pytest.raises(ClientError) as missing:
        s3.copy_object(Bucket=bucket, Key="no", CopySource={"Bucket": bucket, "Key": "absent"})
    assert code_of(missing) == ("NoSuchKey", 404)


def test_many_objects_are_deleted_in_one_call(s3: Any, bucket: str) -> None:
    for key in ("a", "b/c", "b/d"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    wanted = {"Objects": [{"Key": key} for key in ("a", "b/c", "absent")]}
    deleted = s3.delete_objects(Bucket=bucket, Delete=wanted)["Deleted"]
    assert sorted(each["Key"] for each in deleted) == ["a", "absent", "b/c"]
    assert keys_of(s3.list_objects_v2(Bucket=bucket)) == ["b/d"]


ODD_KEYS = ["a b", "a+b", "a%20b", "a&b<c>", "ü/ñ", "x=1/y=2", "q?r", "h#i", "t~u", "semi;colon", "quote'\""]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_keys_with_odd_characters_come_back_as_they_are(s3: Any, bucket: str, key: str) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    assert keys_of(s3.list_objects_v2(Bucket=bucket)) == [key]
    assert keys_of(s3.list_objects(Bucket=bucket, Prefix=key)) == [key]
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}]})
    assert keys_of(s3.list_objects_v2(Bucket=bucket)) == []


LISTED = ["a", "b-c", "b/1", "b/2/x", "b/2/y", "b0", "c/", "c/d", "ü"]


@pytest.fixture
def listed(s3: Any, bucket: str) -> str:
    for key in reversed(LISTED):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    return bucket


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"Prefix": "b"},
        {"Prefix": "b/"},
        {"Prefix": "b/2"},
        {"Prefix": "nothing/"},
        {"Delimiter": "/"},
        {"Delimiter": "/", "Prefix": "b/"},
        {"Delimiter": "/", "Prefix": "b"},
        {"Delimiter": "-"},
        {"StartAfter": "b/1"},
        {"StartAfter": "b/", "Prefix": "b"},
    ],
)
def test_listings_by_prefix_and_delimiter_and_in_small_pages(
    s3: Any, listed: str, query: dict[str, str]
) -> None:
    prefix, delimiter, after = (query.get(name, "") for name in ("Prefix", "Delimiter", "StartAfter"))
    keys = [key for key in sorted(LISTED, key=str.encode) if key.startswith(prefix) and key > after]
    groups = sorted(
        {
            prefix + key[len(prefix) :].partition(delimiter)[0] + delimiter
            for key in keys
            if delimiter and delimiter in key[len(prefix) :]
        }
    )
    alone = [key for key in keys if not delimiter or delimiter not in key[len(prefix) :]]
    whole = s3.list_objects_v2(Bucket=listed, **query)
    assert (keys_of(whole), prefixes_of(whole)) == (alone, groups)
    assert (whole["KeyCount"], whole["IsTruncated"]) == (len(alone) + len(groups), False)
    paginator = s3.get_paginator("list_objects_v2")
    pages = list(paginator.paginate(Bucket=listed, PaginationConfig={"PageSize": 2}, **query))
    assert all(page["KeyCount"] <= 2 for page in pages)
    assert [key for page in pages for key in keys_of(page)] == alone
    assert [name for page in pages for name in prefixes_of(page)] == groups


def test_the_older_listing_pages_by_marker(s3: Any, listed: str) -> None:
    paginator = s3.get_paginator("list_objects")
    for query in ({}, {"Prefix": "b/"}):
        pages = list(paginator.paginate(Bucket=listed, PaginationConfig={"PageSize": 2}, **query))
        whole = s3.list_objects(Bucket=listed, **query)
        assert [key for page in pages for key in keys_of(page)] == keys_of(whole)
    whole = s3.list_objects(Bucket=listed, Delimiter="/")
    assert (keys_of(whole), prefixes_of(whole)) == (["a", "b-c", "b0", "ü"], ["b/", "c/"])


def test_max_keys_zero_lists_nothing(s3: Any, listed: str) -> None:
    page = s3.list_objects_v2(Bucket=listed, MaxKeys=0)
    assert (page["KeyCount"], page["IsTruncated"]) == (0, False)


def test_multipart_uploads_join_their_parts(s3: Any, bucket: str) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="big", ContentType="text/csv", Metadata={"a": "1"})
    target = {"Bucket": bucket, "Key": "big", "UploadId": upload["UploadId"]}
    bodies = [b"a" * 5 * MIB, b"b" * 10]
    parts = [
        {"PartNumber": n, "ETag": s3.upload_part(**target, PartNumber=n, Body=body)["ETag"]}
        for n, body in enumerate(bodies, 1)
    ]
    assert [(part["PartNumber"], part["Size"]) for part in s3.list_parts(**target)["Parts"]] == [
        (1, 5 * MIB),
        (2, 10),
    ]
    done = s3.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
    digests = b"".join(hashlib.md5(body).digest() for body in bodies)
    head = s3.head_object(Bucket=bucket, Key="big")
    assert head["ETag"] == done["ETag"] == f'"{hashlib.md5(digests).hexdigest()}-2"'
    assert (head["ContentLength"], head["ContentType"], head["Metadata"]) == (
        5 * MIB + 10,
        "text/csv",
        {"a": "1"},
    )
    assert (
        s3.get_object(Bucket=bucket, Key="big", Range=f"bytes={5 * MIB - 1}-")["Body"].read()
        == b"a" + bodies[1]
    )
    assert s3.list_objects_v2(Bucket=bucket)["Contents"][0]["ETag"] == done["ETag"]


def test_multipart_uploads_are_listed_aborted_and_refused(s3: Any, bucket: str) -> None:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="big")["UploadId"]
    target = {"Bucket": bucket, "Key": "big", "UploadId": upload_id}
    listed = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [(each["Key"], each["UploadId"]) for each in listed] == [("big", upload_id)]
    with pytest.raises(ClientError) as bad_part:
        s3.complete_multipart_upload(**target, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": '"no"'}]})
    assert code_of(bad_part)[1] == 400
    s3.abort_multipart_upload(**target)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_managed_transfers_use_many_parts(s3: Any, bucket: str, tmp_path: Any) -> None:
    source, back = tmp_path / "in", tmp_path / "out"
    source.write_bytes(os.urandom(12 * MIB + 7))
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=3)
    s3.upload_file(str(source), bucket, "big", Config=config)
    s3.copy({"Bucket": bucket, "Key": "big"}, bucket, "copy", Config=config)
    s3.download_file(bucket, "copy", str(back), Config=config)
    assert back.read_bytes() == source.read_bytes()


async def test_aiobotocore_puts_lists_and_gets(args: Args, bucket: str) -> None:
    async with get_session().create_client("s3", **args) as s3:
        await s3.put_object(Bucket=bucket, Key="a/1", Body=b"bytes")
        listed = await s3.list_objects_v2(Bucket=bucket, Prefix="a/")
        assert keys_of(listed) == ["a/1"]
        got = await s3.get_object(Bucket=bucket, Key="a/1")
        async with got["Body"] as stream:
            assert await stream.read() == b"bytes"
        await s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a/1"}]})
        with pytest.raises(ClientError):
            await s3.head_object(Bucket=bucket, Key="a/1")

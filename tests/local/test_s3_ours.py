"""What our S3 promises beyond moto's: objects are files, nothing leaves the directory, bodies are checked."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from emr_executor.config import ClusterPool, Settings
from emr_executor.task.messages import LocalFile, Park
from emr_executor.task.staging import Staging
from tests.airflow_stack.emr_local_process import ReadyInfo
from tests.local.signing import by_hand


def keys(s3: Any, bucket: str, **query: str) -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket, **query).get("Contents", ())]


def etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def test_objects_are_files_and_files_are_objects(s3: Any, bucket: str, s3_root: Path) -> None:
    s3.put_object(Bucket=bucket, Key="in/a.txt", Body=b"by the API")
    assert (s3_root / bucket / "in" / "a.txt").read_bytes() == b"by the API"
    (s3_root / bucket / "out").mkdir()
    (s3_root / bucket / "out" / "part-0").write_bytes(b"by Spark")
    assert keys(s3, bucket) == ["in/a.txt", "out/part-0"]
    got = s3.get_object(Bucket=bucket, Key="out/part-0")
    assert (got["Body"].read(), got["ETag"]) == (b"by Spark", etag(b"by Spark"))


def test_a_file_that_another_hand_changes_gets_a_new_etag_and_loses_its_headers(
    s3: Any, bucket: str, s3_root: Path
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"one", Metadata={"a": "1"})
    path = s3_root / bucket / "k"
    for body in (b"two", b"six"):
        path.write_bytes(body)
        # A step of the file system's clock, as between any two writes of a job.
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10_000_000))
        head = s3.head_object(Bucket=bucket, Key="k")
        assert (head["ETag"], head["Metadata"]) == (etag(body), {})


@pytest.mark.parametrize(
    "key", ["../out", "a/../../out", "a/./b", "a//b", "/a", ".", "..", "a/..", "%2e%2e/out", "//"]
)
def test_no_key_leaves_its_bucket(s3: Any, ready: ReadyInfo, bucket: str, s3_root: Path, key: str) -> None:
    answer = by_hand(ready, "PUT", f"/{bucket}/{key}", b"x")
    inside = [path for path in (s3_root / bucket).rglob("*") if path.is_file()]
    if key.startswith("%"):
        # Percent signs of a key are text.
        assert (answer.status, [path.name for path in inside]) == (200, ["out"])
        assert inside[0].parent.name == "%2e%2e"
    else:
        assert (answer.status, inside) == (400, [])
    assert not (s3_root / "out").exists()
    assert by_hand(ready, "GET", f"/{bucket}/{key}").status in (200, 400)


def test_buckets_cannot_be_paths(ready: ReadyInfo, s3_root: Path) -> None:
    before = sorted(s3_root.parent.iterdir())
    for name in ("..", "a..b", ".hidden", "Upper", "x"):
        assert by_hand(ready, "PUT", f"/{name}").status == 400
        assert by_hand(ready, "GET", f"/{name}/key").status == 404
    assert sorted(s3_root.parent.iterdir()) == before


def test_links_lead_nowhere(s3: Any, bucket: str, s3_root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (s3_root / bucket / "file").symlink_to(tmp_path / "secret")
    (s3_root / bucket / "folder").symlink_to(tmp_path)
    for key in ("file", "folder/secret"):
        with pytest.raises(ClientError, match="leads out of the bucket"):
            s3.get_object(Bucket=bucket, Key=key)
        with pytest.raises(ClientError, match="leads out of the bucket"):
            s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.mark.parametrize(("first", "second"), [("a", "a/b"), ("a/b", "a"), ("a", "a/b/c")])
def test_a_key_beside_its_prefix_is_refused_with_the_reason(
    s3: Any, bucket: str, first: str, second: str
) -> None:
    s3.put_object(Bucket=bucket, Key=first, Body=b"1")
    with pytest.raises(ClientError, match="cannot exist beside a key that is its prefix") as refused:
        s3.put_object(Bucket=bucket, Key=second, Body=b"2")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert keys(s3, bucket) == [first]
    s3.delete_object(Bucket=bucket, Key=first)
    s3.put_object(Bucket=bucket, Key=second, Body=b"2")


def test_names_that_the_file_system_cannot_hold_are_refused(s3: Any, bucket: str) -> None:
    for key in ("x" * 300, "y" * 1025):
        with pytest.raises(ClientError) as refused:
            s3.put_object(Bucket=bucket, Key=key, Body=b"")
        assert refused.value.response["Error"]["Code"] == "KeyTooLongError"


def test_folder_markers_are_objects_that_jobs_do_not_see(s3: Any, bucket: str, s3_root: Path) -> None:
    s3.put_object(Bucket=bucket, Key="folder/", Body=b"")
    s3.put_object(Bucket=bucket, Key="folder/a", Body=b"")
    assert keys(s3, bucket) == ["folder/", "folder/a"]
    visible = [path.name for path in (s3_root / bucket / "folder").iterdir() if not path.name.startswith(".")]
    assert visible == ["a"]
    s3.delete_object(Bucket=bucket, Key="folder/")
    assert keys(s3, bucket) == ["folder/a"]


def test_quiet_deletes_name_failures_only(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a", Body=b"")
    objects = [{"Key": "a"}, {"Key": "../b"}]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
    assert "Deleted" not in answer
    assert [error["Key"] for error in answer["Errors"]] == ["../b"]


def test_the_older_listing_goes_on_after_a_common_prefix(s3: Any, bucket: str) -> None:
    for key in ("a/1", "a/2", "b", "c/1", "d"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    pages = s3.get_paginator("list_objects").paginate(
        Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 1}
    )
    found = [
        [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
        + [entry["Key"] for entry in page.get("Contents", ())]
        for page in pages
    ]
    assert found == [["a/"], ["b"], ["c/"], ["d"]]


def test_parts_of_an_upload_that_is_over_are_refused(s3: Any, bucket: str) -> None:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id)
    for wrong in (upload_id, "../../x"):
        with pytest.raises(ClientError) as gone:
            s3.upload_part(Bucket=bucket, Key="k", UploadId=wrong, PartNumber=1, Body=b"x")
        assert gone.value.response["Error"]["Code"] == "NoSuchUpload"


def test_bodies_are_checked_against_what_the_client_says(s3: Any, bucket: str) -> None:
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        s3.put_object(Bucket=bucket, Key="good", Body=b"x", ChecksumAlgorithm=algorithm)
    wrong_md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=bucket, Key="bad", Body=b"x", ContentMD5=wrong_md5)
    assert refused.value.response["Error"]["Code"] == "BadDigest"
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=bucket, Key="bad", Body=b"x", ChecksumCRC32="AAAAAA==")
    assert refused.value.response["Error"]["Code"] == "BadDigest"
    assert keys(s3, bucket) == ["good"]


def chunked(body: bytes, *, trailer: bytes = b"", size: int = 1000, signature: bytes = b"") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    encoded = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), signature, piece) for piece in pieces)
    return encoded + b"0%s\r\n%s\r\n" % (signature, trailer)


@pytest.mark.parametrize(
    ("declared", "signature"),
    [
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", b""),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", b";chunk-signature=" + b"0" * 64),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", b";chunk-signature=" + b"0" * 64),
    ],
)
def test_aws_chunked_bodies_are_unwrapped(
    s3: Any, ready: ReadyInfo, bucket: str, declared: str, signature: bytes
) -> None:
    body = os.urandom(4321)
    crc = base64.b64encode(zlib.crc32(body).to_bytes(4, "big"))
    trailer = b"x-amz-checksum-crc32:%s\r\n" % crc if "TRAILER" in declared else b""
    headers = {
        "x-amz-content-sha256": declared,
        "x-amz-decoded-content-length": str(len(body)),
        "content-encoding": "aws-chunked",
    }
    encoded = chunked(body, trailer=trailer, signature=signature)
    assert by_hand(ready, "PUT", f"/{bucket}/k", encoded, headers=headers).status == 200
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["Body"].read(), got["ETag"], got.get("ContentEncoding")) == (body, etag(body), None)


@pytest.mark.parametrize("fault", ["wrong trailer", "wrong length", "cut off", "no sizes"])
def test_broken_aws_chunked_bodies_are_refused(s3: Any, ready: ReadyInfo, bucket: str, fault: str) -> None:
    body = b"x" * 2500
    trailer = b"x-amz-checksum-crc32:AAAAAA==\r\n" if fault == "wrong trailer" else b""
    encoded = chunked(body, trailer=trailer)
    encoded = {"cut off": encoded[:1200], "no sizes": body}.get(fault, encoded)
    headers = {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": "1" if fault == "wrong length" else str(len(body)),
    }
    assert by_hand(ready, "PUT", f"/{bucket}/k", encoded, headers=headers).status == 400
    assert keys(s3, bucket) == []


def test_what_is_not_served_is_4xx(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    calls = [
        lambda: s3.get_bucket_policy(Bucket=bucket),
        lambda: s3.get_object_tagging(Bucket=bucket, Key="k"),
        lambda: s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": []}),
    ]
    for call in calls:
        with pytest.raises(ClientError) as refused:
            call()
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 405
    assert s3.get_bucket_versioning(Bucket=bucket).get("Status") is None


def test_writers_and_deleters_of_one_folder_do_not_hurt_each_other(s3: Any, bucket: str) -> None:
    def churn(n: int) -> bytes:
        for _ in range(15):
            s3.put_object(Bucket=bucket, Key=f"folder/sub/{n}", Body=str(n).encode())
            s3.delete_object(Bucket=bucket, Key=f"folder/sub/{n}")
        s3.put_object(Bucket=bucket, Key=f"folder/sub/{n}", Body=str(n).encode())
        return bytes(s3.get_object(Bucket=bucket, Key=f"folder/sub/{n}")["Body"].read())

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(churn, range(6))) == [str(n).encode() for n in range(6)]
    assert len(keys(s3, bucket, Prefix="folder/")) == 6


def test_listings_stay_quick_with_a_thousand_objects(s3: Any, bucket: str, s3_root: Path) -> None:
    folder = s3_root / bucket / "state"
    folder.mkdir()
    for n in range(1100):
        (folder / f"{n:05d}").write_bytes(b"{}")
    first = s3.list_objects_v2(Bucket=bucket, Prefix="state/")
    second = s3.list_objects_v2(
        Bucket=bucket, Prefix="state/", ContinuationToken=first["NextContinuationToken"]
    )
    assert (first["KeyCount"], second["KeyCount"], second["IsTruncated"]) == (1000, 100, False)


@pytest.mark.parametrize("size", [3, 9 * 1024 * 1024])
def test_what_is_staged_is_found_by_its_checksum_and_a_forged_one_written_again(
    s3: Any, bucket: str, s3_root: Path, tmp_path: Path, size: int
) -> None:
    (tmp_path / "job.py").write_bytes(b"x" * size)  # boto3 sends more than 8 MiB in parts, unless told not to
    settings = Settings(staging_uri=f"s3://{bucket}/af/", cluster_pools=(ClusterPool(template={}),))
    file = LocalFile(token="@t@", argument="application", path=str(tmp_path / "job.py"))
    park = Park(
        translator="spark_submit",
        command=["spark-submit", "@t@"],
        env={},
        files=[file],
        execution_timeout_s=None,
        rendered_fields={},
    )
    writes: list[str] = []
    s3.meta.events.register("before-call.s3.PutObject", lambda **_: writes.append("put"))
    plan = Staging(settings, s3).complete(park)
    assert Staging(settings, s3).complete(park) == plan
    assert len(writes) == 3
    staged = s3_root / plan.command[1].removeprefix("s3://")
    staged.write_bytes(b"forged")
    assert Staging(settings, s3).complete(park) == plan
    assert (len(writes), staged.read_bytes()) == (4, b"x" * size)

"""Nobody uses the endpoint without this start's key: it runs commands."""

from __future__ import annotations

import http.client
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.airflow_stack.emr_local_control import ControlError, EmrLocalControl
from tests.airflow_stack.emr_local_process import ReadyInfo
from tests.local.signing import by_hand, connection_to
from tests.local.world import launch_request


def test_a_client_that_signs_by_hand_is_served(ready: ReadyInfo) -> None:
    assert by_hand(ready, "PUT", "/by-hand").status == 200
    key = "/by-hand/a b/ü+~(1)*'=&.txt"
    assert by_hand(ready, "PUT", key, b"bytes", headers={"content-type": "text/plain"}).status == 200
    answer = by_hand(ready, "GET", key)
    assert (answer.status, answer.read(), answer.getheader("content-type")) == (200, b"bytes", "text/plain")
    listing = by_hand(ready, "GET", "/by-hand", query="list-type=2&prefix=a%20b%2F").read()
    assert b"a b/" in listing
    body = json.dumps({}).encode()
    target = {"x-amz-target": "ElasticMapReduce.ListClusters", "content-type": "application/x-amz-json-1.1"}
    answer = by_hand(ready, "POST", "/", body, service="elasticmapreduce", headers=target)
    assert (answer.status, list(json.load(answer))) == (200, ["Clusters"])


def test_wrong_keys_are_refused_everywhere(ready: ReadyInfo) -> None:
    wrong_secret = ready.client_args() | {"aws_secret_access_key": "x" * 40}
    wrong_key = ready.client_args() | {"aws_access_key_id": "AKIAOTHER"}
    for arguments, code in ((wrong_secret, "SignatureDoesNotMatch"), (wrong_key, "InvalidAccessKeyId")):
        with pytest.raises(ClientError) as refused:
            boto3.client("emr", **arguments).run_job_flow(**launch_request(Name="intruder"))
        assert refused.value.response["Error"]["Code"] == code
        with pytest.raises(ClientError) as refused:
            boto3.client("s3", **arguments).create_bucket(Bucket="intruder")
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    with pytest.raises(ControlError, match="403"):
        EmrLocalControl(ready.endpoint_url, ready.access_key_id, "x" * 40).status()
    assert "intruder" not in [cluster["Name"] for cluster in ready.control().status()["clusters"]]
    assert "intruder" not in [
        each["Name"] for each in boto3.client("s3", **ready.client_args()).list_buckets()["Buckets"]
    ]


@pytest.mark.parametrize("path", ["/", "/bucket/key", "/_emr_local/status", "/_emr_local/lose-cluster"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_unsigned_requests_are_refused_and_say_nothing_to_browsers(
    ready: ReadyInfo, method: str, path: str
) -> None:
    connection = connection_to(ready)
    connection.request(method, path, headers={"Origin": "https://evil.example"})
    answer = connection.getresponse()
    assert answer.status == 403
    assert not [name for name, _ in answer.getheaders() if name.lower().startswith("access-control")]


def test_other_host_names_are_refused_even_when_signed(ready: ReadyInfo) -> None:
    assert by_hand(ready, "GET", "/", host="rebound.example").status == 403
    port = urlsplit(ready.endpoint_url).port
    assert by_hand(ready, "GET", "/", host=f"localhost:{port}").status == 200


def test_a_changed_body_path_or_query_is_refused(ready: ReadyInfo) -> None:
    by_hand(ready, "PUT", "/tampered")
    changed = by_hand(ready, "PUT", "/tampered/key", b"signed", send_body=b"forged")
    assert (changed.status, b"XAmzContentSHA256Mismatch" in changed.read()) == (400, True)
    assert by_hand(ready, "GET", "/tampered/key").status == 404
    target = {"x-amz-target": "ElasticMapReduce.ListClusters"}
    forged = by_hand(ready, "POST", "/", b"{}", service="elasticmapreduce", headers=target, send_body=b"{ }")
    assert forged.status == 403


@pytest.mark.parametrize("late", [timedelta(minutes=20), timedelta(minutes=-20)])
def test_a_signature_is_good_for_a_quarter_of_an_hour(ready: ReadyInfo, late: timedelta) -> None:
    answer = by_hand(ready, "GET", "/", at=datetime.now(UTC) - late)
    assert (answer.status, b"RequestTimeTooSkewed" in answer.read()) == (403, True)


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_urls_are_served_until_they_expire(ready: ReadyInfo, version: str) -> None:
    """Version 2 (``s3``) is what boto3 and the CLI make unless told otherwise."""
    s3 = boto3.client("s3", **ready.client_args())
    signer = boto3.client("s3", **ready.client_args(), config=Config(signature_version=version))
    s3.create_bucket(Bucket="presigned")
    s3.put_object(Bucket="presigned", Key="a b.txt", Body=b"bytes")
    where = {"Bucket": "presigned", "Key": "a b.txt"}
    fresh = signer.generate_presigned_url("get_object", Params=where | {"ResponseContentType": "text/x"})
    assert _fetch(fresh) == (200, b"bytes")
    expired = signer.generate_presigned_url("get_object", Params=where, ExpiresIn=-1)
    assert _fetch(expired)[0] in (400, 403)
    assert _fetch(fresh.replace("a%20b.txt", "other.txt"))[0] == 403
    assert _fetch(fresh.replace("text%2Fx", "text%2Fy"))[0] == 403
    assert _fetch(fresh, method="DELETE")[0] == 403
    upload = signer.generate_presigned_url("put_object", Params=where | {"ContentType": "text/plain"})
    headers = {"content-type": "text/plain"}
    assert _fetch(upload, method="PUT", body=b"new", headers=headers)[0] == 200
    assert s3.get_object(**where)["Body"].read() == b"new"


def test_other_services_are_4xx(ready: ReadyInfo) -> None:
    for service in ("sqs", "sts"):
        assert by_hand(ready, "POST", "/", b"Action=X", service=service).status == 400


def _fetch(
    url: str, *, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    connection.request(method, f"{parts.path}?{parts.query}", body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read()

"""Our signatures and addresses against botocore's."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from emr_executor.wrapper import emr_step_wrapper as wrapper

NOW = 1_800_000_000.0
KEYS = [
    "plain",
    "with space/and+plus",
    "tilde~dot.-_",
    "ünïcode/日本",
    "a=b&c?d#e%25",
    "double//slash",
    "sub/./dot/../x",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("token", ["", "session/token+=="])
@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("PUT", b"\x00body")])
def test_signature_is_botocores(key: str, token: str, method: str, body: bytes) -> None:
    _scheme, host, path = wrapper.locate("", "eu-west-1", "bucket", key)
    digest = hashlib.sha256(body).hexdigest()
    ours = wrapper.sign(
        method, host, path, digest, "eu-west-1", wrapper.Credentials("AKIA", "secret", token), NOW
    )
    request = AWSRequest(method=method, url=f"https://{host}{path}", data=body)
    request.headers["x-amz-content-sha256"] = digest
    request.headers["x-amz-date"] = datetime.fromtimestamp(NOW, UTC).strftime("%Y%m%dT%H%M%SZ")
    if token:
        request.headers["x-amz-security-token"] = token
    request.context["timestamp"] = request.headers["x-amz-date"]
    signer = S3SigV4Auth(Credentials("AKIA", "secret", token or None), "s3", "eu-west-1")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert ours["Authorization"].endswith(f"Signature={signer.signature(text, request)}")


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9000"])
@pytest.mark.parametrize("bucket", ["bucket", "dotted.bucket"])
@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-west-1", "cn-north-1"])
@pytest.mark.parametrize("key", ["plain", "with space/and+plus", "ünïcode", "a=b&c"])
def test_address_is_botocores(endpoint: str | None, bucket: str, region: str, key: str) -> None:
    style = "path" if endpoint or "." in bucket else "virtual"
    client = boto3.client(
        "s3",
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id="x",
        aws_secret_access_key="y",
        config=Config(s3={"addressing_style": style}, signature_version="s3v4"),
    )
    theirs = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})
    scheme, host, path = wrapper.locate(endpoint or "", region, bucket, key)
    assert f"{scheme}://{host}{path}" == theirs.partition("?")[0]


@pytest.mark.parametrize(
    "uri", ["bucket/key", "s3://bucket", "s3://bucket/", "https://bucket/key", "s3:///key"]
)
def test_what_is_no_location_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="no s3:// location"):
        wrapper.split_uri(uri)


def test_location_in_two_parts() -> None:
    assert wrapper.split_uri("s3a://bucket/a/b c") == ("bucket", "a/b c")

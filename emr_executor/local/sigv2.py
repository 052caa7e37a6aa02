"""Checks presigned URLs of Signature Version 2, which boto3 and the CLI make for S3 unless told otherwise."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from datetime import datetime
from urllib.parse import parse_qsl, unquote

from botocore.auth import HmacV1Auth

from emr_executor.local.sigv4 import Credentials, SignatureRefused, SignedRequest, check_key, check_signature

_EPOCH_S = re.compile(r"[0-9]{1,12}")


def is_presigned_v2(raw_query: str) -> bool:
    """True when the query holds a signature of version 2."""
    return "AWSAccessKeyId=" in raw_query and "Signature=" in raw_query


def verify_v2(request: SignedRequest, credentials: Credentials, *, now: datetime) -> None:
    """Raises SignatureRefused unless the query is signed with the endpoint's key and has not expired."""
    query = dict(parse_qsl(request.raw_query, keep_blank_values=True))
    check_key(query.get("AWSAccessKeyId"), credentials)
    expires = query.get("Expires", "")
    if not _EPOCH_S.fullmatch(expires):
        raise SignatureRefused(
            "AccessDenied", f"Invalid date (should be seconds since epoch): {expires[:40]}"
        )
    # What a client signs as a header stands in the query of the URL that it gives away.
    signed = {name.lower(): value for name, value in query.items()} | dict(request.headers)
    to_sign = "\n".join(
        (
            request.method,
            signed.get("content-md5", ""),
            signed.get("content-type", ""),
            expires,
            *(f"{name}:{signed[name].strip()}" for name in sorted(signed) if name.startswith("x-amz-")),
            _resource(request),
        )
    )
    digest = hmac.new(credentials.secret_access_key.encode(), to_sign.encode(), hashlib.sha1).digest()
    check_signature(query.get("Signature", ""), base64.b64encode(digest))
    if now.timestamp() > int(expires):
        raise SignatureRefused("AccessDenied", "Request has expired")


def _resource(request: SignedRequest) -> str:
    """The path, and those parts of the query that select or change the answer."""
    pairs = [part.split("=", 1) for part in request.raw_query.split("&")]
    chosen = sorted(pair for pair in pairs if pair[0] in HmacV1Auth.QSAOfInterest)
    query = "&".join("=".join([pair[0], *map(unquote, pair[1:])]) for pair in chosen)
    return f"{request.raw_path}?{query}" if query else request.raw_path

"""Checks AWS Signature Version 4 of a request, in the Authorization header or in the query (presigned URLs).

The endpoint runs commands by design, so nobody may use it without the secret of this start. Signing is
AWS's published algorithm; only the standard library is used.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, unquote

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
MAX_SKEW = timedelta(minutes=15)
EXPIRES_MAX_S = 604_800
_SECONDS = re.compile(r"[0-9]{1,9}")
_DATE_FORMAT = "%Y%m%dT%H%M%SZ"
_SCOPE_PARTS = 5
_SAFE = "-_.~"


class SignatureRefused(Exception):
    """The request is not signed with this endpoint's key. ``code`` is AWS's error code."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The key pair of one start of the endpoint."""

    access_key_id: str
    secret_access_key: str

    @classmethod
    def random(cls) -> Credentials:
        """A fresh pair that looks like AWS's."""
        alphabet = string.ascii_uppercase + string.digits
        return cls(
            access_key_id="EMRLOCAL" + "".join(secrets.choice(alphabet) for _ in range(12)),
            secret_access_key=secrets.token_urlsafe(30),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """What a signature covers.

    raw_path: the path as it was sent, percent-encoded, without the query
    headers: names in lower case
    payload_hash: what x-amz-content-sha256 says, else the SHA-256 of the body
    """

    method: str
    raw_path: str
    raw_query: str
    headers: Mapping[str, str]
    payload_hash: str


@dataclass(frozen=True, slots=True)
class _Claim:
    access_key_id: str
    scope: str
    signed_headers: tuple[str, ...]
    signature: str
    date: str
    expires_s: int | None


def verify(request: SignedRequest, credentials: Credentials, *, now: datetime) -> str:
    """The service that the signature names (``elasticmapreduce``, ``s3``). Raises SignatureRefused."""
    claim = _claim_of(request)
    check_key(claim.access_key_id, credentials)
    date_stamp, region, service = _scope(claim.scope)
    _check_time(claim, now)
    canonical = _canonical_request(request, claim)
    to_sign = "\n".join((ALGORITHM, claim.date, claim.scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = signing_key(credentials.secret_access_key, date_stamp, region, service)
    expected = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    check_signature(claim.signature, expected.encode())
    return service


def check_key(access_key_id: str | None, credentials: Credentials) -> None:
    """Raises SignatureRefused for any other key than this endpoint's."""
    if access_key_id != credentials.access_key_id:
        raise SignatureRefused(
            "InvalidAccessKeyId",
            "The access key is not the one of this start of emr-local: read it from the ready file.",
        )


def check_signature(given: str, expected: bytes) -> None:
    """Raises SignatureRefused unless the signature is the expected one."""
    if not hmac.compare_digest(expected, given.encode()):
        raise SignatureRefused(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided.",
        )


def is_presigned(raw_query: str) -> bool:
    """True when the signature stands in the query, so that the body is not signed."""
    return "X-Amz-Signature=" in raw_query


def signing_key(secret: str, date_stamp: str, region: str, service: str) -> bytes:
    """The key derived for one day, region and service."""
    key = f"AWS4{secret}".encode()
    for part in (date_stamp, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _claim_of(request: SignedRequest) -> _Claim:
    header = request.headers.get("authorization", "")
    if header.startswith(ALGORITHM):
        parts = dict(part.strip().partition("=")[::2] for part in header[len(ALGORITHM) :].strip().split(","))
        credential, signed = parts.get("Credential", ""), parts.get("SignedHeaders", "")
        date = request.headers.get("x-amz-date", "")
        return _claim(credential, signed, parts.get("Signature", ""), date, None)
    query = dict(parse_qsl(request.raw_query, keep_blank_values=True))
    if query.get("X-Amz-Algorithm") == ALGORITHM:
        return _claim(
            query.get("X-Amz-Credential", ""),
            query.get("X-Amz-SignedHeaders", ""),
            query.get("X-Amz-Signature", ""),
            query.get("X-Amz-Date", ""),
            _expires_s(query.get("X-Amz-Expires", "")),
        )
    raise SignatureRefused(
        "MissingAuthenticationToken", "Request is missing Authentication Token: sign it with SigV4."
    )


def _expires_s(text: str) -> int:
    if not _SECONDS.fullmatch(text) or int(text) > EXPIRES_MAX_S:
        raise SignatureRefused(
            "AuthorizationQueryParametersError",
            f"X-Amz-Expires is a number of seconds up to {EXPIRES_MAX_S}.",
        )
    return int(text)


def _claim(credential: str, signed: str, signature: str, date: str, expires_s: int | None) -> _Claim:
    access_key_id, _, scope = credential.partition("/")
    headers = tuple(name for name in signed.split(";") if name)
    if not access_key_id or not scope or not headers or not signature or not date:
        raise SignatureRefused("IncompleteSignature", "The SigV4 signature lacks one of its parts.")
    if "host" not in headers:
        raise SignatureRefused("IncompleteSignature", "The SigV4 signature does not cover 'host'.")
    return _Claim(access_key_id, scope, headers, signature, date, expires_s)


def _scope(scope: str) -> tuple[str, str, str]:
    parts = scope.split("/")
    if len(parts) != _SCOPE_PARTS - 1 or parts[-1] != "aws4_request":
        raise SignatureRefused(
            "IncompleteSignature", "The credential scope is date/region/service/aws4_request."
        )
    return parts[0], parts[1], parts[2]


def _check_time(claim: _Claim, now: datetime) -> None:
    try:
        signed_at = datetime.strptime(claim.date, _DATE_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise SignatureRefused("IncompleteSignature", "X-Amz-Date is YYYYMMDD'T'HHMMSS'Z'.") from None
    if not claim.scope.startswith(claim.date[:8]):
        raise SignatureRefused(
            "SignatureDoesNotMatch", "The date of the credential scope differs from X-Amz-Date."
        )
    late_by = now - signed_at
    if claim.expires_s is not None:
        if late_by > timedelta(seconds=claim.expires_s) or late_by < -MAX_SKEW:
            raise SignatureRefused("AccessDenied", "Request has expired")
    elif abs(late_by) > MAX_SKEW:
        raise SignatureRefused(
            "RequestTimeTooSkewed", "The request was signed more than 15 minutes from now."
        )


def _canonical_request(request: SignedRequest, claim: _Claim) -> str:
    headers = "".join(
        f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in claim.signed_headers
    )
    presigned = claim.expires_s is not None
    payload_hash = UNSIGNED_PAYLOAD if presigned else request.payload_hash
    return "\n".join(
        (
            request.method,
            quote(unquote(request.raw_path), safe="/" + _SAFE),
            canonical_query(request.raw_query, leave_out=("X-Amz-Signature",) if presigned else ()),
            headers,
            ";".join(claim.signed_headers),
            payload_hash,
        )
    )


def canonical_query(raw_query: str, *, leave_out: Sequence[str] = ()) -> str:
    """The query as SigV4 wants it: encoded, sorted, ``key=`` for keys without a value."""
    pairs = [
        (quote(unquote(key), safe=_SAFE), quote(unquote(value), safe=_SAFE))
        for key, _, value in (part.partition("=") for part in raw_query.split("&") if part)
        if unquote(key) not in leave_out
    ]
    return "&".join(f"{key}={value}" for key, value in sorted(pairs))

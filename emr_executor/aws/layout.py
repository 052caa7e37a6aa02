"""The layout of the staging area in S3, and the bytes that stand under content-addressed keys.

Pure, without aiobotocore, so that task staging may use it too. Every ``*_key`` is relative to
``staging_uri``; ``uri_of`` joins the two::

    files/<sha256>/<basename>                      a file that a task names
    specs/<sha256>.json                            what the step wrapper runs
    wrapper/<sha256>/emr_step_wrapper.py           the step wrapper itself
    <deployment_id>/state/<cluster>/<submission>   its record, overwritten, deleted when consumed
    <deployment_id>/output/<submission>/000001     driver output, merged stdout and stderr, from 1
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as package_files

from emr_executor.core.model import ClusterUuid, SubmissionId
from emr_executor.errors import ConfigError

WRAPPER_FILE = "emr_step_wrapper.py"
SPEC_VERSION = 1
YARN_TAG = "airflow-emr"
_STATE_PARTS = 3


@dataclass(frozen=True, slots=True)
class S3Uri:
    """A bucket, and a key or key prefix without a leading slash."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def parse_s3_uri(uri: str) -> S3Uri:
    """The two parts of ``s3://bucket/key``; s3a and s3n are the same place. Raises ConfigError."""
    scheme, mark, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme not in {"s3", "s3a", "s3n"} or not mark or not bucket:
        raise ConfigError([f"{uri!r} is no S3 location; write it as s3://bucket/prefix/"])
    return S3Uri(bucket, key)


def staging_prefix(staging_uri: str) -> S3Uri:
    """``staging_uri`` parsed, its prefix empty or ending in a slash."""
    uri = parse_s3_uri(staging_uri)
    return S3Uri(uri.bucket, f"{uri.key.rstrip('/')}/" if uri.key.strip("/") else "")


def uri_of(staging_uri: str, key: str) -> str:
    """The ``s3://`` address of a key of this layout."""
    prefix = staging_prefix(staging_uri)
    return str(S3Uri(prefix.bucket, prefix.key + key))


def files_key(sha256: str, basename: str) -> str:
    """Where a staged file stands."""
    return f"files/{sha256}/{basename}"


def spec_key(spec: bytes) -> str:
    """Where a step spec stands."""
    return f"specs/{sha256_of(spec)}.json"


def wrapper_key(source: bytes) -> str:
    """Where the step wrapper stands."""
    return f"wrapper/{sha256_of(source)}/{WRAPPER_FILE}"


def records_prefix(deployment_id: str) -> str:
    """What the wrapper gets as ``--records``."""
    return f"{deployment_id}/"


def state_prefix(deployment_id: str) -> str:
    """Everything that one listing of live records covers."""
    return f"{deployment_id}/state/"


def state_key(deployment_id: str, cluster_uuid: ClusterUuid, submission_id: SubmissionId) -> str:
    """Where a submission's record stands."""
    return f"{state_prefix(deployment_id)}{cluster_uuid}/{submission_id}"


def parse_state_key(key: str) -> tuple[ClusterUuid, SubmissionId] | None:
    """Whose record a full S3 key holds, or None for an object that is not ours."""
    parts = key.split("/")[-_STATE_PARTS:]
    if len(parts) != _STATE_PARTS or parts[0] != "state" or not parts[1] or not parts[2]:
        return None
    return ClusterUuid(parts[1]), SubmissionId(parts[2])


def output_key(deployment_id: str, submission_id: SubmissionId, chunk: int) -> str:
    """Where a chunk of driver output stands, counted from 1."""
    return f"{deployment_id}/output/{submission_id}/{chunk:06d}"


def sha256_of(data: bytes) -> str:
    """The lower-case hex digest that content-addressed keys carry."""
    return hashlib.sha256(data).hexdigest()


def spec_bytes(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    timeout_s: float | None,
    output_interval_s: float,
    output_max_bytes: int,
) -> bytes:
    """The step spec as the wrapper reads it; equal work gives equal bytes, hence one object."""
    spec = {
        "v": SPEC_VERSION,
        "command": list(command),
        "env": dict(env),
        "timeout_s": timeout_s,
        "output": {"interval_s": output_interval_s, "max_bytes": output_max_bytes},
        "yarn_tag_prefix": YARN_TAG,
    }
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@cache
def wrapper_source() -> bytes:
    """The step wrapper's script as this release ships it."""
    return (package_files("emr_executor.wrapper") / WRAPPER_FILE).read_bytes()

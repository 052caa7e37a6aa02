"""The layout of the staging area in S3, and the bytes that stand under content-addressed keys.

Pure, without aiobotocore, so that task staging may use it too. Every ``*_key`` is relative to
``staging_uri``; ``uri_of`` joins the two::

    files/<date>/<sha256>/<basename>                         a file that a task names
    specs/<date>/<sha256>.json                               what the step wrapper runs
    wrapper/<date>/<sha256>/emr_step_wrapper.py              the step wrapper itself
    <deployment_id>/state/<cluster>/<submission>             its record, overwritten, deleted when consumed
    <deployment_id>/claims/<cluster>/<submission>            which step does its work: the first to ask
    <deployment_id>/output/<cluster>/<submission>/000001     driver output, merged stdout and stderr, from 1

Clusters only read the first three and write only the others, so a short policy keeps a job from changing
what other steps run (docs/staging.md). The first three are *shared*: by the tasks of a deployment, and by
deployments with one ``staging_uri``.
How nobody takes a shared object away from another, without a lock and without comparing clocks closely:

- ``<date>`` is the first day of a span of ``REUSED_FOR``. Staging looks for an object under the present
  date only, so what it finds is younger than that; an older one it never meets, and writes anew.
- An agent deletes nothing that its own live steps name, and once a day it sets the age of that back, from
  ``REFRESHED_FROM`` after ``<date>`` on.
- Whatever is deleted was last written ``KEPT_AT_LEAST`` ago or longer, by S3's own clock.

So a prepare phase and a deletion are days apart, and hosts whose clocks differ by hours do no harm. A live
step of *another* deployment is safe as long as its agent is not away for ``KEPT_AT_LEAST - REFRESHED_FROM``
less a day (docs/operations.md, "Retention").
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib.resources import files as package_files

from emr_executor.config import KEEP_STAGING_AT_LEAST_S
from emr_executor.core.model import ClusterUuid, SubmissionId
from emr_executor.errors import ConfigError

WRAPPER_FILE = "emr_step_wrapper.py"
SPEC_VERSION = 1
YARN_TAG = "airflow-emr"
SHARED_PREFIXES = ("files/", "specs/", "wrapper/")
REUSED_FOR = timedelta(days=3)
"""A shared object is staged anew at this age, at the latest."""
REFRESHED_FROM = timedelta(days=3)
"""So long after its date, an object that a live step names is given a new age, once a day."""
KEPT_AT_LEAST = timedelta(seconds=KEEP_STAGING_AT_LEAST_S)
"""No deployment deletes a shared object that is younger."""
_STATE_PARTS = 3
_CLAIMS_NOTHING = "4d45c319c405d4404c8d00215d158ff41c91c6dc05186b395a54ad12e2dbfe8c"
"""The wrapper of commit f99b3ad, which steps that were prepared before an upgrade go on to run."""
_SHARED = re.compile(r"\b(files|specs|wrapper)/(\d{4}-\d\d-\d\d)/([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class S3Uri:
    """A bucket, and a key or key prefix without a leading slash."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def below(self, key: str) -> S3Uri:
        """A key of this prefix."""
        return S3Uri(self.bucket, self.key + key)


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
    return str(staging_prefix(staging_uri).below(key))


def staging_date(now: datetime) -> str:
    """The date under which shared objects are staged and found now."""
    span = REUSED_FOR.days
    return date.fromordinal(now.astimezone(UTC).toordinal() // span * span).isoformat()


def files_key(staged_on: str, sha256: str, basename: str) -> str:
    """Where a staged file stands."""
    return f"files/{staged_on}/{sha256}/{basename}"


def spec_key(staged_on: str, spec: bytes) -> str:
    """Where a step spec stands."""
    return f"specs/{staged_on}/{sha256_of(spec)}.json"


def wrapper_key(staged_on: str, source: bytes) -> str:
    """Where the step wrapper stands."""
    return f"wrapper/{staged_on}/{sha256_of(source)}/{WRAPPER_FILE}"


def shared_names(text: str) -> set[str]:
    """What a text (a key, an address, a step as JSON) names of shared objects, as ``<kind>/<date>/<sha256>``.

    Each is the prefix of the object's key: no two objects have it in common.
    """
    return {match.group(0) for match in _SHARED.finditer(text)}


def needs_refreshing(shared_name: str, now: datetime) -> bool:
    """Whether a shared object is so old that whoever still needs it has to give it a new age."""
    staged_on = datetime.fromisoformat(shared_name.split("/")[1]).replace(tzinfo=UTC)
    return now - staged_on >= REFRESHED_FROM


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


def claims_prefix(deployment_id: str) -> str:
    """Which step does the work of which submission."""
    return f"{deployment_id}/claims/"


def claim_key(deployment_id: str, cluster_uuid: ClusterUuid, submission_id: SubmissionId) -> str:
    """Where a submission's claim stands, as the wrapper writes it."""
    return f"{claims_prefix(deployment_id)}{cluster_uuid}/{submission_id}"


def claims_first(wrapper_uri: str) -> bool:
    """Whether steps with this wrapper begin nothing without a claim."""
    return _CLAIMS_NOTHING not in wrapper_uri


def output_prefix(deployment_id: str) -> str:
    """Driver output of all submissions."""
    return f"{deployment_id}/output/"


def submission_of_key(deployment_id: str, key: str) -> SubmissionId | None:
    """Whose record or output a key of a deployment holds; None for any other key."""
    match key.split("/"):
        case (
            [owner, "state" | "claims", _, submission]
            | [owner, "output", _, submission, _]
            | [owner, "output", submission, _]  # of a step that began under an older release
        ) if owner == deployment_id:
            return SubmissionId(submission) if submission else None
    return None


def output_key(deployment_id: str, cluster_uuid: ClusterUuid, submission_id: SubmissionId, chunk: int) -> str:
    """Where a chunk of driver output stands, counted from 1."""
    return f"{output_prefix(deployment_id)}{cluster_uuid}/{submission_id}/{chunk:06d}"


def old_output_key(deployment_id: str, submission_id: SubmissionId, chunk: int) -> str:
    """Where it stands of a step that was added with the wrapper of commit f99b3ad or before."""
    return f"{output_prefix(deployment_id)}{submission_id}/{chunk:06d}"


def sha256_of(data: bytes) -> str:
    """The lower-case hex digest that content-addressed keys carry."""
    return hashlib.sha256(data).hexdigest()


def spec_bytes(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    staged: Sequence[str],
    timeout_s: float | None,
    output_interval_s: float,
    output_max_bytes: int,
) -> bytes:
    """The step spec as the wrapper reads it; equal work gives equal bytes, hence one object.

    staged: addresses of staged files in the command, for which it puts paths
    """
    spec = {
        "v": SPEC_VERSION,
        "command": list(command),
        "env": dict(env),
        "staged": sorted(staged),
        "timeout_s": timeout_s,
        "output": {"interval_s": output_interval_s, "max_bytes": output_max_bytes},
        "yarn_tag_prefix": YARN_TAG,
    }
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@cache
def wrapper_source() -> bytes:
    """The step wrapper's script as this release ships it."""
    return (package_files("emr_executor.wrapper") / WRAPPER_FILE).read_bytes()

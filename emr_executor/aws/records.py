"""``ports.StepRecords`` over S3: one listing for a thousand live steps, then only what has changed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from emr_executor.aws import layout
from emr_executor.aws.layout import S3Uri
from emr_executor.aws.objects import Listed, S3Objects
from emr_executor.core.model import ClusterUuid, StepId, StepRecord, SubmissionId
from emr_executor.core.states import RecordPhase

RECORD_VERSION = 1
GETS_AT_ONCE = 16
MOST_DELETED = 1000
"""Keys of one DeleteObjects (Amazon S3 API Reference)."""
TAIL_CHARACTERS = 4096
REASON_CHARACTERS = 200

# The cluster wrote it: what is no step id must not reach a call to EMR.
_STEP_OF_CLAIM = re.compile(rb'"step": *"(s-[0-9A-Z]{1,30})"')

_log = structlog.get_logger(__name__)


class S3StepRecords:
    """The records of one deployment, below ``<staging_uri><deployment_id>/``."""

    def __init__(self, objects: S3Objects, staging_uri: str, deployment_id: str) -> None:
        self._objects = objects
        self._staging = layout.staging_prefix(staging_uri)
        self._deployment_id = deployment_id
        self._gets = asyncio.Semaphore(GETS_AT_ONCE)
        # Broken records, and those that nobody consumes, must not cost a GET at every listing.
        self._read: dict[str, tuple[str, StepRecord | None]] = {}

    @property
    def records_uri(self) -> str:
        """What step wrappers get as ``--records``."""
        return str(self._staging.below(layout.records_prefix(self._deployment_id)))

    async def changed(self, known: Mapping[SubmissionId, str]) -> tuple[StepRecord, ...]:
        """Records whose mark differs from ``known``, in the order of their keys.

        A broken record is logged once and left out. Raises TryAgain.
        """
        listed = [
            entry
            async for entry in self._objects.list(
                self._staging.below(layout.state_prefix(self._deployment_id))
            )
        ]
        present = {entry.key for entry in listed}
        self._read = {key: read for key, read in self._read.items() if key in present}
        wanted = [entry for entry in listed if _is_news(entry, known)]
        records = await _all(*(self._record(entry) for entry in wanted))
        return tuple(r for r in records if r is not None and known.get(r.submission_id) != r.mark)

    async def output(
        self, cluster_uuid: ClusterUuid, submission_id: SubmissionId, chunk: int
    ) -> bytes | None:
        """One chunk of driver output, from 1; None when there is none (yet)."""
        for key in self._output_keys(cluster_uuid, submission_id, chunk):
            if (stored := await self._objects.get(self._staging.below(key))) is not None:
                return stored.data
        return None

    async def claimed_by(self, cluster_uuid: ClusterUuid, submission_id: SubmissionId) -> StepId | None:
        """The step that holds the claim, or None: the agent holds it now. See ``ports.StepRecords``."""
        uri = self._staging.below(layout.claim_key(self._deployment_id, cluster_uuid, submission_id))
        ours = json.dumps({"v": 1, "step": "none: the agent gave it up"}).encode()
        if await self._objects.put_new(uri, ours):
            return None
        held = await self._objects.get(uri)
        if held is not None and held.data == ours:
            return None
        named = _STEP_OF_CLAIM.search(held.data) if held is not None else None
        return StepId(named.group(1).decode() if named else "")

    async def unread(self, cluster_uuid: ClusterUuid, submission_id: SubmissionId, chunks: int) -> int:
        """How many bytes of driver output stand behind the first so many chunks."""
        left = 0
        for key in self._output_keys(cluster_uuid, submission_id, chunks):
            last = self._staging.below(key)
            folder = S3Uri(last.bucket, last.key.rpartition("/")[0] + "/")
            left += sum([entry.size async for entry in self._objects.list(folder) if entry.key > last.key])
        return left

    async def consume(self, over: Mapping[SubmissionId, ClusterUuid]) -> None:
        """Delete the records that have served, a thousand in one call; absent is fine."""
        keys = [
            self._staging.below(layout.state_key(self._deployment_id, cluster_uuid, submission_id)).key
            for submission_id, cluster_uuid in over.items()
        ]
        while keys:
            for refused in await self._objects.delete_many(self._staging.bucket, keys[:MOST_DELETED]):
                _log.warning("record_not_deleted", why=refused)
            del keys[:MOST_DELETED]

    def _output_keys(
        self, cluster_uuid: ClusterUuid, submission_id: SubmissionId, chunk: int
    ) -> tuple[str, str]:
        return (
            layout.output_key(self._deployment_id, cluster_uuid, submission_id, chunk),
            layout.old_output_key(self._deployment_id, submission_id, chunk),
        )

    async def _record(self, entry: Listed) -> StepRecord | None:
        cached = self._read.get(entry.key)
        if cached is not None and cached[0] == entry.etag:
            return cached[1]
        async with self._gets:
            stored = await self._objects.get(S3Uri(self._staging.bucket, entry.key))
        if stored is None:  # consumed since it was listed
            return None
        record: StepRecord | None = None
        try:
            record = record_of(entry.key, stored.data, stored.etag)
        except ValueError as fault:
            _log.warning("record_unreadable", key=entry.key, problem=str(fault))
        self._read[entry.key] = (stored.etag, record)
        return record


def record_of(key: str, data: bytes, mark: str) -> StepRecord:
    """The step wrapper's record as it stands under a key. Raises ValueError that says what is wrong."""
    owner = layout.parse_state_key(key)
    if owner is None:
        raise ValueError("the key is not <deployment>/state/<cluster>/<submission>")
    raw = json.loads(data)
    if not isinstance(raw, dict) or raw.get("v") != RECORD_VERSION:
        raise ValueError(f"it is no record of version {RECORD_VERSION}")
    if (raw.get("cluster"), raw.get("submission")) != owner:
        raise ValueError("it names another submission than its key")
    try:
        return StepRecord(
            cluster_uuid=owner[0],
            submission_id=owner[1],
            mark=mark,
            phase=RecordPhase(raw["phase"]),
            at=_moment(raw["at"]),
            started_at=_moment(raw["started_at"]) if raw.get("started_at") else None,
            exit_code=_exit_code(raw),
            reason=str(raw.get("reason") or "")[:REASON_CHARACTERS],
            chunks=max(0, int(raw.get("chunks") or 0)),
            tail=str(raw.get("tail") or "")[-TAIL_CHARACTERS:],
        )
    except (KeyError, TypeError, OverflowError, OSError) as fault:
        raise ValueError(f"{type(fault).__name__}: {fault}") from fault


def _moment(value: Any) -> datetime:
    return datetime.fromtimestamp(float(value), UTC)


def _exit_code(raw: Mapping[str, Any]) -> int | None:
    code = raw.get("exit_code")
    if code is not None and not isinstance(code, int):
        raise ValueError("its exit_code is no number")
    if code is None and raw["phase"] == RecordPhase.ENDED:
        raise ValueError("it has ended without an exit_code")
    return code


def _is_news(entry: Listed, known: Mapping[SubmissionId, str]) -> bool:
    owner = layout.parse_state_key(entry.key)
    return owner is not None and known.get(owner[1]) != entry.etag


async def _all(*reads: Any) -> list[Any]:
    """Every result, or the first error once all have ended: nothing is left running behind it."""
    results = await asyncio.gather(*reads, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results

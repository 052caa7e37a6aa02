"""Puts a task's local files, its step spec and the step wrapper into S3. Runs in the supervisor process.

Every object stands under a date and the hash of its content, so it is written once and never changed: a
HEAD finds it, or a PUT makes it, and two phases that do so at once do no harm. Its name alone proves nothing:
the SHA-256 that S3 itself computed at the PUT does, and what has another, or none, is written again. What an
earlier date holds is not looked for: it may be about to expire (``aws.layout``).
"""

from __future__ import annotations

import hashlib
import time
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from emr_executor.aws import layout
from emr_executor.aws.access import Way
from emr_executor.aws.translate import error_of, is_refused_credential
from emr_executor.config import Settings
from emr_executor.core.model import StepPlan
from emr_executor.errors import StagingFailed
from emr_executor.task.messages import LocalFile, Park

_BLOCK = 1024 * 1024
_ATTEMPTS = 5
_PAUSE_S = 2.0
_ONE_PIECE = 5 * 1024**3
"""PutObject takes no more."""


def warm_up() -> None:
    """Read botocore's description of S3 once, for every process forked from this one."""
    # Without credentials, which are looked for in each phase, when they may have changed.
    Way(find_credentials=lambda: None, region="us-east-1", endpoint_of=lambda _service: None).client("s3")


class Staging:
    """Stages one step.

    beat: called at least every few seconds while bytes move, so that the phase shows life
    """

    def __init__(
        self,
        settings: Settings,
        client: Any,
        *,
        beat: Callable[[], None] = lambda: None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(tz=UTC),
    ) -> None:
        self._settings = settings
        self._staged_on = layout.staging_date(now())
        self._client = client
        self._beat = beat
        self._sleep = sleep

    def complete(self, park: Park) -> StepPlan:
        """The plan of a parked task, everything that it names staged. Raises StagingFailed, TryAgain."""
        places = {file.token: self._stage(file) for file in park.files}
        command = tuple(_placed(word, places) for word in park.command)
        spec = layout.spec_bytes(
            command,
            park.env,
            staged=sorted(set(places.values())),
            timeout_s=park.execution_timeout_s,
            output_interval_s=self._settings.output_interval_s,
            output_max_bytes=self._settings.output_max_bytes,
        )
        wrapper = layout.wrapper_source()
        return StepPlan(
            command=command,
            env=park.env,
            spec_uri=self._put("the step's spec", layout.spec_key(self._staged_on, spec), spec),
            wrapper_uri=self._put("the step wrapper", layout.wrapper_key(self._staged_on, wrapper), wrapper),
            execution_timeout_s=park.execution_timeout_s,
            translator=park.translator,
            rendered_fields=park.rendered_fields,
        )

    def _stage(self, file: LocalFile) -> str:
        what = f"{file.argument}: {file.path}"
        try:
            digest = self._digest(file.path)
            key = layout.files_key(self._staged_on, digest, Path(file.path).name)
            return self._ensure(what, key, digest, partial(self._upload, file.path))
        except OSError as error:
            raise StagingFailed(f"{what} cannot be read: {error.strerror or error}") from error

    def _put(self, what: str, key: str, body: bytes) -> str:
        return self._ensure(what, key, layout.sha256_of(body), partial(self._put_object, body))

    def _put_object(self, body: bytes, place: layout.S3Uri, checksum: str) -> None:
        self._client.put_object(Bucket=place.bucket, Key=place.key, Body=body, ChecksumSHA256=checksum)

    def _upload(self, path: str, place: layout.S3Uri, checksum: str) -> None:
        # Without threads the progress callback, hence the beat, runs in this process's one thread.
        # In one piece as far as S3 takes it: a SHA-256 of parts is not that of the file.
        config = TransferConfig(use_threads=False, multipart_threshold=_ONE_PIECE)
        is_whole = Path(path).stat().st_size < _ONE_PIECE
        self._client.upload_file(
            path,
            place.bucket,
            place.key,
            Config=config,
            ExtraArgs={"ChecksumSHA256": checksum} if is_whole else {},
            Callback=lambda _bytes: self._beat(),
        )

    def _ensure(self, what: str, key: str, digest: str, write: Callable[[layout.S3Uri, str], None]) -> str:
        """The URI of an object that exists, with this SHA-256, when this returns.

        Raises StagingFailed, and TryAgain where waiting helps: no credentials, or S3 is away.
        """
        uri = layout.uri_of(self._settings.staging_uri, key)
        place = layout.parse_s3_uri(uri)
        checksum = b64encode(bytes.fromhex(digest)).decode()
        for attempt in range(1, _ATTEMPTS + 1):
            self._beat()
            try:
                if self._checksum(place) != checksum:
                    write(place, checksum)
            except (ClientError, BotoCoreError, boto3.exceptions.Boto3Error) as error:
                cause = _cause(error)
                if is_refused_credential(cause):
                    raise error_of(cause, "PutObject", service="s3") from error
                if not _may_pass(cause):
                    raise StagingFailed(f"{what} cannot be written to {uri}: {error}") from error
                if attempt == _ATTEMPTS:
                    raise error_of(cause, "PutObject", service="s3") from error
                self._sleep(_PAUSE_S * attempt)
            else:
                return uri
        raise StagingFailed(f"{what} cannot be written to {uri}")

    def _checksum(self, place: layout.S3Uri) -> str | None:
        """The SHA-256 of the object that S3 has, as S3 writes it; None when there is none that it knows."""
        try:
            found = self._client.head_object(Bucket=place.bucket, Key=place.key, ChecksumMode="ENABLED")
        except ClientError as error:
            # Without s3:ListBucket S3 answers 403 for an absent key: then the PUT decides.
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in {
                HTTPStatus.FORBIDDEN,
                HTTPStatus.NOT_FOUND,
            }:
                return None
            raise
        return found.get("ChecksumSHA256")

    def _digest(self, path: str) -> str:
        digest = hashlib.sha256()
        with Path(path).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                self._beat()
        return digest.hexdigest()


def _placed(word: str, places: dict[str, str]) -> str:
    for token, uri in places.items():
        word = word.replace(token, uri)
    return word


def _cause(error: Exception) -> Exception:
    """What boto3's transfer wrapped, if it did."""
    inner = error.__context__
    wrapped = isinstance(error, boto3.exceptions.Boto3Error) and isinstance(
        inner, ClientError | BotoCoreError
    )
    return inner if wrapped and isinstance(inner, Exception) else error


def _may_pass(error: Exception) -> bool:
    """Whether the same call may succeed later: no answer, a fault of S3's, or throttling."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return bool(status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS)
    return not isinstance(error, boto3.exceptions.Boto3Error)

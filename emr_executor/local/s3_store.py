"""S3 objects in a directory: ``<root>/<bucket>/<key>``, so that Spark sees the same files as plain files.

What a directory cannot hold is refused with a clear error, never silently changed: a key that is also the
prefix of another ("a" and "a/b"), empty path parts ("a//b", a leading "/"), "." and "..". A key that ends in
"/" (a folder marker) is kept as a hidden file in that directory. Objects change atomically (a temporary file
and a rename); headers and user metadata live beside the buckets, and are dropped when the file is changed by
another hand. The ETag is the MD5 of the bytes (``md5-n`` for multipart uploads), whoever wrote them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MARKER_NAME = ".emr-local-folder"
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_KEY_MAX_BYTES = 1024
_NAME_MAX_BYTES = 255
_CHUNK = 1 << 20
# A file changed this recently may be changed again within one tick of the file system's clock.
_RACY_S = 0.05


class S3Error(Exception):
    """An error answer of S3."""

    def __init__(self, code: str, message: str, *, status: int) -> None:
        self.code, self.message, self.status = code, message, status
        super().__init__(f"{code}: {message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object. ``modified_at`` is epoch seconds; ``etag`` is without quotes; headers are lower case."""

    key: str
    size: int
    modified_at: float
    etag: str
    headers: Mapping[str, str] = field(default_factory=dict)


Condition = Callable[[ObjectInfo | None], None]
"""Raises S3Error unless an object, or None where there is none, may be changed."""


def ALWAYS(_: ObjectInfo | None) -> None:  # noqa: N802  (a constant, of Condition's kind)
    """The condition of a change without one."""


@dataclass(slots=True)
class _Meta:
    signature: list[int]
    etag: str
    headers: dict[str, str]


class S3Store:
    """The buckets below one directory. Thread-safe."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._state = root.parent / f"{root.name}-state"
        for folder in (root, self._state / "meta", self._state / "tmp", self._state / "uploads"):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._etags: dict[Path, tuple[list[int], str]] = {}
        self._temporary = 0

    # -- buckets --------------------------------------------------------------------------------------

    def create_bucket(self, bucket: str) -> None:
        """Make a bucket; one that is there already is fine (us-east-1 answers so to its owner)."""
        if not _BUCKET_NAME.fullmatch(bucket) or ".." in bucket:
            raise S3Error("InvalidBucketName", "The specified bucket is not valid.", status=400)
        (self.root / bucket).mkdir(exist_ok=True)

    def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket."""
        path = self.bucket_path(bucket)
        with self._lock:
            if any(True for _ in self.walk(bucket)):
                raise S3Error("BucketNotEmpty", "The bucket you tried to delete is not empty", status=409)
            shutil.rmtree(path)

    def buckets(self) -> list[tuple[str, float]]:
        """Names and creation times (epoch seconds), by name."""
        return sorted(
            (entry.name, entry.stat().st_mtime) for entry in os.scandir(self.root) if entry.is_dir()
        )

    def bucket_path(self, bucket: str) -> Path:
        """The directory of a bucket that exists."""
        path = self.root / bucket
        if not _BUCKET_NAME.fullmatch(bucket) or not path.is_dir():
            raise S3Error("NoSuchBucket", "The specified bucket does not exist", status=404)
        return path

    # -- objects --------------------------------------------------------------------------------------

    def path_of(self, bucket: str, key: str) -> Path:
        """The file of a key; it need not exist. Never outside of the bucket's directory."""
        base = self.bucket_path(bucket)
        if len(key.encode()) > _KEY_MAX_BYTES:
            raise S3Error("KeyTooLongError", "Your key is too long", status=400)
        parts = key.split("/")
        if max(len(part.encode()) for part in parts) > _NAME_MAX_BYTES:
            message = f"emr-local keeps objects as files: no path part of a key over {_NAME_MAX_BYTES} bytes."
            raise S3Error("KeyTooLongError", message, status=400)
        if parts[-1] == "" and len(parts) > 1:
            parts[-1] = MARKER_NAME
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise S3Error(
                "InvalidRequest",
                f"emr-local keeps objects as files and cannot hold the key {key!r}: "
                "path parts may not be empty, '.' or '..'.",
                status=400,
            )
        path = base.joinpath(*parts)
        # A link that a job left in the bucket must not lead out of it either.
        if not path.parent.resolve().is_relative_to(base.resolve()) or path.is_symlink():
            raise S3Error("InvalidRequest", f"The key {key!r} leads out of the bucket.", status=400)
        return path

    def info(self, bucket: str, key: str) -> ObjectInfo:
        """What HeadObject tells. Raises S3Error NoSuchKey."""
        return self._info(key, self.path_of(bucket, key))

    def open(self, bucket: str, key: str) -> tuple[ObjectInfo, Any]:
        """The object and a binary file to read it from; the caller closes it."""
        path = self.path_of(bucket, key)
        info = self._info(key, path)
        try:
            return info, path.open("rb")
        except OSError:
            raise _no_such_key() from None

    def put(
        self,
        bucket: str,
        key: str,
        source: Path,
        headers: Mapping[str, str],
        *,
        etag: str,
        only_if: Condition = ALWAYS,
    ) -> None:
        """Make ``source`` (a file from ``new_temporary``) the object's content; it is gone in any case.

        only_if: sees what is there, at the moment of the change, and raises S3Error to leave it
        """
        try:
            path = self.path_of(bucket, key)
            with self._lock:
                only_if(self._present(key, path) if only_if is not ALWAYS else None)
                path.parent.mkdir(parents=True, exist_ok=True)
                source.replace(path)
                self._remember(path, etag, dict(headers))
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise _conflict(key) from None
        finally:
            source.unlink(missing_ok=True)

    def delete(self, bucket: str, key: str, *, only_if: Condition = ALWAYS) -> None:
        """Remove an object; an absent one is fine. Directories left empty go too.

        only_if: as in ``put``
        """
        path = self.path_of(bucket, key)
        base = self.bucket_path(bucket)
        with self._lock:
            only_if(self._present(key, path) if only_if is not ALWAYS else None)
            if path.is_dir():
                return
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            self._meta_path(path).unlink(missing_ok=True)
            self._etags.pop(path, None)
            for parent in path.parents:
                if parent == base:
                    break
                try:
                    parent.rmdir()
                except OSError:
                    break

    def walk(self, bucket: str, prefix: str = "", after: str = "") -> Iterator[str]:
        """Keys with a prefix, after a key, in S3's order (by the bytes of the whole key)."""
        base = self.bucket_path(bucket)
        folder = prefix.rpartition("/")[0]
        if "\0" in folder:
            return
        start = base / folder if folder else base
        if not start.resolve().is_relative_to(base.resolve()):
            return
        yield from _walk(start, f"{folder}/" if folder else "", prefix, after)

    def listed(self, bucket: str, key: str) -> ObjectInfo | None:
        """A key that ``walk`` gave, or None when it vanished meanwhile."""
        # Listing follows no links, so its keys need no second look at where they lead.
        name = f"{key}{MARKER_NAME}" if key.endswith("/") else key
        try:
            return self._info(key, self.root / bucket / name)
        except S3Error:
            return None

    def new_temporary(self) -> Path:
        """A fresh path on the buckets' file system for content that is on its way in."""
        with self._lock:
            self._temporary += 1
            return self._state / "tmp" / f"{os.getpid()}-{self._temporary}"

    @property
    def uploads(self) -> Path:
        """Where multipart uploads wait for their end."""
        return self._state / "uploads"

    # -- etags and headers ----------------------------------------------------------------------------

    def _info(self, key: str, path: Path) -> ObjectInfo:
        try:
            stat = path.stat()
            if not path.is_file():
                raise _no_such_key()
            signature = _signature(stat)
            meta = self._meta(path, signature)
            etag = (meta.etag if meta is not None else "") or self._etag(path, signature)
        except OSError:
            raise _no_such_key() from None
        return ObjectInfo(
            key=key,
            size=stat.st_size,
            modified_at=stat.st_mtime,
            etag=etag,
            headers={} if meta is None else meta.headers,
        )

    def _present(self, key: str, path: Path) -> ObjectInfo | None:
        try:
            return self._info(key, path)
        except S3Error:
            return None

    def _etag(self, path: Path, signature: list[int]) -> str:
        known = self._etags.get(path)
        if known is not None and known[0] == signature:
            return known[1]
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            signature_after = _signature(os.fstat(file.fileno()))
        if signature_after == signature and time.time() - signature[0] / 1e9 > _RACY_S:
            self._etags[path] = (signature, digest.hexdigest())
        return digest.hexdigest()

    def _remember(self, path: Path, etag: str, headers: dict[str, str]) -> None:
        # An MD5 of one piece is not kept here: it can be had from the bytes, whoever changes them next.
        kept = etag if "-" in etag else ""
        meta_path = self._meta_path(path)
        if headers or kept:
            meta_path.write_text(json.dumps(asdict(_Meta(_signature(path.stat()), kept, headers))))
        else:
            meta_path.unlink(missing_ok=True)

    def _meta(self, path: Path, signature: list[int]) -> _Meta | None:
        try:
            meta = _Meta(**json.loads(self._meta_path(path).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return meta if meta.signature == signature else None

    def _meta_path(self, path: Path) -> Path:
        name = hashlib.sha256(str(path.relative_to(self.root)).encode()).hexdigest()
        return self._state / "meta" / f"{name}.json"


def _walk(folder: Path, at: str, prefix: str, after: str) -> Iterator[str]:
    try:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in os.scandir(folder)]
    except OSError:
        return
    keyed = (
        (f"{at}{name}/" if is_dir else at if name == MARKER_NAME else f"{at}{name}", name, is_dir)
        for name, is_dir in entries
    )
    for key, name, is_dir in sorted(keyed, key=lambda entry: entry[0].encode()):
        if not is_dir:
            if key.startswith(prefix) and key.encode() > after.encode():
                yield key
            continue
        if not (key.startswith(prefix) or prefix.startswith(key)):
            continue
        if key.encode() < after.encode() and not after.startswith(key):
            continue
        yield from _walk(folder / name, key, prefix, after)


def _signature(stat: os.stat_result) -> list[int]:
    return [stat.st_mtime_ns, stat.st_size, stat.st_ino]


def _no_such_key() -> S3Error:
    return S3Error("NoSuchKey", "The specified key does not exist.", status=404)


def _conflict(key: str) -> S3Error:
    return S3Error(
        "InvalidRequest",
        f"emr-local keeps objects as files: {key!r} cannot exist beside a key that is its prefix, "
        "or that it is a prefix of.",
        status=400,
    )

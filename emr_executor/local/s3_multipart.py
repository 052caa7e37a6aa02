"""Multipart uploads: parts wait as files, and become one object at the end."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from pathlib import Path

from werkzeug.wrappers import Response

from emr_executor.local import s3_xml
from emr_executor.local.s3_body import Body
from emr_executor.local.s3_http import S3Request, kept_headers, write_condition, xml
from emr_executor.local.s3_store import Condition, S3Error, S3Store
from emr_executor.local.s3_xml import Child, document

PART_LIMIT = 10_000
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")
_PART_NUMBER = re.compile(r"[0-9]{1,5}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_ABOUT = "about.json"


class Multipart:
    """Uploads under way below the store's ``uploads`` directory; they survive a restart."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    def create(self, request: S3Request) -> Response:
        """CreateMultipartUpload."""
        request.read_body(self._store)
        self._store.path_of(request.bucket, request.key)
        upload_id = secrets.token_hex(16)
        folder = self._store.uploads / upload_id
        folder.mkdir()
        about = {"bucket": request.bucket, "key": request.key, "headers": kept_headers(request.headers)}
        (folder / _ABOUT).write_text(json.dumps(about))
        names: list[Child] = [("Bucket", request.bucket), ("Key", request.key), ("UploadId", upload_id)]
        return xml(document("InitiateMultipartUploadResult", names))

    def add_part(self, request: S3Request, body: Body) -> str:
        """Keep one part, replacing an earlier one of its number; its ETag."""
        try:
            folder = self._folder(request)
            number = request.query.get("partNumber", "")
            if not _PART_NUMBER.fullmatch(number) or not 1 <= int(number) <= PART_LIMIT:
                raise S3Error("InvalidArgument", "Part number must be from 1 to 10000", status=400)
            for earlier in folder.glob(f"{int(number):05d}-*"):
                earlier.unlink()
            body.path.replace(folder / f"{int(number):05d}-{body.md5}")
        finally:
            body.path.unlink(missing_ok=True)
        return body.md5

    def complete(self, request: S3Request) -> Response:
        """CompleteMultipartUpload: the named parts, in order, become the object."""
        only_if = write_condition(request.headers)
        folder = self._folder(request)
        root = s3_xml.read(request.read_body(self._store))
        numbers = s3_xml.texts(root, "PartNumber")
        etags = [etag.strip('"') for etag in s3_xml.texts(root, "ETag")]
        if not numbers or len(numbers) != len(etags) or not all(map(_PART_NUMBER.fullmatch, numbers)):
            raise S3Error("MalformedXML", "Every part has a PartNumber and an ETag.", status=400)
        if sorted(set(map(int, numbers))) != list(map(int, numbers)):
            raise S3Error("InvalidPartOrder", "The list of parts was not in ascending order.", status=400)
        if not all(map(_MD5.fullmatch, etags)):
            raise S3Error("InvalidPart", "One or more of the specified parts could not be found.", status=400)
        parts = [folder / f"{int(number):05d}-{etag}" for number, etag in zip(numbers, etags, strict=True)]
        if not all(part.is_file() for part in parts):
            raise S3Error("InvalidPart", "One or more of the specified parts could not be found.", status=400)
        etag = self._join(request, parts, only_if)
        shutil.rmtree(folder, ignore_errors=True)
        return xml(
            document(
                "CompleteMultipartUploadResult",
                [("Bucket", request.bucket), ("Key", request.key), ("ETag", f'"{etag}"')],
            )
        )

    def _join(self, request: S3Request, parts: list[Path], only_if: Condition) -> str:
        headers = json.loads((self._folder(request) / _ABOUT).read_text())["headers"]
        digests = b"".join(bytes.fromhex(part.name.partition("-")[2]) for part in parts)
        etag = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
        whole = self._store.new_temporary()
        try:
            with whole.open("wb") as target:
                for part in parts:
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, target)
        except BaseException:
            whole.unlink(missing_ok=True)
            raise
        self._store.put(request.bucket, request.key, whole, headers, etag=etag, only_if=only_if)
        return etag

    def abort(self, request: S3Request) -> Response:
        """AbortMultipartUpload."""
        shutil.rmtree(self._folder(request), ignore_errors=True)
        return Response(status=204)

    def list_parts(self, request: S3Request) -> Response:
        """ListParts, in one page."""
        parts: list[Child] = []
        for part in sorted(self._folder(request).glob("*-*")):
            number, _, etag = part.name.partition("-")
            stat = part.stat()
            described: list[Child] = [
                ("PartNumber", int(number)),
                ("LastModified", s3_xml.timestamp(stat.st_mtime)),
                ("ETag", f'"{etag}"'),
                ("Size", stat.st_size),
            ]
            parts.append(("Part", described))
        names: list[Child] = [
            ("Bucket", request.bucket),
            ("Key", request.key),
            ("UploadId", request.query["uploadId"]),
            ("MaxParts", PART_LIMIT),
            ("IsTruncated", False),
        ]
        return xml(document("ListPartsResult", names + parts))

    def list_uploads(self, request: S3Request) -> Response:
        """ListMultipartUploads, in one page."""
        self._store.bucket_path(request.bucket)
        uploads: list[Child] = []
        for about_path in sorted(self._store.uploads.glob(f"*/{_ABOUT}")):
            about = json.loads(about_path.read_text())
            if about["bucket"] == request.bucket and about["key"].startswith(request.query.get("prefix", "")):
                started = s3_xml.timestamp(about_path.stat().st_mtime)
                described: list[Child] = [
                    ("Key", about["key"]),
                    ("UploadId", about_path.parent.name),
                    ("Initiated", started),
                ]
                uploads.append(("Upload", described))
        names: list[Child] = [("Bucket", request.bucket), ("IsTruncated", False)]
        return xml(document("ListMultipartUploadsResult", names + uploads))

    def _folder(self, request: S3Request) -> Path:
        upload_id = request.query["uploadId"]
        folder = self._store.uploads / upload_id
        if _UPLOAD_ID.fullmatch(upload_id) and folder.is_dir():
            about = json.loads((folder / _ABOUT).read_text())
            if (about["bucket"], about["key"]) == (request.bucket, request.key):
                return folder
        raise S3Error("NoSuchUpload", "The specified multipart upload does not exist.", status=404)

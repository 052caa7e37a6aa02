"""The S3 operations that boto3, aiobotocore, Airflow's hooks and the step wrapper use, path-style."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from werkzeug.wrappers import Response
from werkzeug.wsgi import FileWrapper

from emr_executor.local import s3_xml
from emr_executor.local.s3_body import Body, BodyTaker
from emr_executor.local.s3_http import (
    Limited,
    S3Request,
    byte_range,
    failed_condition,
    kept_headers,
    object_headers,
    precondition_failed,
    write_condition,
    xml,
)
from emr_executor.local.s3_listing import Listing
from emr_executor.local.s3_multipart import Multipart
from emr_executor.local.s3_store import ObjectInfo, S3Error, S3Store
from emr_executor.local.s3_xml import Child, document

_DELETE_LIMIT = 1000
_DELETE_CONDITIONS = {
    "ETag": "if-match",
    "LastModifiedTime": "x-amz-if-match-last-modified-time",
    "Size": "x-amz-if-match-size",
}
# Query parameters that select another operation than the plain one, and are not served.
_UNSERVED = frozenset(
    {
        *("accelerate", "acl", "analytics", "attributes", "cors", "encryption", "intelligent-tiering"),
        *("inventory", "legal-hold", "lifecycle", "logging", "metadataTable", "metrics", "notification"),
        *("object-lock", "ownershipControls", "policy", "policyStatus", "publicAccessBlock", "replication"),
        *("requestPayment", "restore", "retention", "select", "tagging", "torrent", "versions", "website"),
    }
)

Handler = Callable[[S3Request], Response]


class S3Api:
    """Answers S3 requests; every refusal is a 4xx with S3's code."""

    def __init__(self, store: S3Store, *, region: str) -> None:
        self._store = store
        self._region = region
        self._multipart = Multipart(store)
        self._listing = Listing(store)

    def handle(self, request: S3Request) -> Response:
        """The answer to one request that is signed well."""
        try:
            return self._handler(request)(request)
        except S3Error as error:
            resource = f"/{request.bucket}/{request.key}"
            body = b"" if request.method == "HEAD" else s3_xml.error_document(error, resource)
            return xml(body, error.status)

    def _handler(self, request: S3Request) -> Handler:
        unserved = sorted(_UNSERVED & set(request.query))
        table = self._object_handlers(request) if request.key else self._bucket_handlers(request)
        handler = None if unserved else table.get(request.method)
        if handler is None:
            what = f"{request.method} with ?{unserved[0]}" if unserved else request.method
            raise S3Error("MethodNotAllowed", f"emr-local does not serve {what} here.", status=405)
        return handler

    def _bucket_handlers(self, request: S3Request) -> dict[str, Handler]:
        query = request.query
        if not request.bucket:
            return {"GET": self._listing.buckets}
        if "location" in query:
            return {"GET": self._location}
        if "versioning" in query:
            return {"GET": lambda _: xml(document("VersioningConfiguration", ()))}
        if "uploads" in query:
            return {"GET": self._multipart.list_uploads}
        if "delete" in query:
            return {"POST": self._delete_objects}
        return {
            "GET": self._listing.objects_v2 if query.get("list-type") == "2" else self._listing.objects_v1,
            "HEAD": self._head_bucket,
            "PUT": self._create_bucket,
            "DELETE": self._delete_bucket,
        }

    def _object_handlers(self, request: S3Request) -> dict[str, Handler]:
        if "uploadId" in request.query:
            return {
                "PUT": self._upload_part,
                "POST": self._multipart.complete,
                "DELETE": self._multipart.abort,
                "GET": self._multipart.list_parts,
            }
        if "uploads" in request.query:
            return {"POST": self._multipart.create}
        copies = "x-amz-copy-source" in request.headers
        return {
            "GET": self._get_object,
            "HEAD": self._get_object,
            "PUT": self._copy_object if copies else self._put_object,
            "DELETE": self._delete_object,
        }

    # -- buckets --------------------------------------------------------------------------------------

    def _create_bucket(self, request: S3Request) -> Response:
        request.read_body(self._store)
        self._store.create_bucket(request.bucket)
        return Response(status=200, headers={"Location": f"/{request.bucket}"})

    def _head_bucket(self, request: S3Request) -> Response:
        self._store.bucket_path(request.bucket)
        return Response(status=200, headers={"x-amz-bucket-region": self._region})

    def _delete_bucket(self, request: S3Request) -> Response:
        self._store.delete_bucket(request.bucket)
        return Response(status=204)

    def _location(self, request: S3Request) -> Response:
        self._store.bucket_path(request.bucket)
        # us-east-1 is the empty constraint.
        region = "" if self._region == "us-east-1" else self._region
        return xml(f'<LocationConstraint xmlns="{s3_xml.NAMESPACE}">{region}</LocationConstraint>'.encode())

    # -- objects --------------------------------------------------------------------------------------

    def _get_object(self, request: S3Request) -> Response:
        info, file = self._store.open(request.bucket, request.key)
        try:
            headers = object_headers(info)
            refused = failed_condition(request.headers, info)
            wanted = byte_range(request.headers.get("range"), info.size) if refused is None else None
        except BaseException:
            file.close()
            raise
        start, end = wanted or (0, info.size)
        if wanted is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{info.size}"
        headers["Content-Length"] = str(end - start)
        status = refused or (206 if wanted else 200)
        if refused or request.method == "HEAD":
            file.close()
            return Response(status=status, headers=headers)
        file.seek(start)
        content = FileWrapper(Limited(file, end - start), 1 << 18)
        response = Response(content, status=status, headers=headers, direct_passthrough=True)
        response.call_on_close(file.close)
        return response

    def _put_object(self, request: S3Request) -> Response:
        only_if = write_condition(request.headers)
        body = request.take_body(self._store)
        headers = kept_headers(request.headers)
        self._store.put(request.bucket, request.key, body.path, headers, etag=body.md5, only_if=only_if)
        return Response(status=200, headers={"ETag": f'"{body.md5}"'})

    def _copy_object(self, request: S3Request) -> Response:
        only_if = write_condition(request.headers)
        request.read_body(self._store)
        body, source = self._copy_of_source(request)
        replace = request.headers.get("x-amz-metadata-directive", "COPY").upper() == "REPLACE"
        headers = kept_headers(request.headers) if replace else dict(source.headers)
        self._store.put(request.bucket, request.key, body.path, headers, etag=body.md5, only_if=only_if)
        return xml(document("CopyObjectResult", self._copied(self._store.info(request.bucket, request.key))))

    def _upload_part(self, request: S3Request) -> Response:
        if "x-amz-copy-source" not in request.headers:
            etag = self._multipart.add_part(request, request.take_body(self._store))
            return Response(status=200, headers={"ETag": f'"{etag}"'})
        request.read_body(self._store)
        body, source = self._copy_of_source(request)
        etag = self._multipart.add_part(request, body)
        modified: Child = ("LastModified", s3_xml.timestamp(source.modified_at))
        return xml(document("CopyPartResult", [modified, ("ETag", f'"{etag}"')]))

    def _copy_of_source(self, request: S3Request) -> tuple[Body, ObjectInfo]:
        named = unquote(request.headers["x-amz-copy-source"].partition("?versionId=")[0]).lstrip("/")
        bucket, _, key = named.partition("/")
        info, file = self._store.open(bucket, key)
        with file:
            if failed_condition(request.headers, info, prefix="x-amz-copy-source-") is not None:
                raise precondition_failed()
            wanted = byte_range(request.headers.get("x-amz-copy-source-range"), info.size)
            start, end = wanted or (0, info.size)
            file.seek(start)
            return BodyTaker(Limited(file, end - start), {}).take(self._store.new_temporary()), info

    @staticmethod
    def _copied(info: ObjectInfo) -> list[Child]:
        return [("LastModified", s3_xml.timestamp(info.modified_at)), ("ETag", f'"{info.etag}"')]

    def _delete_object(self, request: S3Request) -> Response:
        self._store.delete(request.bucket, request.key, only_if=write_condition(request.headers))
        return Response(status=204)

    def _delete_objects(self, request: S3Request) -> Response:
        root = s3_xml.read(request.read_body(self._store))
        named = [s3_xml.members(each) for each in s3_xml.elements(root, "Object")]
        quiet = "true" in s3_xml.texts(root, "Quiet")
        if not 0 < len(named) <= _DELETE_LIMIT or not all(each.get("Key") for each in named):
            raise S3Error("MalformedXML", "Delete names 1 to 1000 keys.", status=400)
        self._store.bucket_path(request.bucket)
        children: list[Child] = []
        for each in named:
            key = each["Key"]
            conditions = {header: each[name] for name, header in _DELETE_CONDITIONS.items() if name in each}
            try:
                self._store.delete(request.bucket, key, only_if=write_condition(conditions))
            except S3Error as error:
                why: list[Child] = [("Key", key), ("Code", error.code), ("Message", error.message)]
                children.append(("Error", why))
            else:
                if not quiet:
                    children.append(("Deleted", [("Key", key)]))
        return xml(document("DeleteResult", children))

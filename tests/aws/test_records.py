from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from structlog.testing import capture_logs

from emr_executor.aws import layout
from emr_executor.aws.layout import S3Uri
from emr_executor.aws.records import S3StepRecords, record_of
from emr_executor.aws.session import Aws
from emr_executor.core.model import ClusterUuid, SubmissionId
from emr_executor.core.states import RecordPhase

C = ClusterUuid("c-1")


class Bucket:
    def __init__(self, aws: Aws, name: str) -> None:
        self.aws, self.name = aws, name
        self.records = S3StepRecords(aws.objects, f"s3://{name}/af/", "dep")

    async def write(self, submission: str, /, **changes: Any) -> None:
        key = f"af/dep/state/{C}/{submission}"
        await self.aws.objects.put(S3Uri(self.name, key), json.dumps(record(submission, **changes)).encode())


def record(submission: str, /, **changes: Any) -> dict[str, Any]:
    return {
        "v": 1,
        "submission": submission,
        "cluster": C,
        "seq": 1,
        "phase": "RUNNING",
        "at": 1_800_000_000.5,
        "exit_code": None,
        "reason": "",
        "chunks": 2,
        "tail": "last line\n",
    } | changes


@pytest.fixture
async def bucket(aws: Aws) -> Bucket:
    name = f"staging-{uuid.uuid4().hex[:12]}"
    client = aws.objects._client
    await client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return Bucket(aws, name)


async def test_changed_gives_new_records_once(bucket: Bucket) -> None:
    await bucket.write("w-1")
    await bucket.write("w-2", phase="ENDED", exit_code=3, reason="timeout")
    first = await bucket.records.changed({})
    assert [(r.submission_id, r.phase, r.exit_code, r.reason) for r in first] == [
        ("w-1", RecordPhase.RUNNING, None, ""),
        ("w-2", RecordPhase.ENDED, 3, "timeout"),
    ]
    assert (first[0].chunks, first[0].tail, first[0].at.timestamp()) == (2, "last line\n", 1_800_000_000.5)
    known = {r.submission_id: r.mark for r in first}
    assert await bucket.records.changed(known) == ()
    await bucket.write("w-1", chunks=3)
    assert [(r.submission_id, r.chunks) for r in await bucket.records.changed(known)] == [("w-1", 3)]


async def test_listing_goes_on_past_a_page(bucket: Bucket) -> None:
    pages = []

    def three_to_a_page(params: dict[str, Any], **_: Any) -> dict[str, Any]:
        pages.append(params)
        return params | {"MaxKeys": 3}

    events = bucket.aws.objects._client.meta.events
    events.register("provide-client-params.s3.ListObjectsV2", three_to_a_page)
    for n in range(7):
        await bucket.write(f"w-{n}")
    found = await bucket.records.changed({})
    assert sorted(r.submission_id for r in found) == [f"w-{n}" for n in range(7)]
    assert len(pages) == 3


async def test_broken_record_is_logged_once_and_left_out(bucket: Bucket) -> None:
    await bucket.write("w-1")
    await bucket.write("w-2", phase="DANCING")
    with capture_logs() as logs:
        for _ in range(3):
            assert [r.submission_id for r in await bucket.records.changed({})] == ["w-1"]
    assert [entry["event"] for entry in logs].count("record_unreadable") == 1


async def test_unconsumed_record_is_fetched_once(bucket: Bucket) -> None:
    await bucket.write("w-1")
    gets = []
    bucket.aws.objects._client.meta.events.register(
        "provide-client-params.s3.GetObject", lambda params, **_: gets.append(params["Key"])
    )
    for _ in range(3):
        assert len(await bucket.records.changed({})) == 1
    assert len(gets) == 1


async def test_output_chunk_or_none(bucket: Bucket) -> None:
    await bucket.aws.objects.put(S3Uri(bucket.name, "af/dep/output/c-1/w-1/000001"), b"\xff\x00one")
    assert await bucket.records.output(C, SubmissionId("w-1"), 1) == b"\xff\x00one"
    assert await bucket.records.output(C, SubmissionId("w-1"), 2) is None


async def test_a_step_that_an_older_release_added_is_read_to_its_end(bucket: Bucket) -> None:
    """Keys and record as the wrapper of commit f99b3ad wrote them, which such a step goes on to run."""
    golden = {
        "af/dep/state/c-1/w-1": b'{"v": 1, "submission": "w-1", "cluster": "c-1", "seq": 3, "phase": "ENDED",'
        b' "at": 1800000000.5, "started_at": 1800000000.0, "pid": 7, "exit_code": 0, "reason": "",'
        b' "chunks": 2, "output_bytes": 8, "dropped_bytes": 0, "tail": "one", "yarn_applications": []}',
        "af/dep/output/w-1/000001": b"one\n",
        "af/dep/output/w-1/000002": b"two\n",
    }
    for key, body in golden.items():
        await bucket.aws.objects.put(S3Uri(bucket.name, key), body)
    (ended,) = await bucket.records.changed({})
    assert (ended.submission_id, ended.phase, ended.exit_code) == ("w-1", RecordPhase.ENDED, 0)
    chunks = [await bucket.records.output(C, ended.submission_id, n + 1) for n in range(ended.chunks)]
    assert chunks == [b"one\n", b"two\n"]
    assert await bucket.records.unread(C, ended.submission_id, 1) == len(b"two\n")
    assert {layout.submission_of_key("dep", key.removeprefix("af/")) for key in golden} == {"w-1"}
    await bucket.records.consume({ended.submission_id: ended.cluster_uuid})
    assert await bucket.records.changed({}) == ()


async def test_what_no_step_claimed_is_forbidden_and_what_one_did_is_not(bucket: Bucket) -> None:
    w1, w2 = SubmissionId("w-1"), SubmissionId("w-2")
    claim = b'{"v": 1, "step": "s-1", "nonce": "0"}'
    await bucket.aws.objects.put(S3Uri(bucket.name, "af/dep/claims/c-1/w-2"), claim)
    # An agent that died behind the call is followed by one that asks again.
    assert [await bucket.records.claimed_by(C, one) for one in (w1, w1, w2)] == [None, None, "s-1"]
    assert not await bucket.aws.objects.put_new(S3Uri(bucket.name, "af/dep/claims/c-1/w-1"), claim)


@pytest.mark.parametrize(
    "claim",
    [b"", b"no json", b'{"v": 1, "step": "?"}', b'{"v": 1, "step": "s-1 or so"}', b'{"step": 7}'],
)
async def test_a_claim_that_names_no_step_is_told_as_such(bucket: Bucket, claim: bytes) -> None:
    await bucket.aws.objects.put(S3Uri(bucket.name, "af/dep/claims/c-1/w-1"), claim)
    assert await bucket.records.claimed_by(C, SubmissionId("w-1")) == ""


async def test_consume_twice_is_fine(bucket: Bucket) -> None:
    await bucket.write("w-1")
    for _ in range(2):
        await bucket.records.consume({SubmissionId("w-1"): C})
    assert await bucket.records.changed({}) == ()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"v": 2}, "version 1"),
        ({"submission": "other"}, "another submission"),
        ({"phase": "DANCING"}, "DANCING"),
        ({"phase": "ENDED", "exit_code": None}, "without an exit_code"),
        ({"exit_code": "three"}, "no number"),
        ({"at": None}, "TypeError"),
        ({"at": 1e40}, "OverflowError|year"),
        ({"chunks": "many"}, "invalid literal"),
    ],
)
def test_bad_record_says_what_is_wrong(changes: dict[str, Any], problem: str) -> None:
    data = json.dumps(record("w-1", **changes)).encode()
    with pytest.raises(ValueError, match=problem):
        record_of(f"af/dep/state/{C}/w-1", data, "mark")


def test_bytes_that_are_no_json_are_a_bad_record() -> None:
    with pytest.raises(ValueError, match=r"utf-8|Expecting"):
        record_of(f"af/dep/state/{C}/w-1", b"\xff{", "mark")

"""What the step wrapper writes is what ``S3StepRecords`` reads: the script itself, and S3 by moto."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from pathlib import Path

import pytest

from emr_executor.aws import layout
from emr_executor.aws.records import S3StepRecords
from emr_executor.aws.session import Aws
from emr_executor.core.model import ClusterUuid, SubmissionId
from emr_executor.core.states import RecordPhase

STATED = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "eu-west-1"}


@pytest.mark.processes
@pytest.mark.parametrize("submission", ["w-1", "w with space-1"])
async def test_wrappers_words_are_read_back(aws: Aws, moto_url: str, tmp_path: Path, submission: str) -> None:
    staging = f"s3://staging-{uuid.uuid4().hex[:12]}/af/"
    bucket = layout.staging_prefix(staging).bucket
    where = {"LocationConstraint": "eu-west-1"}
    await aws.objects._client.create_bucket(Bucket=bucket, CreateBucketConfiguration=where)
    spec = layout.spec_bytes(
        ["sh", "-c", "echo $GREETING; exit 3"],
        {"GREETING": "grüezi"},
        staged=(),
        timeout_s=None,
        output_interval_s=0.1,
        output_max_bytes=1000,
    )
    spec_uri = layout.uri_of(staging, layout.spec_key("2026-01-03", spec))
    await aws.objects.put(layout.parse_s3_uri(spec_uri), spec)
    script = tmp_path / layout.WRAPPER_FILE
    script.write_bytes(layout.wrapper_source())
    records = S3StepRecords(aws.objects, staging, "dep")
    options = {"--spec": spec_uri, "--records": records.records_uri, "--cluster": "c-1"}
    options["--submission"] = submission
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        *(word for option in options.items() for word in option),
        env=os.environ | STATED | {"AWS_ENDPOINT_URL": moto_url},
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await asyncio.wait_for(process.wait(), 20) == 3
    (record,) = await records.changed({})
    assert (record.cluster_uuid, record.submission_id) == (ClusterUuid("c-1"), SubmissionId(submission))
    assert (record.phase, record.exit_code, record.chunks) == (RecordPhase.ENDED, 3, 1)
    assert record.tail == "grüezi\n"
    assert await records.output(record.cluster_uuid, record.submission_id, 1) == "grüezi\n".encode()
    await records.consume({record.submission_id: record.cluster_uuid})
    assert await records.changed({}) == ()

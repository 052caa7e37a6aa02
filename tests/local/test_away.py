"""EMR and S3 that answer nobody: no call has an effect, and the control API still answers."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError

from tests.airflow_stack.emr_local_process import running_endpoint

ONCE = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})


def test_an_endpoint_that_went_away_does_nothing_until_it_comes_back(tmp_path: Path) -> None:
    with running_endpoint(tmp_path) as endpoint:
        emr = boto3.client("emr", **endpoint.client_args(), config=ONCE)
        s3 = boto3.client("s3", **endpoint.client_args(), config=ONCE)
        s3.create_bucket(Bucket="bucket")
        control = endpoint.control()
        control.go_away()
        with pytest.raises(ConnectionClosedError):
            emr.list_clusters()
        with pytest.raises(ConnectionClosedError):
            s3.put_object(Bucket="bucket", Key="key", Body=b"lost")
        assert control.ledger() == []
        control.come_back()
        assert emr.list_clusters()["Clusters"] == []
        assert s3.list_objects_v2(Bucket="bucket")["KeyCount"] == 0

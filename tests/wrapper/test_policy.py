"""The policy of docs/staging.md lets a cluster do what the wrapper does, and not change what is staged."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from emr_executor.aws import layout
from emr_executor.core.model import ClusterUuid, SubmissionId
from tests.wrapper.conftest import CLAIM, Steps
from tests.wrapper.s3_server import SmallS3

PAGE = Path(__file__).parents[2] / "docs" / "staging.md"
STATEMENTS = json.loads(re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)[0])["Statement"]
C, S = ClusterUuid("c"), SubmissionId("w-1")
STAGED = [
    layout.files_key("2026-01-03", "0" * 64, "job.py"),
    layout.spec_key("2026-01-03", b"{}"),
    layout.wrapper_key("2026-01-03", b"#!"),
]
OWN = [
    layout.claim_key("DEPLOYMENT", C, S),
    layout.state_key("DEPLOYMENT", C, S),
    layout.output_key("DEPLOYMENT", C, S, 1),
    layout.old_output_key("DEPLOYMENT", S, 1),
]


def allowed(action: str, key: str) -> bool:
    """What IAM says: an Allow that matches, and no Deny."""
    arn = f"arn:aws:s3:::my-bucket/airflow-emr/{key}"
    effects = {one["Effect"] for one in STATEMENTS if action in as_list(one["Action"]) and _names(one, arn)}
    return effects == {"Allow"}


def as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


def _names(statement: dict[str, Any], arn: str) -> bool:
    return any(fnmatchcase(arn, pattern) for pattern in as_list(statement["Resource"]))


@pytest.mark.parametrize("key", STAGED)
def test_what_is_staged_is_read_only(key: str) -> None:
    assert allowed("s3:GetObject", key)
    for statement in STATEMENTS:
        if statement["Effect"] == "Allow" and "s3:PutObject" in as_list(statement["Action"]):
            assert not _names(statement, f"arn:aws:s3:::my-bucket/airflow-emr/{key}")
    for action in ("s3:PutObject", "s3:DeleteObject"):
        (denied,) = [one for one in STATEMENTS if one["Effect"] == "Deny" and action in one["Action"]]
        assert _names(denied, f"arn:aws:s3:::my-bucket/airflow-emr/{key}")


@pytest.mark.parametrize("key", OWN)
def test_own_words_are_written_and_never_deleted_or_anothers(key: str) -> None:
    assert allowed("s3:PutObject", key)
    assert not allowed("s3:DeleteObject", key)
    assert not allowed("s3:PutObject", key.replace("DEPLOYMENT", "another"))


@pytest.mark.processes
def test_all_that_a_wrapper_asks_of_s3_is_allowed(steps: Steps, s3: SmallS3) -> None:
    uri = steps.stage_file(b"x", "job.py")
    # Its first answer gets lost, so the claim is read, too.
    lost = ["deaf"]
    s3.fault = lambda _method, path: lost.pop() if path == CLAIM and lost else None
    assert steps.run(["cat", uri], staged=[uri]) == (0, b"x")
    asked = {
        (method, path.removeprefix("/staging/af/").replace("dep/", "DEPLOYMENT/", 1))
        for method, path, _ in s3.journal
    }
    kinds = {(method, re.split(r"/(?:2026|c-uuid)", key)[0]) for method, key in asked}
    assert kinds == {
        ("GET", "specs"),
        ("GET", "files"),
        ("GET", "DEPLOYMENT/claims"),
        ("PUT", "DEPLOYMENT/claims"),
        ("PUT", "DEPLOYMENT/state"),
        ("PUT", "DEPLOYMENT/output"),
    }
    for method, key in asked:
        assert allowed("s3:GetObject" if method == "GET" else "s3:PutObject", key), key

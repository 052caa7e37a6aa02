"""The wrapper runs what was staged and nothing else: names of specs and staged files are their digests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wrapper.conftest import STATE, Steps
from tests.wrapper.s3_server import SmallS3

pytestmark = pytest.mark.processes


def test_another_spec_than_was_staged_is_refused(steps: Steps, s3: SmallS3, tmp_path: Path) -> None:
    steps.stage(b'{"v": 1, "command": ["true"]}')
    s3.objects[steps.spec] = b'{"v": 1, "command": ["touch", "forged"]}'
    process = steps.start_raw()
    _, said = process.communicate(timeout=20)
    record = s3.record(STATE)
    assert (process.returncode, record["exit_code"], record["reason"]) == (125, 125, "no_spec")
    assert f"s3:/{steps.spec} was changed after it was staged: its SHA-256 is " in record["tail"]
    assert b"was changed after it was staged" in said
    assert not (tmp_path / "forged").exists()


def test_a_spec_whose_name_is_no_digest_is_refused(steps: Steps, s3: SmallS3) -> None:
    steps.spec = "/staging/af/specs/2026-01-03/mine.json"
    s3.objects[steps.spec] = b'{"v": 1, "command": ["true"]}'
    assert steps.start_raw().wait(20) == 125
    assert "the name of the step's spec is no digest" in s3.record(STATE)["tail"]


def test_staged_files_are_read_from_a_folder_of_the_step_and_gone_after_it(
    steps: Steps, tmp_path: Path
) -> None:
    uri = steps.stage_file(b"one\n" * 100_000, "a-table.csv")
    other = steps.stage_file(b"two\n", "a-table.csv")
    script = 'echo "$1" "$PATHS"; wc -c < "${1%#*}"; cat "$PATHS"'
    code, out = steps.run(
        ["sh", "-c", script, "sh", f"{uri}#alias"], env={"PATHS": other}, staged=[uri, other]
    )
    places, size, content = out.decode().splitlines()
    assert (code, size.strip(), content) == (0, "400000", "two")
    assert places.startswith(f"{tmp_path}/emr_step_wrapper-")
    assert "/a-table.csv#alias " in places
    assert "s3://" not in places
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("emr_step_wrapper-")] == []


def test_another_file_than_was_staged_is_refused(steps: Steps, s3: SmallS3, tmp_path: Path) -> None:
    uri = steps.stage_file(b"print('mine')", "job.py")
    s3.objects[uri.removeprefix("s3:/")] = b"print('theirs')"
    assert steps.run(["touch", str(tmp_path / "ran"), uri], staged=[uri])[0] == 125
    record = s3.record(STATE)
    assert record["reason"] == "no_spec"
    assert f"{uri} was changed after it was staged" in record["tail"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_other_files_on_s3_are_the_commands_own(steps: Steps, s3: SmallS3) -> None:
    code, out = steps.run(["echo", "s3://jobs/job.py", "s3://staging/af/files/readme", "files/x/y"])
    assert (code, out) == (0, b"s3://jobs/job.py s3://staging/af/files/readme files/x/y\n")


def test_a_staged_file_is_tried_again(steps: Steps, s3: SmallS3) -> None:
    uri = steps.stage_file(b"x" * 70_000, "job.py")
    left = [503, "drop"]
    s3.fault = lambda _method, path: left.pop() if path.endswith("job.py") and left else None
    steps.settings["EMR_STEP_WRAPPER_SPEC_S"] = "10"
    code, out = steps.run(["wc", "-c", uri], staged=[uri])
    assert (code, out.split()[0]) == (0, b"70000")

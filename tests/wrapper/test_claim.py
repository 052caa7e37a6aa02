"""Of the steps that carry one submission id a single one does anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.wrapper.conftest import CLAIM, STATE, Steps
from tests.wrapper.s3_server import Fault, SmallS3

pytestmark = pytest.mark.processes


def first_only(path: str, answer: int | str) -> Fault:
    """The first request for a path gets that; all others pass."""
    left = [answer]
    return lambda _method, asked: left.pop() if asked == path and left else None


def test_second_start_ends_at_once_and_touches_nothing(steps: Steps, s3: SmallS3, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    first = steps.start(["sh", "-c", f"echo x >> {ran}; exec sleep 60"])
    steps.wait_running()
    s3.wait_for(ran.exists)
    second = steps.start_raw(is_doubled=True)
    _, said = second.communicate(timeout=10)
    assert second.returncode == 123
    step = tmp_path.name
    assert said.decode() == (
        f"emr_step_wrapper: submission w-1 was begun before, by step {step}: nothing to do\n"
    )
    first.terminate()
    first.wait(10)
    assert ran.read_text() == "x\n"
    assert {record["pid"] for record in s3.records(STATE)} == {first.pid}
    # What comes late, when all is over and the record was consumed, does not run either.
    del s3.objects[STATE]
    third = steps.start_raw(is_doubled=True)
    assert (third.wait(10), ran.read_text(), STATE in s3.objects) == (123, "x\n", False)


def test_one_of_many_at_once_runs(steps: Steps, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    processes = [steps.start(["sh", "-c", f"echo x >> {ran}"])]
    processes += [steps.start_raw(is_doubled=True) for _ in range(3)]
    assert sorted(process.wait(20) for process in processes) == [0, 123, 123, 123]
    assert ran.read_text() == "x\n"


@pytest.mark.parametrize("fault", ["drop", "deaf", 409, 500, 503])
def test_claim_is_tried_again_and_an_answer_that_got_lost_is_no_defeat(
    steps: Steps, s3: SmallS3, fault: int | str, tmp_path: Path
) -> None:
    s3.fault = first_only(CLAIM, fault)
    assert steps.run(["true"])[0] == 0
    assert json.loads(s3.objects[CLAIM])["step"] == tmp_path.name


def test_what_cannot_claim_runs_nothing_and_writes_nothing(steps: Steps, s3: SmallS3, tmp_path: Path) -> None:
    s3.fault = lambda _method, path: 503 if path == CLAIM else None
    assert steps.run(["touch", str(tmp_path / "ran")])[0] == 125
    assert not (tmp_path / "ran").exists()
    assert set(s3.objects) == {steps.spec}


def test_terminated_before_it_could_claim_it_writes_nothing(steps: Steps, s3: SmallS3) -> None:
    s3.fault = lambda _method, path: 503 if path == CLAIM else None
    steps.settings["EMR_STEP_WRAPPER_SPEC_S"] = "60"
    process = steps.start(["true"])
    s3.wait_for(lambda: [entry for entry in s3.journal if entry[1] == CLAIM])
    process.terminate()
    assert process.wait(10) == 143
    assert set(s3.objects) == {steps.spec}


@pytest.mark.parametrize(("fault", "reason"), [(503, "not_begun"), ("drop", "not_begun"), (404, "no_spec")])
def test_spec_that_cannot_be_read_is_told_apart_by_whose_fault_it_is(
    steps: Steps, s3: SmallS3, fault: int | str, reason: str
) -> None:
    s3.fault = lambda _method, path: fault if path == steps.spec else None
    assert steps.run(["true"])[0] == 125
    assert s3.record(STATE)["reason"] == reason

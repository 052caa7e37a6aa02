from __future__ import annotations

import itertools
import threading
import time

import pytest

from tests.wrapper.conftest import CLAIM, OUTPUT, STATE, Steps
from tests.wrapper.s3_server import SmallS3

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("fault", [500, 503, 403, "drop"])
def test_outage_in_the_middle_loses_no_output(steps: Steps, s3: SmallS3, fault: int | str) -> None:
    refused = itertools.count()
    s3.fault = lambda method, path: fault if method == "PUT" and path != CLAIM and next(refused) < 4 else None
    source = "import time\nfor i in range(10):\n print(i); time.sleep(0.05)"
    code, _ = steps.run(steps.python(source), interval_s=0.05)
    assert code == 0
    assert steps.output() == b"".join(b"%d\n" % i for i in range(10))
    assert s3.record(STATE)["chunks"] == len([key for key in s3.objects if key.startswith(OUTPUT)])


def test_s3_that_never_comes_back_changes_no_exit_code(steps: Steps, s3: SmallS3) -> None:
    steps.settings["EMR_STEP_WRAPPER_FINAL_RECORD_S"] = "0.6"
    s3.fault = lambda method, path: 503 if method == "PUT" and path != CLAIM else None
    began = time.monotonic()
    code, out = steps.run(["sh", "-c", "echo said; exit 5"])
    assert (code, out) == (5, b"said\n")
    assert time.monotonic() - began < 5


def test_last_record_is_tried_when_chunks_are_not_taken(steps: Steps, s3: SmallS3) -> None:
    steps.settings["EMR_STEP_WRAPPER_FINAL_RECORD_S"] = "1.5"
    s3.fault = lambda method, path: 503 if method == "PUT" and path.startswith(OUTPUT) else None
    code, _ = steps.run(["echo", "said"])
    record = s3.record(STATE)
    assert (code, record["phase"], record["chunks"], record["tail"]) == (0, "ENDED", 0, "said\n")


def test_s3_that_hangs_does_not_hold_the_output_back(steps: Steps, s3: SmallS3) -> None:
    released = threading.Event()
    s3.fault = lambda method, path: released.wait(20) and None if method == "PUT" and path != CLAIM else None
    process = steps.start(["sh", "-c", "echo through; exec sleep 60"])
    assert process.stdout is not None
    assert process.stdout.readline() == b"through\n"
    process.terminate()
    released.set()
    assert process.wait(15) == 143


def test_spec_is_tried_again(steps: Steps, s3: SmallS3) -> None:
    asked = itertools.count()
    s3.fault = lambda method, _path: 503 if method == "GET" and next(asked) == 0 else None
    assert steps.run(["echo", "ran"]) == (0, b"ran\n")


def test_missing_spec_is_reported(steps: Steps, s3: SmallS3) -> None:
    process = steps.start_raw()
    _, err = process.communicate(timeout=20)
    record = s3.record(STATE)
    assert (process.returncode, record["phase"], record["reason"]) == (125, "ENDED", "no_spec")
    assert "NoSuchKey" in record["tail"]
    assert b"NoSuchKey" in err


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (b"{", "Expecting property name"),
        (b"[1]", "not usable"),
        (b'{"v": 2, "command": ["true"]}', "version is 2"),
        (b'{"v": 1, "command": []}', "command is empty"),
        (b'{"v": 1, "command": ["true"], "timeout_s": "soon"}', "could not convert"),
    ],
)
def test_unusable_spec_is_reported(steps: Steps, s3: SmallS3, spec: bytes, said: str) -> None:
    steps.stage(spec)
    process = steps.start_raw()
    process.communicate(timeout=20)
    assert (process.returncode, s3.record(STATE)["reason"]) == (125, "no_spec")
    assert said in s3.record(STATE)["tail"]


def test_signal_while_the_spec_is_awaited(steps: Steps, s3: SmallS3) -> None:
    steps.settings["EMR_STEP_WRAPPER_SPEC_S"] = "60"
    process = steps.start_raw()
    s3.wait_for(lambda: [path for _, path, _ in s3.journal if path == steps.spec])
    process.terminate()
    assert process.wait(10) == 143
    assert s3.record(STATE)["reason"] == "terminated"

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.wrapper.conftest import CLAIM, STATE, Steps
from tests.wrapper.s3_server import SmallS3

pytestmark = pytest.mark.processes


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pid: int, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def pids_in(steps: Steps, count: int) -> list[int]:
    """The numbers that the command printed, once there are enough."""

    def printed() -> list[int]:
        return [int(word) for word in steps.output().split() if word.isdigit()]

    steps.s3.wait_for(lambda: len(printed()) >= count)
    return printed()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_the_command_and_says_so(steps: Steps, s3: SmallS3, number: signal.Signals) -> None:
    process = steps.start(["sh", "-c", "echo $$; exec sleep 60"])
    (pid,) = pids_in(steps, 1)
    process.send_signal(number)
    assert process.wait(10) == 143
    record = s3.record(STATE)
    assert (record["phase"], record["reason"], record["exit_code"]) == ("ENDED", "terminated", 143)
    assert not alive(pid)


def test_command_that_ignores_term_is_killed_after_the_grace(steps: Steps, s3: SmallS3) -> None:
    process = steps.start(["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.1; done"])
    (pid,) = pids_in(steps, 1)
    process.terminate()
    assert process.wait(10) == 143
    assert not alive(pid)
    assert s3.record(STATE)["reason"] == "terminated"


def test_second_signal_does_not_wait_for_the_grace(steps: Steps) -> None:
    steps.settings["EMR_STEP_WRAPPER_GRACE_S"] = "600"
    process = steps.start(["sh", "-c", "trap 'echo 1' TERM; echo $$; while :; do sleep 0.1; done"])
    pids_in(steps, 1)
    process.terminate()
    pids_in(steps, 2)
    process.terminate()
    assert process.wait(10) == 143


def test_last_output_after_term_still_counts(steps: Steps) -> None:
    process = steps.start(["sh", "-c", "trap 'echo 7; exit 0' TERM; echo $$; while :; do sleep 0.05; done"])
    pids_in(steps, 1)
    process.terminate()
    assert process.wait(10) == 143
    assert steps.output().split()[-1] == b"7"


def test_deadline_ends_the_command(steps: Steps, s3: SmallS3) -> None:
    code, _ = steps.run(["sleep", "60"], timeout_s=0.3)
    record = s3.record(STATE)
    assert (code, record["reason"], record["exit_code"]) == (124, "timeout", 124)


def test_failure_leaves_no_process_behind_even_in_another_group(steps: Steps) -> None:
    # As pyspark.daemon does: a process of the session that made itself a group of its own.
    source = (
        "import os, sys, time\n"
        "pid = os.fork()\n"
        "if pid == 0:\n os.setpgid(0, 0); time.sleep(60)\n"
        "print(pid); sys.stdout.flush(); time.sleep(0.1); os._exit(9)"
    )
    code, out = steps.run(steps.python(source))
    assert code == 9
    wait_until_gone(int(out))


def test_background_process_does_not_hold_a_good_end_back(steps: Steps, s3: SmallS3) -> None:
    code, out = steps.run(["sh", "-c", "sleep 30 & echo $!"])
    try:
        assert (code, s3.record(STATE)["phase"]) == (0, "ENDED")
        assert alive(int(out)), "what a good command started on purpose is left alone"
    finally:
        os.kill(int(out), signal.SIGKILL)


def test_death_of_the_parent_is_a_termination(steps: Steps, s3: SmallS3, tmp_path: Path) -> None:
    steps.start(["true"]).wait(10)
    s3.objects.pop(STATE)
    s3.objects.pop(CLAIM)
    steps.stage(s3.objects[steps.spec].replace(b'["true"]', b'["sh", "-c", "echo $$; exec sleep 60"]'))
    wrapper = steps.argv()
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | steps.settings
    source = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", source, *wrapper], env=env, stdout=subprocess.DEVNULL)
    steps.started.append(parent)
    (pid,) = pids_in(steps, 1)
    parent.kill()
    ended = s3.wait_for(lambda: (record := s3.record(STATE))["phase"] == "ENDED" and record)
    assert (ended["reason"], ended["exit_code"]) == ("terminated", 143)
    assert not alive(pid)


def test_death_by_a_signal_is_128_and_the_signal(steps: Steps, s3: SmallS3) -> None:
    code, _ = steps.run(["sh", "-c", "kill -SEGV $$"])
    assert (code, s3.record(STATE)["exit_code"], s3.record(STATE)["reason"]) == (139, 139, "")


def test_missing_command_is_reported(steps: Steps, s3: SmallS3) -> None:
    code, _ = steps.run(["no-such-command-here"])
    record = s3.record(STATE)
    assert (code, record["exit_code"], record["reason"]) == (127, 127, "command_not_found")
    assert "no-such-command-here" in record["tail"]


def test_command_that_is_not_executable_is_reported(steps: Steps, s3: SmallS3, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("echo no\n")
    code, _ = steps.run([str(tmp_path / "job.sh")])
    assert (code, s3.record(STATE)["reason"]) == (126, "command_not_runnable")


def test_busy_marker_is_touched_where_emr_has_one(steps: Steps, tmp_path: Path) -> None:
    steps.run(["true"])
    assert not (tmp_path / "busy").exists()
    (tmp_path / "busy").mkdir()
    steps.run(["true"])
    assert (tmp_path / "busy" / "isbusy").exists()


def test_no_secret_in_any_record(steps: Steps, s3: SmallS3) -> None:
    steps.settings["AWS_SESSION_TOKEN"] = "session-token-value"
    steps.run(["true"], env={"PLAIN": "value-of-env"})
    written = b"".join(s3.versions[STATE])
    assert b"testing-secret" not in written
    assert b"session-token-value" not in written
    assert b"value-of-env" not in written
    assert s3.bad_signatures == []

"""Output on its way to S3, its bounds, and the records that count it."""

from __future__ import annotations

import re
import subprocess

import pytest

from emr_executor.wrapper import emr_step_wrapper as wrapper
from tests.wrapper.conftest import OUTPUT, STATE, Steps
from tests.wrapper.s3_server import SmallS3


def test_output_reaches_s3_and_own_stdout(steps: Steps, s3: SmallS3) -> None:
    code, out = steps.run(steps.python("import sys; print('one'); print('two', file=sys.stderr)"))
    assert (code, out) == (0, b"one\ntwo\n")
    assert steps.output() == b"one\ntwo\n"
    assert s3.bad_signatures == []


def test_last_record_tells_how_it_ended(steps: Steps, s3: SmallS3) -> None:
    code, _ = steps.run(steps.python("print('bye'); raise SystemExit(3)"), interval_s=60)
    record = s3.record(STATE)
    assert code == 3
    told = [record[name] for name in ("v", "submission", "cluster", "phase", "exit_code", "reason")]
    assert told == [1, "w-1", "c-uuid", "ENDED", 3, ""]
    assert (record["tail"], record["chunks"]) == ("bye\n", 1)


def test_record_appears_while_the_command_runs(steps: Steps) -> None:
    process = steps.start(["sleep", "60"])
    assert steps.wait_running()["phase"] == "RUNNING"
    process.terminate()
    assert process.wait(10) == 143


def test_spec_env_is_added_to_own_env(steps: Steps) -> None:
    steps.settings["FROM_NODE"] = "node"
    code, out = steps.run(["sh", "-c", "echo $FROM_NODE $FROM_SPEC"], env={"FROM_SPEC": "spec"})
    assert (code, out) == (0, b"node spec\n")


def test_a_chunk_is_in_s3_before_the_record_that_counts_it(steps: Steps, s3: SmallS3) -> None:
    source = "import time\nfor i in range(8):\n print(i); time.sleep(0.15)"
    steps.run(steps.python(source), interval_s=0.05)
    stored, versions = 0, iter(s3.records(STATE))
    for method, path, status in s3.journal:
        assert status == 200
        stored += method == "PUT" and path.startswith(OUTPUT)
        if method == "PUT" and path == STATE:
            assert next(versions)["chunks"] <= stored
    assert stored > 2
    assert steps.output() == b"".join(b"%d\n" % i for i in range(8))
    assert b"" not in s3.objects.values()


def test_a_silent_command_is_told_of_again_and_again(steps: Steps, s3: SmallS3) -> None:
    steps.run(["sleep", "1"], interval_s=0.05)
    moments = [record["at"] for record in s3.records(STATE)]
    assert moments == sorted(moments)
    assert len(moments) > 3


def test_quiet_command_writes_no_chunk(steps: Steps, s3: SmallS3) -> None:
    steps.run(["true"])
    assert not [key for key in s3.objects if key.startswith(OUTPUT)]
    assert s3.record(STATE)["chunks"] == 0


def test_own_stdout_may_be_gone(steps: Steps, s3: SmallS3) -> None:
    process = steps.start(["sh", "-c", "sleep 0.3; echo late"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert process.wait(10) == 0
    assert steps.output() == b"late\n"
    assert s3.record(STATE)["phase"] == "ENDED"


@pytest.mark.processes
def test_long_output_keeps_head_and_end_and_says_how_much_is_missing(steps: Steps) -> None:
    code, out = steps.run(steps.python("for i in range(20000): print('line %06d' % i)"), max_bytes=20_000)
    kept = steps.output()
    assert (code, len(out)) == (0, 240_000), "our own stdout stays complete"
    assert kept.startswith(b"line 000000\nline 000001\n")
    assert kept.endswith(b"line 019998\nline 019999\n")
    dropped = re.search(rb"\n\[emr_executor: (\d+) bytes of output left out here\]\n", kept)
    assert dropped is not None
    assert len(kept) - len(dropped[0]) == 20_000
    assert int(dropped[1]) == 240_000 - 20_000


@pytest.mark.processes
def test_chunks_are_bounded_and_end_with_a_line(steps: Steps, s3: SmallS3) -> None:
    steps.run(steps.python("for i in range(30000): print('x' * 49)"), max_bytes=2_000_000)
    chunks = [s3.objects[key] for key in sorted(s3.objects) if key.startswith(OUTPUT)]
    assert len(chunks) >= 3
    assert all(0 < len(chunk) <= wrapper.CHUNK_BYTES for chunk in chunks)
    assert all(chunk.endswith(b"\n") or b"\n" not in chunk for chunk in chunks)
    assert sum(map(len, chunks)) == 1_500_000


@pytest.mark.processes
def test_no_output_is_kept_when_none_is_wanted(steps: Steps) -> None:
    steps.run(["echo", "hello"], max_bytes=0)
    assert steps.output() == b"\n[emr_executor: 6 bytes of output left out here]\n"


@pytest.mark.processes
def test_memory_stays_small_under_much_output(steps: Steps, s3: SmallS3) -> None:
    source = (
        "import os\n"
        "for _ in range(200): print('x' * 99999)\n"
        "rollup = open('/proc/%d/smaps_rollup' % os.getppid()).read()\n"
        "print('own', rollup.split('Anonymous:')[1].split()[0])"
    )
    code, out = steps.run(steps.python(source), max_bytes=16_000_000)
    assert code == 0
    assert int(out.split()[-1]) < 15_000


def output_of(*parts: bytes) -> wrapper.Output:
    output = wrapper.Output(1_000_000)
    for part in parts:
        output.add(part)
    return output


def test_tail_is_whole_lines_within_its_bound() -> None:
    tail = output_of(b"".join(b"line %05d\n" % i for i in range(5000))).last_lines()
    assert len(tail.encode()) <= wrapper.TAIL_BYTES
    assert tail.startswith("line ")
    assert tail.endswith("line 04999\n")


def test_tail_leaves_stack_frames_out() -> None:
    frames = b"".join(b"\tat org.apache.spark.Step%04d.run(Step.scala:%d)\n" % (i, i) for i in range(200))
    tail = output_of(b"java.io.IOException: first\n", frames, b"\t... 12 more\nlast\n").last_lines()
    assert tail == "java.io.IOException: first\nlast\n"


def test_tail_of_bytes_that_are_no_text_stays_within_its_bound() -> None:
    tail = output_of(b"\xff\x00" * 10_000).last_lines()
    assert 0 < len(tail.encode()) <= wrapper.TAIL_BYTES
    assert "\x00" not in tail


def test_unfinished_line_waits_for_its_end() -> None:
    output = output_of(b"whole\nhal")
    assert output.peek(False) == b"whole\n"
    output.took(6)
    assert output.peek(False) == b"hal", "but not for ever"
    assert output.peek(True) == b"hal"

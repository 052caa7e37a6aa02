from __future__ import annotations

import subprocess

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

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emr_executor.wrapper import emr_step_wrapper as wrapper
from tests.wrapper.conftest import STATE, Steps
from tests.wrapper.s3_server import SmallS3

TAGS = ["airflow-emr", "w-1"]
OURS = ["--conf", "spark.yarn.tags=airflow-emr,w-1"]


@pytest.mark.parametrize(
    ("command", "expected", "mode"),
    [
        (["python3", "--conf"], ["python3", "--conf"], ""),
        (["spark-submit", "job.py"], ["spark-submit", *OURS, "job.py"], "client"),
        (["/usr/bin/spark-submit", "job.py"], ["/usr/bin/spark-submit", *OURS, "job.py"], "client"),
        (
            ["spark-submit", "--conf", "spark.yarn.tags=mine, airflow-emr", "job.py"],
            ["spark-submit", "--conf", "spark.yarn.tags=mine,airflow-emr,w-1", "job.py"],
            "client",
        ),
        (
            ["spark-submit", "--conf=spark.yarn.tags=mine", "--verbose", "job.py"],
            ["spark-submit", "--conf", "spark.yarn.tags=mine,airflow-emr,w-1", "--verbose", "job.py"],
            "client",
        ),
        (
            [
                "spark-submit",
                "-c",
                "spark.yarn.tags=a",
                "--name",
                "n",
                "--conf",
                "spark.yarn.tags=b",
                "job.py",
            ],
            ["spark-submit", "--conf", "spark.yarn.tags=b,airflow-emr,w-1", "--name", "n", "job.py"],
            "client",
        ),
        (
            ["spark-submit", "-v", "job.py", "--conf", "spark.yarn.tags=the-job's-own"],
            ["spark-submit", *OURS, "-v", "job.py", "--conf", "spark.yarn.tags=the-job's-own"],
            "client",
        ),
        (
            ["spark-submit", "--deploy-mode", "cluster", "job.py", "--deploy-mode", "client"],
            ["spark-submit", *OURS, "--deploy-mode", "cluster", "job.py", "--deploy-mode", "client"],
            "cluster",
        ),
        (
            ["spark-submit", "--conf", "spark.submit.deployMode=cluster", "job.py"],
            ["spark-submit", *OURS, "--conf", "spark.submit.deployMode=cluster", "job.py"],
            "cluster",
        ),
        (["spark-submit", "--deploy-mode"], ["spark-submit", *OURS, "--deploy-mode"], "client"),
    ],
)
def test_tags_are_added_to_spark_submit(command: list[str], expected: list[str], mode: str) -> None:
    assert wrapper.tagged(command, TAGS) == (expected, mode)


@pytest.fixture
def node(steps: Steps, tmp_path: Path) -> Path:
    """A node with ``spark-submit`` and ``yarn`` that write down how they are called."""
    tools = tmp_path / "bin"
    tools.mkdir()
    script(tools / "spark-submit", 'echo "spark-submit $*" >> $LEDGER; eval "$SUBMIT"')
    script(
        tools / "yarn",
        'echo "yarn $*" >> $LEDGER\n'
        'case "$1 $2" in\n'
        '"application -list") printf "Total: 1\\napplication_17_0008\\tjob\\tSPARK\\n";;\n'
        '"logs -applicationId") echo "driver said so";;\n'
        "esac",
    )
    ledger = tmp_path / "ledger"
    ledger.touch()
    steps.settings.update(PATH=f"{tools}:{os.environ['PATH']}", LEDGER=str(ledger), SUBMIT="exit 1")
    return ledger


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


LIST = "yarn application -list -appTags w-1 -appStates NEW,NEW_SAVING,SUBMITTED,ACCEPTED,RUNNING"


@pytest.mark.processes
def test_failed_submit_kills_its_application(steps: Steps, s3: SmallS3, node: Path) -> None:
    code, _ = steps.run(["spark-submit", "job.py"])
    assert code == 1
    assert node.read_text().splitlines() == [
        "spark-submit --conf spark.yarn.tags=airflow-emr,w-1 job.py",
        LIST,
        "yarn application -kill application_17_0008",
    ]
    assert s3.record(STATE)["yarn_applications"] == ["application_17_0008"]


@pytest.mark.processes
def test_terminated_submit_kills_its_application(steps: Steps, node: Path) -> None:
    steps.settings["SUBMIT"] = "exec sleep 60"
    process = steps.start(["spark-submit", "job.py"])
    steps.wait_running()
    steps.s3.wait_for(node.read_text)
    process.terminate()
    assert process.wait(10) == 143
    assert node.read_text().splitlines()[1:] == [LIST, "yarn application -kill application_17_0008"]


@pytest.mark.processes
def test_good_end_kills_nothing(steps: Steps, s3: SmallS3, node: Path) -> None:
    steps.settings["SUBMIT"] = "echo 'INFO YarnClientImpl: Submitted application application_17_0009'"
    assert steps.run(["spark-submit", "job.py"])[0] == 0
    assert len(node.read_text().splitlines()) == 1
    assert s3.record(STATE)["yarn_applications"] == ["application_17_0009"]


@pytest.mark.processes
def test_end_of_the_drivers_log_follows_in_cluster_mode(steps: Steps, s3: SmallS3, node: Path) -> None:
    steps.settings["SUBMIT"] = "echo 'Submitted application application_17_0009'"
    code, out = steps.run(["spark-submit", "--deploy-mode", "cluster", "job.py"])
    assert (code, out.splitlines()[-1]) == (0, b"driver said so")
    assert steps.output().splitlines()[-1] == b"driver said so"
    assert s3.record(STATE)["tail"].endswith("driver said so\n")


@pytest.mark.processes
def test_yarn_that_hangs_is_given_up(steps: Steps, s3: SmallS3, node: Path) -> None:
    script(node.parent / "bin" / "yarn", "exec sleep 60")
    steps.settings["EMR_STEP_WRAPPER_YARN_S"] = "0.3"
    assert steps.run(["spark-submit", "job.py"])[0] == 1
    assert s3.record(STATE)["phase"] == "ENDED"


@pytest.mark.processes
def test_node_without_yarn_is_fine(steps: Steps, s3: SmallS3, node: Path) -> None:
    (node.parent / "bin" / "yarn").unlink()
    assert steps.run(["spark-submit", "job.py"])[0] == 1
    assert s3.record(STATE)["phase"] == "ENDED"

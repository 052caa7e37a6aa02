"""Classes with an execute, or other hooks, of their own around the call of Spark."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG

sys.path.insert(0, str(Path(__file__).parent))
from notes import callback, note


class Around(SparkSubmitOperator):
    """Code on both sides of the call, which must not be unwound at park time."""

    def pre_execute(self, context) -> None:
        note("pre_execute")

    def execute(self, context):
        note("before")
        try:
            super().execute(context)
        except BaseException as error:
            note(f"raised {type(error).__name__}: {error}")
            raise
        finally:
            note("finally")
        note("after")
        return {"rows": 3}

    def post_execute(self, context, result=None) -> None:
        note("post_execute")


class Changing(SparkSubmitOperator):
    """Asks for another step each time."""

    def execute(self, context):
        self.application_args = [str(time.time_ns())]
        super().execute(context)


class Twice(SparkSubmitOperator):
    """Two calls of Spark in one execute."""

    def execute(self, context):
        super().execute(context)
        super().execute(context)


class Slow(SparkSubmitOperator):
    """Takes long before it calls Spark."""

    def execute(self, context):
        note("slow")
        time.sleep(float(os.environ.get("EMR_TEST_SLOW", "2.6")))
        super().execute(context)


class Endless(SparkSubmitOperator):
    """Runs until it is ended."""

    def execute(self, context):
        note("endless")
        time.sleep(60)


class Never(SparkSubmitOperator):
    """Does not call Spark at all."""

    def execute(self, context):
        return "nothing to do"


class Dies(SparkSubmitOperator):
    """The process that runs it is killed."""

    def execute(self, context):
        os.kill(os.getpid(), signal.SIGKILL)


class Silent(SparkSubmitOperator):
    """The process exits well, before Airflow hears of the task."""

    def execute(self, context):
        os._exit(0)


class DiesAfter(SparkSubmitOperator):
    """The process is killed once the step is over."""

    def execute(self, context):
        super().execute(context)
        os.kill(os.getpid(), signal.SIGKILL)


class Timeless(SparkSubmitOperator):
    """Stock execute with other overrides."""

    def pre_execute(self, context) -> None:
        note("pre_execute")

    def on_kill(self) -> None:
        note("on_kill")
        super().on_kill()


with DAG(
    "own_execute",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    default_args={
        "queue": "emr",
        **{f"on_{n}_callback": callback(n) for n in ("execute", "success", "failure", "retry")},
    },
):
    Around(task_id="around", application="s3://jobs/x.py")
    Changing(task_id="changing", application="s3://jobs/x.py")
    Twice(task_id="twice", application="s3://jobs/x.py")
    Slow(task_id="slow", application="s3://jobs/x.py")
    Endless(task_id="endless", application="s3://jobs/x.py")
    Never(task_id="never", application="s3://jobs/x.py")
    Dies(task_id="dies", application="s3://jobs/x.py")
    Silent(task_id="silent", application="s3://jobs/x.py")
    DiesAfter(task_id="dies_after", application="s3://jobs/x.py")
    Timeless(task_id="timeless", application="s3://jobs/x.py")

"""Phase results as JSON lines in a file, for phases in real processes. Loaded by the task host."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emr_executor.core.model import StepPlan
from emr_executor.errors import StaleWriter, StoreBusy

FOLDER = "EMR_TEST_RESULTS"


class FileResults:
    """A file ``<workload_id>``.

    Beside it, a file ``<workload_id>.lost`` means that the claim is lost, ``<workload_id>.full`` that no
    step can be stored, ``<workload_id>.taken`` that it is lost when Airflow is about to be told.
    """

    def __init__(self, workload_id: str, claim_token: str) -> None:
        self._path = Path(os.environ[FOLDER]) / workload_id
        self._claim_token = claim_token

    def renew(self) -> None:
        self._write("renew")

    def parked(self, step: StepPlan) -> None:
        if Path(f"{self._path}.full").exists():
            raise StoreBusy("the database is away")
        self._write("parked", step=asdict(step))

    def intend(self, airflow_state: str) -> None:
        if Path(f"{self._path}.taken").exists():
            raise StaleWriter("the claim was lost a moment ago")
        self._write("intend", state=airflow_state)

    def over(self, airflow_state: str) -> None:
        self._write("over", state=airflow_state)

    def retry(self, delay_s: float, note: str, *, spent: bool = True) -> None:
        self._write("retry", delay_s=delay_s, note=note, spent=spent)

    def gone(self, reason: str) -> None:
        self._write("gone", reason=reason)

    def _write(self, event: str, **facts: Any) -> None:
        if Path(f"{self._path}.lost").exists():
            raise StaleWriter("the claim is lost")
        with self._path.open("a") as file:
            file.write(json.dumps({"event": event, "token": self._claim_token, **facts}) + "\n")

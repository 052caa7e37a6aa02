"""How a phase's process writes down what the phase achieved, each write guarded by the row's claim."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from emr_executor.core.backoff import doubled_s
from emr_executor.core.model import StepPlan, WorkloadId
from emr_executor.store import phase_store
from emr_executor.store.dialect import engine_for
from emr_executor.store.runner import transact

_BACKOFF_FIRST_S = 5.0
_BACKOFF_MAX_S = 60.0
"""Nobody heartbeats a try between two prepare phases: well below Airflow's heartbeat timeout (300 s)."""


def backoff_s(attempts: int) -> float:
    """Seconds before a phase is run again after ``attempts`` tries: 5 doubling to 60."""
    return doubled_s(_BACKOFF_FIRST_S, _BACKOFF_MAX_S, failures=attempts + 1)


class PhaseResults:
    """The claimed row of one phase in Airflow's metadata database, one short transaction for each write.

    Made in the phase's own process, after the fork. Every method may raise StaleWriter: the claim was lost,
    drop the result. Any other error means that the store did not answer; nothing was written.
    """

    def __init__(self, workload_id: WorkloadId, claim_token: str) -> None:
        from airflow.configuration import conf

        # It connects with the first write, hence after this process has forked its task runner.
        self._engine = engine_for(conf.get_mandatory_value("database", "sql_alchemy_conn"))
        self._workload_id = workload_id
        self._claim_token = claim_token

    def renew(self) -> None:
        """The phase's process is alive (claim_beat + 1)."""
        self._write(phase_store.renew_claim)

    def parked(self, step: StepPlan) -> None:
        """Prepare rendered the step; it waits for a slot."""
        self._write(phase_store.record_parked, step, self._now())

    def intend(self, airflow_state: str) -> None:
        """Airflow is about to be told this state: should nobody hear its answer, the row still says so."""
        self._write(phase_store.record_intent, airflow_state)

    def over(self, airflow_state: str) -> None:
        """Airflow has its state for this try."""
        self._write(phase_store.record_over, airflow_state, self._now())

    def retry(self, delay_s: float, note: str, *, spent: bool = True) -> None:
        """The phase could not do its work; run it again, not earlier than in ``delay_s``.

        spent: False gives the attempt back: an outage, which says nothing of the task, made it fail
        """
        now = self._now()
        not_before = now + timedelta(seconds=delay_s)
        self._write(phase_store.record_retry, not_before, note, now=now, spent=spent)

    def gone(self, reason: str) -> None:
        """The Execution API refuses the try: it is over, or Airflow no longer wants it."""
        self._write(phase_store.record_gone, reason, self._now())

    def _now(self) -> datetime:
        return datetime.now(UTC)

    def _write(self, statement: Callable[..., None], *values: Any, **named: Any) -> None:
        transact(self._engine, partial(statement, **named), self._workload_id, self._claim_token, *values)


ResultsFactory = Callable[[WorkloadId, str], PhaseResults]
"""Workload id and claim token to the row."""

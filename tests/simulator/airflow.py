"""A model of Airflow in virtual time: what it does to the tries of our tasks, whoever asks for it.

Three sides act on the same rows: the Execution API (here), people (here), and schedulers
(``airflow_scheduling``). Every method is one transaction of Airflow's: it happens at once and whole.
Left out: deferral, reschedule mode, tasks that wait for others, Airflow's pools but for one bound.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from emr_executor.core.model import Identity
from tests.simulator.airflow_entities import (
    FINISHED,
    TOKEN_LEEWAY_S,
    TOKEN_LIFETIME_S,
    TOKEN_REFRESHED_BELOW,
    ApiRefused,
    SimTaskInstance,
    TaskState,
    Token,
    mint,
)
from tests.simulator.airflow_scheduling import Scheduling
from tests.simulator.airflow_tables import AirflowTables
from tests.simulator.sql_task_instances import SqlTaskInstances


class AirflowModel(AirflowTables):
    """Airflow's metadata database with the Execution API before it.

    scheduling: what schedulers do to the rows
    """

    def __init__(self, *, now_s: Callable[[], float], rng: random.Random, mirror: SqlTaskInstances) -> None:
        super().__init__(now_s=now_s, rng=rng, mirror=mirror)
        self.scheduling = Scheduling(self)

    # -- the Execution API -------------------------------------------------------------------------------

    def run(self, ti_id: str, token: Token, identity: Identity, *, started_at: float | None = None) -> bool:
        """PATCH /run (API:96-332): should_retry, whether a failure of this try leads to another.

        Raises ApiRefused: 403, 404, or 409 ``invalid_state``.

        Taken when QUEUED or RESTARTING, and again from the same (hostname, unixname, pid) while RUNNING.
        """
        self._check(ti_id, token)
        ti = self.find(ti_id)
        if ti is None:
            raise self._refused("run_refused", ti_id, 404, "not_found")
        before = ti.state
        if before is TaskState.RUNNING and ti.identity == identity:
            event = "run_repeated"
        elif before in (TaskState.QUEUED, TaskState.RESTARTING):
            event = "started"
        else:
            raise self._refused("run_refused", ti_id, 409, "invalid_state")
        ti.identity = identity
        ti.started_at = self.now_s() if started_at is None else started_at
        ti.last_heartbeat_at = self.now_s()
        ti.times_stuck = 0
        if before is not TaskState.RUNNING:
            self.set_state(ti, TaskState.RUNNING)
        self.tell(event, ti)
        # API:1292; RESTARTING is always eligible.
        retries_left = ti.max_tries != 0 and ti.try_number <= ti.max_tries
        return before is TaskState.RESTARTING or retries_left

    def heartbeat(self, ti_id: str, token: Token, identity: Identity) -> None:
        """PUT /heartbeat (API:898-985). Raises ApiRefused: 403, 404, 410, or 409 with its two reasons."""
        self._check(ti_id, token)
        ti = self.find(ti_id)
        if ti is None:
            # 410 where the history has it (API:868): cleared, retried or reset.
            former = self.owner_of(ti_id)
            archived = former is not None and ti_id in former.archived_ids
            raise self._refused("heartbeat_refused", ti_id, 410 if archived else 404, "not_found")
        known = ti.identity
        if known is None or (known.hostname, known.pid) != (identity.hostname, identity.pid):
            raise self._refused("heartbeat_refused", ti_id, 409, "running_elsewhere")
        if ti.state is not TaskState.RUNNING:
            raise self._refused("heartbeat_refused", ti_id, 409, "not_running")
        ti.last_heartbeat_at = self.now_s()

    def finish(self, ti_id: str, token: Token, state: TaskState, *, by: str) -> None:
        """PATCH /state with success, failed or up_for_retry (API:336-545).

        The state that it has already is taken again (200). Raises ApiRefused: 403, 404, or 409
        ``invalid_state`` when it is not RUNNING. UP_FOR_RETRY archives the try (API:684), so that a repeat
        of it finds no row: 404.

        by: for the ledger: finish, prepare or fail_terminally
        """
        self._check(ti_id, token)
        ti = self.find(ti_id)
        if ti is None:
            raise ApiRefused(404, "not_found")
        if ti.state is state:
            return
        if ti.state is not TaskState.RUNNING:
            raise ApiRefused(409, "invalid_state")
        if state is TaskState.UP_FOR_RETRY:
            self.archive(ti)
            ti.retry_at = self.now_s() + ti.script.retry_delay_s
        self.set_state(ti, state)
        self.tell("reported", ti, ti_id=ti_id, detail={"state": str(state), "by": by})

    def refreshed(self, token: Token) -> Token:
        """The token that an answer leaves the client with (JWTReissueMiddleware)."""
        now_s = self.now_s()
        if token.expires_at - now_s < TOKEN_LIFETIME_S * TOKEN_REFRESHED_BELOW:
            return mint(token.ti_id, now_s)
        return token

    def _check(self, ti_id: str, token: Token) -> None:
        now_s = self.now_s()
        too_early = token.not_before > now_s + TOKEN_LEEWAY_S
        if token.ti_id != ti_id or too_early or token.expires_at < now_s - TOKEN_LEEWAY_S:
            raise ApiRefused(403, "invalid_token")  # execution_api/security.py:136

    def _refused(self, event: str, ti_id: str, status: int, reason: str) -> ApiRefused:
        ti = self.owner_of(ti_id)
        self.tell(event, ti, ti_id=ti_id, detail={"status": status, "reason": reason})
        return ApiRefused(status, reason)

    # -- people ------------------------------------------------------------------------------------------

    def clear(self, ti: SimTaskInstance) -> None:
        """Clear one task instance (TI:357 clear_task_instances).

        RUNNING becomes RESTARTING under a new id; from any other state, RESTARTING too, it has no state and
        is scheduled anew at once.
        """
        before, ti_id = ti.state, ti.ti_id
        self.archive(ti)
        if before is TaskState.RUNNING:
            self.set_state(ti, TaskState.RESTARTING)
        else:
            ti.max_tries = ti.try_number + ti.script.retries
            self.set_state(ti, None)
        self.tell("cleared", ti, ti_id=ti_id, detail={"was": before or ""})

    def mark(self, ti: SimTaskInstance, state: TaskState) -> None:
        """Mark a task instance success or failed; its id stays."""
        before = ti.state
        self.set_state(ti, state)
        self.tell("marked", ti, detail={"was": before or ""})

    def time_out_run(self, dag_id: str, run_id: str) -> None:
        """``dagrun_timeout``: every unfinished task instance becomes SKIPPED (SJR:2853-2873)."""
        for ti in self.of_run(dag_id, run_id):
            if ti.state not in FINISHED:
                before = ti.state
                self.set_state(ti, TaskState.SKIPPED)
                self.tell("timed_out", ti, detail={"was": before or ""})

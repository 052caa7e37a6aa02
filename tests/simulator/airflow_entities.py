"""What the model of Airflow is made of: task instances, jobs, tokens, refusals, and the tasks' scripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

import httpx

from emr_executor.core.model import Identity, TaskKey

TOKEN_LIFETIME_S = 600.0
"""``[execution_api] jwt_expiration_time``."""
TOKEN_LEEWAY_S = 10.0
"""``[api_auth] jwt_leeway``: by so much the clocks of the minting host and the API server may differ."""
TOKEN_REFRESHED_BELOW = 0.2
"""An answer brings a new token in the last fifth of the old one's life (execution_api/app.py:158)."""
_CALL = httpx.Request("PATCH", "http://airflow/execution")


class TaskState(StrEnum):
    """The states of Airflow's TaskInstanceState that a task of ours can have; None is none of them."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    RESTARTING = "restarting"
    UP_FOR_RETRY = "up_for_retry"
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"


FINISHED = frozenset({TaskState.SUCCESS, TaskState.FAILED, TaskState.SKIPPED})
"""``State.finished`` (utils/state.py), as far as our tasks get there."""
ADOPTABLE = (TaskState.QUEUED, TaskState.RUNNING, TaskState.RESTARTING)
"""``State.adoptable_states`` (utils/state.py:229)."""


class ApiRefused(httpx.HTTPStatusError):
    """The Execution API's error answer, as Airflow's client raises it. ``reason``: in its detail."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason, self.detail = status, reason, {"reason": reason}
        response = httpx.Response(status, request=_CALL)
        response.elapsed = timedelta()
        super().__init__(f"{status} {reason}", request=_CALL, response=response)


class ApiSilent(httpx.ReadTimeout):
    """No answer from the Execution API: the call may have had its effect."""


@dataclass(frozen=True, slots=True)
class Token:
    """A JWT for one task instance. Epoch seconds by the clock of the host that minted it."""

    ti_id: str
    not_before: float
    expires_at: float


def mint(ti_id: str, now_s: float, lifetime_s: float = TOKEN_LIFETIME_S) -> Token:
    """A token as ``task.tokens`` makes it."""
    return Token(ti_id, now_s, now_s + lifetime_s)


class PrepareEnd(StrEnum):
    """How user code in a prepare phase ends."""

    PARKS = "parks"
    RAISES = "raises"
    """An exception, or a step that cannot be made of the task (WorkloadRejected is one in user code)."""
    RAISES_FAIL = "raises_fail"
    """AirflowFailException: no retry."""
    DIES = "dies"
    """The process of user code dies without a word; its supervisor lives."""


class FinishEnd(StrEnum):
    """How user code in a finish phase ends."""

    BY_OUTCOME = "by_outcome"
    RAISES = "raises"
    """After a good step: an exception in what follows it."""
    DIES = "dies"
    """The process of user code dies without a word: finish is run again."""
    HELD = "held"
    """The DAG or its task is missing from the DAG file: the outcome is held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TryScript:
    """What one try's user code does. ``_s`` are virtual seconds.

    step: what its step does; meant for the model of EMR, not read here
    """

    prepare_s: float = 4.0
    prepare: PrepareEnd = PrepareEnd.PARKS
    stage_s: float = 0.5
    finish_s: float = 2.0
    finish: FinishEnd = FinishEnd.BY_OUTCOME
    execution_timeout_s: float | None = None
    step: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScript:
    """One task as its DAG has it. ``tries``: the n-th try does what the n-th says, later ones as the last."""

    tries: tuple[TryScript, ...] = (TryScript(),)
    retries: int = 0
    retry_delay_s: float = 30.0
    priority_weight: int = 1
    queue: str = "emr"
    cluster_pool: str = "default"

    def of_try(self, try_number: int) -> TryScript:
        """The script of a try, counted from 1."""
        return self.tries[min(max(try_number, 1), len(self.tries)) - 1]


@dataclass(slots=True, eq=False)
class SimTaskInstance:
    """One row of task_instance. Times are epoch seconds.

    task: ``dag.task@run[map_index]``, the same for all its tries
    ti_id: changes when a try is archived (models/taskinstance.py:1053)
    """

    ti_id: str
    task: str
    key: TaskKey
    script: TaskScript
    number: int
    max_tries: int
    state: TaskState | None = None
    identity: Identity | None = None
    started_at: float | None = None
    last_heartbeat_at: float | None = None
    queued_at: float | None = None
    queued_by_job_id: int | None = None
    retry_at: float = 0.0
    times_stuck: int = 0
    archived_ids: list[str] = field(default_factory=list)
    archived_tries: set[int] = field(default_factory=set)

    @property
    def try_number(self) -> int:
        """0 before the first is scheduled."""
        return self.key.try_number


@dataclass(slots=True)
class Job:
    """A row of Airflow's job table, for a scheduler. ``latest_heartbeat`` by that scheduler's clock."""

    job_id: int
    latest_heartbeat: float
    is_running: bool = True

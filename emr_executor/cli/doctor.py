"""What ``doctor`` finds beside the configuration: clocks, and how long Airflow lets a task be queued."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from emr_executor.core.workload import spoken_duration
from emr_executor.task.skew import less_journey_s

CLOCKS_AGREE_S = 3.0
"""What a comparison through one request cannot tell from agreement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Full sentences. problems: something must change; notes: worth knowing."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def look_around() -> Found:
    """Compare this host's clock with the API server's and the database's, and read Airflow's limits."""
    from airflow import settings
    from airflow.configuration import conf
    from airflow.executors.base_executor import get_execution_api_server_url

    from emr_executor.task.skew import ask_ahead_s, problem_of

    url = get_execution_api_server_url()
    ahead_s = ask_ahead_s(url)
    problem = problem_of(ahead_s)
    notes = [
        api_clock_note(url, None if problem else ahead_s),
        database_clock_note(settings.get_engine()),
        queued_note(
            conf.getfloat("scheduler", "task_queued_timeout"),
            conf.getint("scheduler", "num_stuck_in_queued_retries", fallback=2),
        ),
    ]
    if problem:
        return Found(problems=(problem,), notes=tuple(note for note in notes[1:] if note))
    return Found(notes=tuple(note for note in notes if note))


def api_clock_note(url: str, ahead_s: float | None) -> str | None:
    """What the comparison with the API server gave that is no problem."""
    if ahead_s is None:
        return f"the Airflow API server did not answer at {url}, so its clock could not be compared"
    return _difference("Airflow API server", ahead_s)


def database_clock_note(engine: Engine) -> str | None:
    """The same for the database's clock; None for SQLite, which has this host's."""
    if engine.dialect.name == "sqlite":
        return None
    try:
        with engine.connect() as connection:
            asked_at = datetime.now(tz=UTC)
            at = connection.execute(select(func.now())).scalar_one()
            answered_at = datetime.now(tz=UTC)
    except SQLAlchemyError as error:
        return f"the database did not answer ({type(error).__name__}), so its clock could not be compared"
    took_s = (answered_at - asked_at).total_seconds()
    return _difference("database", less_journey_s((answered_at - at).total_seconds(), took_s))


def queued_note(timeout_s: float, retries: int) -> str:
    """How long a task may wait for its prepare phase until Airflow fails it."""
    return (
        f"Airflow fails a task that waits in queued for {spoken_duration(timeout_s * (retries + 1))} "
        f"([scheduler] task_queued_timeout {timeout_s:g} s, and {retries} times more), as when no agent runs:"
        " raise task_queued_timeout to outlast longer ones (docs/operations.md, Tasks stuck in queued)"
    )


def _difference(whose: str, ahead_s: float) -> str | None:
    if abs(ahead_s) <= CLOCKS_AGREE_S:
        return None
    how = "ahead of" if ahead_s > 0 else "behind"
    return f"this host's clock is {abs(ahead_s):.0f} s {how} that of the {whose}: synchronise both (NTP)"

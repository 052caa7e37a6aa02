"""The commands of ``airflow emr``. Each ends the process with its exit code when that is not 0."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from emr_executor.errors import ConfigError, StoreBusy

if TYPE_CHECKING:
    from rich.console import RenderableType
    from sqlalchemy import Engine

_WITHOUT_DATABASE = (
    "So nothing can be said of agents and tasks. Steps that run on EMR go on without it; schedulers and "
    "agents go on by themselves when it is back."
)


def agent(_args: Any) -> None:
    """``airflow emr agent``: run the agent until a signal ends it."""
    from emr_executor.agent.main import run

    sys.exit(run())


def doctor(_args: Any) -> None:
    """``airflow emr doctor``: what was read, and every problem of it; exit code 1 when there is one."""
    from emr_executor.cli.doctor import look_around, look_at_configuration
    from emr_executor.config_load import executor_problem

    # As the agent has it: connections come from Airflow's database, too.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    configuration, around = look_at_configuration(), look_around()
    executor = executor_problem()
    problems = [*([executor] if executor else []), *configuration.problems, *around.problems]
    _say(*(f"note: {note}" for note in (*configuration.notes, *around.notes)))
    if problems:
        _say(*(f"problem: {problem}" for problem in problems))
        sys.exit(1)
    _say("The configuration can be used.")


def init(args: Any) -> None:
    """``airflow emr init``: exit code 1 when the template's file exists or cannot be written."""
    from emr_executor.cli.init import told, write_template

    try:
        path = write_template(args.file)
    except ConfigError as error:
        sys.exit("\n".join(error.problems))
    _say(told(path, args.staging_uri))


def migrate(_args: Any) -> None:
    """``airflow emr migrate``: bring this package's tables to the newest revision it knows."""
    from airflow.utils.session import create_session

    from emr_executor.store.db_manager import EmrExecutorDBManager

    try:
        with create_session() as session:
            EmrExecutorDBManager(session).initdb()
    except ConfigError as error:
        sys.exit("\n".join(error.problems))
    _say("The tables of emr_executor are up to date.")


def status(args: Any, engine: Engine | None = None) -> None:
    """``airflow emr status``: exit code 1 when something is wrong."""
    from emr_executor.cli.read_only import settings_or_problems
    from emr_executor.cli.status import read_status, status_view

    settings, problems = settings_or_problems()
    now = datetime.now(tz=UTC)
    work = partial(read_status, settings=settings, config_problems=problems, now=now)
    if _answer(args, work, status_view, engine).wrong:
        sys.exit(1)


def clusters(args: Any, engine: Engine | None = None) -> None:
    """``airflow emr clusters``."""
    from emr_executor.cli.listings import clusters_view, read_clusters

    work = partial(read_clusters, with_past=args.with_past)
    _answer(args, work, partial(clusters_view, now=datetime.now(tz=UTC)), engine)


def steps(args: Any, engine: Engine | None = None) -> None:
    """``airflow emr steps``."""
    from emr_executor.cli.listings import read_steps, steps_view

    work = partial(read_steps, with_past=args.with_past, dag_id=args.dag_id)
    _answer(args, work, partial(steps_view, now=datetime.now(tz=UTC)), engine)


def explain(args: Any, engine: Engine | None = None) -> None:
    """``airflow emr explain``: exit code 1 when Airflow does not know the task."""
    from emr_executor.cli.explain import explanation_view, read_explanation
    from emr_executor.cli.read_only import settings_or_problems

    settings, problems = settings_or_problems()
    work = partial(
        read_explanation,
        dag_id=args.dag_id,
        task_id=args.task_id,
        run_id=args.run_id,
        map_index=args.map_index,
        settings=settings,
        config_problems=problems,
        now=datetime.now(tz=UTC),
    )
    _answer(args, work, explanation_view, engine)


def _answer(
    args: Any, work: Callable[..., Any], view: Callable[[Any], RenderableType], engine: Engine | None
) -> Any:
    """Read, print as asked for, and give back what was read; what cannot be told ends the process with 1."""
    from emr_executor.cli.formatting import as_json, show
    from emr_executor.cli.read_only import CannotTell, read

    try:
        facts = read(work, engine)
    except CannotTell as error:
        sys.exit(str(error))
    except StoreBusy as error:
        sys.exit(f"{error}. {_WITHOUT_DATABASE}")
    if args.output == "json":
        _say(as_json(facts))
    else:
        show(view(facts))
    return facts


def _say(*lines: str) -> None:
    print("\n".join(lines))  # noqa: T201 - a command's output

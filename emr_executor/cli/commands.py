"""The commands of ``airflow emr``. Each ends the process with its exit code when that is not 0."""

from __future__ import annotations

import sys
from typing import Any

from emr_executor.errors import ConfigError

_EXECUTOR = "emr_executor.EmrExecutor"


def agent(_args: Any) -> None:
    """``airflow emr agent``: run the agent until a signal ends it."""
    from emr_executor.agent.main import run

    sys.exit(run())


def doctor(_args: Any) -> None:
    """``airflow emr doctor``: every problem of the configuration; exit code 1 when there is one."""
    problems = [*_executor_problems(), *_settings_problems()]
    for problem in problems:
        print(f"problem: {problem}")  # noqa: T201 - a command's output
    if problems:
        sys.exit(1)
    print("The configuration can be used.")  # noqa: T201 - a command's output


def migrate(_args: Any) -> None:
    """``airflow emr migrate``: bring this package's tables to the newest revision."""
    from airflow.utils.session import create_session

    from emr_executor.store.db_manager import EmrExecutorDBManager

    with create_session() as session:
        EmrExecutorDBManager(session).initdb()
    print("The tables of emr_executor are up to date.")  # noqa: T201 - a command's output


def _executor_problems() -> list[str]:
    """What is wrong with ``[core] executor`` for us."""
    from airflow.configuration import conf

    named = [part.strip().rpartition(":")[2] for part in conf.get_mandatory_list_value("core", "executor")]
    ours = {_EXECUTOR, "emr_executor.executor.EmrExecutor"}
    if not ours & set(named):
        return [f"[core] executor does not name {_EXECUTOR}; write: executor = {named[0]},{_EXECUTOR}"]
    if len(named) == 1 or named[0] in ours:
        line = f"executor = LocalExecutor,{_EXECUTOR}"
        return [f"[core] executor names {_EXECUTOR} first, so nothing would run other tasks; write: {line}"]
    return []


def _settings_problems() -> list[str]:
    from emr_executor.config_load import load_settings

    try:
        load_settings()
    except ConfigError as e:
        return list(e.problems)
    return []

"""``make demo``, ``make up`` and ``make down``: Airflow and emr-local in this checkout.

``demo`` runs one DAG with one Spark step and shows what ran where; its exit code is 0 only when the
run succeeded. ``up`` leaves everything running, ``down`` ends it.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

from emr_executor.errors import EmrExecutorError
from emr_executor.local.airflow_client import RunState
from emr_executor.local.components import StackError
from emr_executor.local.endpoint_component import READY_FILE
from emr_executor.local.ran import StepRan, steps_that_ran
from emr_executor.local.stack import LocalStack, owner_lives, recorded, stop_recorded

CHECKOUT = Path(__file__).resolve().parents[2]
STATE = CHECKOUT / ".emr"
DAG_ID = "delays"
SPARK_TASK = "job"
EXECUTOR_LOGGER = "emr_executor"
"""What the executor itself says in a task log; the driver's output has another logger."""
UI_PORT = 8080
RUN_TIMEOUT_S = 600.0
STOP_GRACE_S = 3.0
"""Nothing of a demo is needed after it."""
MIN_FREE_MIB = 1024
EXIT_INTERRUPTED = 130

console = Console(highlight=False)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code. Problems that a person can solve are told without a traceback."""
    parser = argparse.ArgumentParser(prog="make", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("demo", "up", "down"), default="demo")
    command = parser.parse_args(arguments).command
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return {"demo": demo, "up": up, "down": down}[command]()
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started has been ended.")
        return EXIT_INTERRUPTED
    except EmrExecutorError as error:
        console.print(f"[bold red]{command} failed:[/] ", end="")
        console.print(str(error), markup=False)
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        console.print(f"[bold red]{command} failed:[/] the disk is full ({error.filename or CHECKOUT}).")
        return 1


def demo() -> int:
    """One run of the DAG ``delays`` in a fresh Airflow; 0 when it succeeded."""
    started = time.monotonic()
    home = _fresh_home(STATE / "demo")
    console.print("[bold]emr_executor demo[/]: Airflow, a local EMR and one Spark task on this machine")
    say = _say(started)
    with LocalStack(
        home, dags=[CHECKOUT / "dags"], template=_template(), stop_grace_s=STOP_GRACE_S, progress=say
    ) as stack:
        say("healthy; starting one run of dags/delays.py")
        run_id = stack.trigger(DAG_ID)
        last = _follow(stack, run_id, say)
        ran = steps_that_ran(stack.endpoint, DAG_ID) if stack.endpoint else ()
        rows = stack.client.xcom(DAG_ID, run_id, "show") or []
        if last.state != "success":
            _tell_failure(stack, run_id, last)
            return 1
    _show_steps(ran)
    _show_result(rows)
    if not ran or not rows:
        console.print("[bold red]The run is green, but nothing of it was seen on the local EMR.[/]")
        return 1
    console.print(f"[green]Done in {time.monotonic() - started:.0f} s.[/] Logs: {_short(home / 'logs')}")
    return 0


def up() -> int:
    """Start a stack and leave it running."""
    home, port = STATE / "up", int(os.environ.get("PORT") or UI_PORT)
    if (state := recorded(home)) is not None:
        raise StackError(f"It is running already: {state['airflow']}. `make down` ends it.")
    home = _fresh_home(home)
    stack = LocalStack(
        home, dags=[CHECKOUT / "dags"], api_port=port, template=_template(), progress=_say(time.monotonic())
    )
    try:
        stack.start()
    except StackError as error:
        stack.stop()
        hint = f"\nFor another port: make up PORT={port + 1}" if "is in use" in str(error) else ""
        raise StackError(f"{error}{hint}") from error
    except BaseException:
        stack.stop()
        raise
    stack.leave_running()
    console.print(
        f"Airflow: {stack.base_url} (no password, this machine only). DAGs: {_short(CHECKOUT / 'dags')}/"
    )
    if stack.endpoint is not None:
        console.print(f"EMR and S3: {stack.endpoint.endpoint_url}; keys in {_short(home / READY_FILE)}")
    console.print(f"Logs: {_short(home / 'logs')}. `make down` ends everything.")
    return 0


def down() -> int:
    """End what ``up`` started, and what a killed demo left."""
    ended = [name for name in ("up", "demo") if stop_recorded(STATE / name)]
    console.print("Everything has been ended." if ended else "Nothing was running.")
    return 0


def _fresh_home(home: Path) -> Path:
    """An empty folder for a stack. Raises StackError: one runs there, or too little space."""
    if owner_lives(home):
        raise StackError(f"Another one is running in {_short(home)}: wait for its end.")
    stop_recorded(home)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    free_mib = shutil.disk_usage(home).free // 2**20
    if free_mib < MIN_FREE_MIB:
        raise StackError(
            f"Only {free_mib} MiB are free on the disk of {_short(home)}; {MIN_FREE_MIB} MiB are needed."
        )
    return home


def _follow(stack: LocalStack, run_id: str, say: Callable[[str], None]) -> RunState:
    """Tell each task's changes and what the executor writes into its log; the run when it is over."""
    told: dict[str, str | None] = {}
    lines_told = 0
    last: RunState | None = None
    for last in stack.client.watch(DAG_ID, run_id, timeout_s=RUN_TIMEOUT_S, changes_only=False):
        states = last.states()
        if states.get(SPARK_TASK) in {"running", "success", "failed"}:
            events = stack.client.task_events(DAG_ID, run_id, SPARK_TASK)
            lines = [str(event["event"]) for event in events if event.get("logger") == EXECUTOR_LOGGER]
            for line in lines[lines_told:]:
                say(f"  {line}")
            lines_told = max(lines_told, len(lines))
        for name, state in states.items():
            if state in {"running", "success", "failed"} and told.get(name) != state:
                told[name] = state
                say(f"task {name}: {state}")
    if last is None:
        raise StackError(f"run {run_id} was never seen")
    return last


def _tell_failure(stack: LocalStack, run_id: str, last: RunState) -> None:
    console.print(f"[bold red]The run ended as {last.state}.[/]")
    for task in last.tasks:
        if task.state == "failed":
            console.print(f"Last lines of the log of task {task.name}:")
            text = stack.task_log(DAG_ID, run_id, task.task_id, try_number=task.try_number)
            console.print("\n".join(f"  {line}" for line in text.splitlines()[-30:]), markup=False)
    console.print(f"All logs: {_short(stack.home / 'logs')}, {_short(stack.airflow_home / 'logs')}")


def _show_steps(ran: tuple[StepRan, ...]) -> None:
    table = Table(title="What ran where", title_justify="left")
    for column in ("task", "cluster", "step", "state"):
        table.add_column(column)
    table.add_column("step took", justify="right")
    for step in ran:
        table.add_row(step.task, step.cluster_id, step.step_id, step.state, f"{step.duration_s:.0f} s")
    console.print(table)


def _show_result(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Worst routes from New York in 2013, delay on arrival", title_justify="left")
    for column in ("carrier", "route"):
        table.add_column(column)
    for column in ("flights", "mean", "median", "p90 (minutes)"):
        table.add_column(column, justify="right")
    for row in rows[:5]:
        table.add_row(
            row["carrier"],
            f"{row['origin']}-{row['dest']}",
            str(row["flights"]),
            *(f"{row[name]:.0f}" for name in ("mean_min", "median_min", "p90_min")),
        )
    console.print(table)


def _template() -> Path:
    return CHECKOUT / "config" / "clusters" / "local.yaml"


def _say(started: float) -> Callable[[str], None]:
    return lambda text: console.print(f"[dim]{time.monotonic() - started:4.0f} s[/]  {text}")


def _short(path: Path) -> str:
    return str(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else str(path)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

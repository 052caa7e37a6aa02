"""``make demo``, ``make up`` and ``make down``: Airflow and emr-local in this checkout.

``demo`` runs the flagship and shows what ran where; its exit code is 0 only when every claim of it holds.
``up`` leaves everything running, ``down`` ends it.
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

from rich.console import Console

from emr_executor.errors import EmrExecutorError
from emr_executor.local import flagship
from emr_executor.local.components import StackError
from emr_executor.local.endpoint_component import READY_FILE
from emr_executor.local.stack import LocalStack, owner_lives, recorded, stop_recorded

CHECKOUT = Path(__file__).resolve().parents[2]
STATE = CHECKOUT / ".emr"
UI_PORT = 8080
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
    """The flagship in a fresh Airflow; 0 when everything that it claims was seen."""
    started = time.monotonic()
    home = _fresh_home(STATE / "demo")
    console.print("[bold]emr_executor demo[/]: Airflow, a local EMR and Spark on this machine")
    say = _say(started)
    with LocalStack(
        home,
        dags=[CHECKOUT / "dags"],
        template=_template(),
        sections=flagship.OPTIONS,
        stop_grace_s=STOP_GRACE_S,
        progress=say,
    ) as stack:
        say(f"healthy: {stack.base_url} while this runs; starting dags/{flagship.DAG_ID}.py")
        good = flagship.run(stack, console, started)
    took, logs = f"{time.monotonic() - started:.0f} s", _short(home / "logs")
    if good:
        console.print(f"[green]Done in {took}.[/] Logs: {logs}")
        return 0
    console.print(f"[bold red]Not everything is true that should be ({took}).[/] Logs: {logs}")
    return 1


def up() -> int:
    """Start a stack and leave it running."""
    home, port = STATE / "up", int(os.environ.get("PORT") or UI_PORT)
    if (state := recorded(home)) is not None:
        raise StackError(f"It is running already: {state['airflow']}. `make down` ends it.")
    home = _fresh_home(home)
    stack = LocalStack(
        home,
        dags=[CHECKOUT / "dags"],
        api_port=port,
        template=_template(),
        sections={"emr_executor": {"max_clusters": str(flagship.MAX_CLUSTERS)}},
        progress=_say(time.monotonic()),
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


def _template() -> Path:
    return CHECKOUT / "config" / "clusters" / "local.yaml"


def _say(started: float) -> Callable[[str], None]:
    return lambda text: console.print(f"[dim]{time.monotonic() - started:4.0f} s[/]  {text}", soft_wrap=True)


def _short(path: Path) -> str:
    return str(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else str(path)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

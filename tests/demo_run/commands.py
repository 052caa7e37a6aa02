"""``make demo``, ``make up``, ``make airflow`` and ``make down``: Airflow and emr-local in this checkout.

``demo`` runs the DAG ``delays_by_month`` and shows what ran where; it ends with 0 when every check holds.
``up`` leaves everything running, with the runs and the S3 objects of the last time; ``airflow`` is a command
in what ``up`` started, ``down`` ends it.
"""

from __future__ import annotations

import argparse
import errno
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from emr_executor.errors import EmrExecutorError
from tests.airflow_stack.components import StackError, port_is_free
from tests.airflow_stack.emr_local_process import READY_FILE
from tests.airflow_stack.stack import LocalStack
from tests.airflow_stack.stack_record import airflow_command, lives, owner_lives, recorded, stop_recorded
from tests.demo_run import flights
from tests.demo_run.checks import DAG_ID, MAX_CLUSTERS
from tests.demo_run.live_view import beside

CHECKOUT = Path(__file__).resolve().parents[2]
STATE = CHECKOUT / ".emr"
TEMPLATE = CHECKOUT / "config" / "clusters" / "local.yaml"
UI_PORT = 8080
STOP_GRACE_S = 3.0
"""Nothing of a demo is needed after it."""
MIN_FREE_MIB = 1024
EXIT_INTERRUPTED = 130

console = Console(highlight=False)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code. Problems that a person can solve are told without a traceback."""
    parser = argparse.ArgumentParser(prog="make", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo")
    commands.add_parser("down")
    starts = commands.add_parser("up")
    starts.add_argument("--port", type=int, default=UI_PORT)
    starts.add_argument(
        "--fresh", action="store_true", help="without the runs and S3 objects of the last time"
    )
    starts.add_argument("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE")
    commands.add_parser("airflow").add_argument("args", nargs=argparse.REMAINDER)
    parsed = parser.parse_args(arguments)
    command = parsed.command
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if command == "up":
            return up(parsed.port, fresh=parsed.fresh, options=parsed.set)
        if command == "airflow":
            airflow_command(STATE / "up", parsed.args)
        return demo() if command == "demo" else down()
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
    """The demo in a fresh Airflow; 0 when everything that it claims was seen."""
    started = time.monotonic()
    home = STATE / "demo"
    _prepare_home(home, fresh=True)
    console.print("[bold]emr_executor demo[/]: Airflow, a local EMR and Spark on this machine")
    say = _say(started)
    with LocalStack(
        home,
        dags=[CHECKOUT / "dags"],
        template=TEMPLATE,
        sections=flights.OPTIONS,
        stop_grace_s=STOP_GRACE_S,
        progress=say,
    ) as stack:
        say(f"healthy: {stack.base_url} while this runs; starting dags/{DAG_ID}.py")
        good = flights.run(stack, console, started)
    took, logs = f"{time.monotonic() - started:.0f} s", _short(home / "logs")
    if good:
        console.print(f"[green]Done in {took}.[/] Logs: {logs}")
        console.print("Next: make up starts the same pair for your own DAGs in dags/ and prints the")
        console.print("address of the UI; README.md, 'Your own DAG, in three minutes', goes on from there.")
        return 0
    console.print(f"[bold red]Not everything is true that should be ({took}).[/] Logs: {logs}")
    return 1


def up(port: int, *, fresh: bool, options: Sequence[str]) -> int:
    """Start a stack and leave it running."""
    home = STATE / "up"
    sections = _sections(options)
    if lives(home):
        raise StackError(f"It is running already: {(recorded(home) or {})['airflow']}. `make down` ends it.")
    if not port_is_free(port):
        raise StackError(
            f"Port {port} of this machine is in use, so nothing was started or changed.\n"
            f"For another port: make up PORT={port + 1}"
        )
    _prepare_home(home, fresh=fresh)
    with LocalStack(
        home,
        dags=[CHECKOUT / "dags"],
        api_port=port,
        template=TEMPLATE,
        whole=True,
        sections=sections,
        progress=_say(time.monotonic()),
    ) as stack:
        stack.leave_running()
    console.print(
        f"Airflow: {stack.base_url} (no password, this machine only). DAGs: {_short(CHECKOUT / 'dags')}/"
    )
    if stack.endpoint is not None:
        console.print(f"EMR and S3: {stack.endpoint.endpoint_url}; keys in {_short(home / READY_FILE)}")
    console.print(f"Logs: {_short(home / 'logs')}. Runs and S3 objects stay for the next `make up`.")
    console.print('Commands: make airflow ARGS="emr status". `make down` ends everything.')
    return 0


def _sections(options: Sequence[str]) -> dict[str, dict[str, str]]:
    """Options of airflow.cfg by section, over those of ``make up``. Raises StackError: one cannot be read."""
    sections = {"emr_executor": {"max_clusters": str(MAX_CLUSTERS)}}
    for text in options:
        name, equals, value = text.partition("=")
        section, dot, option = name.rpartition(".")
        if not (equals and dot and section and option):
            raise StackError(
                f"{text!r} is no option: write SET=section.option=value, as emr_executor.max_clusters=4"
            )
        sections.setdefault(section, {})[option] = value
    return sections


def down() -> int:
    """End what ``up`` started, and what a killed demo left."""
    ended = [name for name in ("up", "demo") if stop_recorded(STATE / name)]
    console.print("Everything has been ended." if ended else "Nothing was running.")
    return 0


def _prepare_home(home: Path, *, fresh: bool) -> None:
    """A folder in which nothing runs, empty if ``fresh``. Raises StackError: one runs there, or no space."""
    if owner_lives(home):
        raise StackError(f"Another one is running in {_short(home)}: wait for its end.")
    stop_recorded(home)
    if fresh:
        shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    free_mib = shutil.disk_usage(home).free // 2**20
    if free_mib < MIN_FREE_MIB:
        raise StackError(
            f"Only {free_mib} MiB are free on the disk of {_short(home)}; {MIN_FREE_MIB} MiB are needed."
        )


def _say(started: float) -> Callable[[str], None]:
    return lambda text: console.print(beside(Text(f"{time.monotonic() - started:4.0f} s", "dim"), text))


def _short(path: Path) -> str:
    return str(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else str(path)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

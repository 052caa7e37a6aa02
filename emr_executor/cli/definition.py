"""What ``airflow emr`` offers. Read by every ``airflow`` command: nothing is imported but Airflow's CLI."""

from __future__ import annotations

from airflow.cli.cli_config import (
    ARG_DAG_ID,
    ARG_TASK_ID,
    ActionCommand,
    Arg,
    CLICommand,
    GroupCommand,
    lazy_load_command,
)

# Airflow sends log lines to standard error for a command that has "output" (airflow/__main__.py).
_OUTPUT = Arg(
    ("-o", "--output"),
    help="table for people (default), json for programs",
    choices=("table", "json"),
    default="table",
)
_ALL = Arg(("--all",), help="Also the last ones that are over", action="store_true", dest="with_past")


def _command(name: str, help_text: str, description: str | None = None, *args: Arg) -> ActionCommand:
    func = lazy_load_command(f"emr_executor.cli.commands.{name}")
    return ActionCommand(name=name, help=help_text, description=description, func=func, args=args)


_COMMANDS = (
    _command(
        "init",
        "Write a cluster template and print the lines for airflow.cfg",
        "Write a cluster template to fill in, print what belongs into airflow.cfg, and what to do next. "
        "Nothing is asked of AWS; a file that exists is not changed (exit code 1).",
        Arg(("--file",), help="The template's path (default: clusters/spark.yaml in AIRFLOW_HOME)"),
        Arg(
            ("--staging-uri",),
            help="s3://bucket/prefix/ for staged files, records and output",
            default="s3://my-bucket/airflow-emr/",
        ),
    ),
    _command(
        "status",
        "Agent, workloads, clusters and steps at one glance",
        "What lives and what waits, read from the database; nothing is asked of AWS. Exit code 1 when "
        "something is wrong: the configuration, or no agent while workloads live.",
        _OUTPUT,
    ),
    _command("clusters", "The clusters, their slots and why they ended", None, _ALL, _OUTPUT),
    _command(
        "steps",
        "The steps, whose they are and where they run",
        None,
        _ALL,
        Arg(("--dag-id",), help="Only steps of this DAG"),
        _OUTPUT,
    ),
    _command(
        "explain",
        "Why a task is where it is",
        "Tells which limit of Airflow or of this executor a task waits for, where its step is, and what "
        "happened to it so far. Exit code 1 when Airflow does not know the task.",
        ARG_DAG_ID,
        ARG_TASK_ID,
        Arg(("run_id",), nargs="?", help="The DAG run (default: the latest)"),
        Arg(("--map-index",), type=int, help="Of a mapped task (default: the first that is not over)"),
        _OUTPUT,
    ),
    _command(
        "agent",
        "Run the agent as a service of its own",
        "Run the agent in the foreground: it steers the clusters and runs the user code around steps. "
        "Needed only with [emr_executor] agent = service; else the scheduler starts it.",
    ),
    _command(
        "doctor",
        "Check the configuration and say what to change",
        "Check the configuration, the credentials and the bucket, and this host's clock against those of the "
        "API server and the database. Exit code 1 when something must change.",
    ),
    _command(
        "migrate",
        "Create or upgrade this package's tables in Airflow's database",
        "What 'airflow db migrate' does for this package's tables, alone.",
    ),
)


def get_emr_cli_commands() -> list[CLICommand]:
    """The ``emr`` group; named by ``provider_info``."""
    return [GroupCommand(name="emr", help="Run tasks as steps on Amazon EMR", subcommands=_COMMANDS)]

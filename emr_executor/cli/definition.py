"""What ``airflow emr`` offers. Read by every ``airflow`` command: nothing is imported but Airflow's CLI."""

from __future__ import annotations

from airflow.cli.cli_config import ActionCommand, CLICommand, GroupCommand, lazy_load_command

_COMMANDS = (
    ActionCommand(
        name="agent",
        help="Run the agent as a service of its own",
        description=(
            "Run the agent in the foreground: it steers the clusters and runs the user code around steps. "
            "Needed only with [emr_executor] agent = service; else the scheduler starts it."
        ),
        func=lazy_load_command("emr_executor.cli.commands.agent"),
        args=(),
    ),
    ActionCommand(
        name="doctor",
        help="Check the configuration and say what to change",
        description="Check what needs no call to AWS. Exit code 1 when something must change.",
        func=lazy_load_command("emr_executor.cli.commands.doctor"),
        args=(),
    ),
    ActionCommand(
        name="migrate",
        help="Create or upgrade this package's tables in Airflow's database",
        description="What 'airflow db migrate' does for this package's tables, alone.",
        func=lazy_load_command("emr_executor.cli.commands.migrate"),
        args=(),
    ),
)


def get_emr_cli_commands() -> list[CLICommand]:
    """The ``emr`` group; named by ``provider_info``."""
    return [GroupCommand(name="emr", help="Run tasks as steps on Amazon EMR", subcommands=_COMMANDS)]

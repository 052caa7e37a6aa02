"""What Airflow learns of this package: the one ``apache_airflow_provider`` entry point.

Read by every ``airflow`` command, so it imports our options only. Its shape is
``airflow/provider_info.schema.json`` (Airflow 3.3).
"""

from __future__ import annotations

from typing import Any

from emr_executor.config import OPTIONS, SECTION

_DESCRIPTION = """\
The pool of Amazon EMR clusters on which tasks with ``queue="emr"`` run as steps. For these
options to count, ``[core] executor`` must name ``emr_executor.EmrExecutor`` after the executor that
runs all other tasks: ``executor = LocalExecutor,emr_executor.EmrExecutor``.

``cluster_template`` and ``staging_uri`` must be set. Options that say "Tuning" have defaults that fit
nearly everybody.

Durations are seconds, or a number with s, m, h or d: ``90``, ``90s`` and ``1.5m`` are the same.
"""


def get_provider_info() -> dict[str, Any]:
    """The provider's description. ``package-name`` must equal the distribution's name (Airflow checks)."""
    return {
        "package-name": "emr-executor",
        "name": "EMR executor",
        "description": "Runs Spark tasks as steps on a managed pool of Amazon EMR clusters.",
        "executors": ["emr_executor.EmrExecutor"],
        "db-managers": ["emr_executor.store.db_manager.EmrExecutorDBManager"],
        "cli": ["emr_executor.cli.definition.get_emr_cli_commands"],
        "config": {
            SECTION: {
                "description": _DESCRIPTION,
                "options": {
                    option.name: {
                        "description": ("Tuning. " if option.tuning else "") + option.description + "\n",
                        "version_added": "0.1.0",
                        "type": "integer" if option.is_whole else "string",
                        "example": option.example,
                        "default": option.default,
                    }
                    for option in OPTIONS
                },
            }
        },
    }

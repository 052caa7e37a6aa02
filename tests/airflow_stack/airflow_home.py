"""Writes the AIRFLOW_HOME of a local stack: an airflow.cfg with secrets, readable by its owner only."""

from __future__ import annotations

import base64
import configparser
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

EXECUTOR = "LocalExecutor,emr_executor.EmrExecutor"

Sections = Mapping[str, Mapping[str, str]]

_QUICK: Sections = {
    "scheduler": {
        "scheduler_idle_sleep_time": "0.2",
        "job_heartbeat_sec": "2",
        "scheduler_heartbeat_sec": "2",
        "orphaned_tasks_check_interval": "15",
        "task_instance_heartbeat_timeout_detection_interval": "5",
    },
    "dag_processor": {
        "refresh_interval": "10",
        "min_file_process_interval": "15",
        "bundle_refresh_check_interval": "2",
        "parsing_processes": "1",
    },
}
"""Intervals of seconds instead of minutes: one person on one machine is waiting."""


def write_airflow_home(
    home: Path, *, api_port: int, dags: Sequence[Path], database_url: str | None, extra: Sections
) -> Path:
    """The path of airflow.cfg in ``home``, written anew; ``extra`` overrides by section and option.

    Secrets of an earlier one stay: what its database holds is encrypted with them.
    database_url: None is a SQLite file in ``home``
    """
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    path = home / "airflow.cfg"
    old = configparser.RawConfigParser()
    old.read(path)
    base_url = f"http://127.0.0.1:{api_port}"
    bundles = [
        {
            "name": f"dags-{index}",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(folder.resolve())},
        }
        for index, folder in enumerate(dags)
    ]
    sections: dict[str, dict[str, str]] = {
        "core": {
            "executor": EXECUTOR,
            "dags_folder": str(dags[0].resolve()),
            "load_examples": "False",
            "dags_are_paused_at_creation": "False",
            "fernet_key": old.get("core", "fernet_key", fallback=_fernet_key()),
            "simple_auth_manager_all_admins": "True",
            "execution_api_server_url": f"{base_url}/execution/",
            "parallelism": "4",
        },
        "database": {"sql_alchemy_conn": database_url or sqlite_url(home)},
        "api": {
            "host": "127.0.0.1",
            "port": str(api_port),
            "base_url": base_url,
            "secret_key": old.get("api", "secret_key", fallback=secrets.token_hex(32)),
        },
        "api_auth": {"jwt_secret": old.get("api_auth", "jwt_secret", fallback=secrets.token_hex(32))},
        "dag_processor": {"dag_bundle_config_list": json.dumps(bundles)},
        "logging": {"base_log_folder": str(home.resolve() / "logs")},
        "usage_data_collection": {"enabled": "False"},
    }
    for layer in (_QUICK, extra):
        for section, options in layer.items():
            sections.setdefault(section, {}).update(options)
    return _write(path, sections)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def sqlite_url(home: Path) -> str:
    """The database of an AIRFLOW_HOME that names no other."""
    return f"sqlite:///{home.resolve()}/airflow.db"


def _write(path: Path, sections: Sections) -> Path:
    parser = configparser.RawConfigParser()
    # Airflow reads the file with interpolation: a percent sign must be doubled.
    parser.read_dict({s: {o: v.replace("%", "%%") for o, v in opts.items()} for s, opts in sections.items()})
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        parser.write(file)
    return path

"""``airflow emr init``: a cluster template to fill in, and the lines for airflow.cfg."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from airflow.configuration import AIRFLOW_CONFIG, AIRFLOW_HOME

from emr_executor.errors import ConfigError
from emr_executor.policy import named_executors

EXECUTOR = "emr_executor.EmrExecutor"
DEFAULT_FILE = Path("clusters") / "spark.yaml"
"""Below AIRFLOW_HOME, where a relative ``cluster_template`` starts."""


def write_template(file: str | None) -> Path:
    """The path of the template, written now. Raises ConfigError: the file exists or cannot be written."""
    path = Path(file) if file else Path(AIRFLOW_HOME) / DEFAULT_FILE
    path = path.absolute()
    if path.exists():
        raise ConfigError(
            [f"{path} exists already; it was not changed. For another file: airflow emr init --file PATH"]
        )
    text = (files("emr_executor.cli") / "cluster_template.yaml").read_text(encoding="utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path} cannot be written: {error.strerror}"]) from error
    return path


def told(template: Path, staging_uri: str) -> str:
    """What a person does next, in order; with the executors that airflow.cfg names already."""
    named = named_executors()[0]
    executors = ",".join(named if any(name.endswith("EmrExecutor") for name in named) else [*named, EXECUTOR])
    return f"""Wrote {template}

1. Fill in what is marked CHANGE there: subnets, roles, log bucket.
2. Put these lines into {AIRFLOW_CONFIG}:

[core]
executor = {executors}

[emr_executor]
queue = emr
cluster_template = {template}
staging_uri = {staging_uri}
max_clusters = 4
idle_timeout = 5m

3. airflow db migrate     makes the tables of emr_executor
4. airflow emr doctor     says what is still missing
5. Start Airflow again; tasks with queue="emr" run as EMR steps."""

"""What ``doctor`` finds: what was read and from where, whether it can work, clocks, and Airflow's limits.

The only command that asks AWS: once for the identity, once for the bucket.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from emr_executor.aws.access import Way, way_of
from emr_executor.aws.layout import parse_s3_uri
from emr_executor.cluster_template import is_example, left_as_examples
from emr_executor.config import AwsAccess, Settings
from emr_executor.config_load import load_settings, options_set
from emr_executor.core.workload import spoken_duration
from emr_executor.errors import ConfigError, CredentialsMissing
from emr_executor.task.skew import ask_ahead_s, less_journey_s, problem_of

CLOCKS_AGREE_S = 3.0
"""What a comparison through one request cannot tell from agreement."""
_ASK = {"connect_timeout": 5, "read_timeout": 10, "retries": {"total_max_attempts": 2, "mode": "standard"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Full sentences. problems: something must change; notes: worth knowing."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def look_at_configuration() -> Found:
    """Every problem with the options, the template and the way to AWS."""
    notes = list(_read_lines())
    problems: list[str] = []
    try:
        settings = load_settings()
        problems += _example_problems(settings)
        way = way_of(settings.aws)
        found = way.find_credentials()
        key_id = str(found.get_frozen_credentials().access_key) if found else None
    except ConfigError as error:
        return Found(problems=(*problems, *error.problems), notes=tuple(notes))
    except (CredentialsMissing, BotoCoreError, ClientError) as error:
        problems.append(f"AWS credentials cannot be read: {error}")
        return Found(problems=tuple(problems), notes=tuple(notes))
    for service, name in (("emr", "Amazon EMR"), ("s3", "Amazon S3")):
        endpoint = _plain(way.endpoint_of(service) or "the endpoint of AWS")
        notes.append(f"{name}: region {way.region}, {endpoint}")
    if key_id is None:
        problems.append(
            "no AWS credentials are found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "where the agent runs, give its host a role, or name an Airflow connection in [emr_executor] "
            "aws_conn_id"
        )
    else:
        notes.append(_identity_note(way, settings.aws, key_id, getattr(found, "method", "botocore")))
        if not is_example(settings.staging_uri) and (problem := _bucket_problem(way, settings.staging_uri)):
            problems.append(problem)
    return Found(problems=tuple(problems), notes=tuple(notes))


def _read_lines() -> Iterator[str]:
    from airflow.configuration import AIRFLOW_HOME

    for name, (text, source) in options_set().items():
        yield f"read {name} = {_plain(text)} ({source})"
        if name == "cluster_template":
            yield f"read {Path(AIRFLOW_HOME) / Path(text).expanduser()}"


def _example_problems(settings: Settings) -> Iterator[str]:
    """Values that were copied and not changed."""
    if is_example(settings.staging_uri):
        yield f"[emr_executor] staging_uri = {settings.staging_uri} is an example: write your own bucket"
    for pool in settings.cluster_pools:
        yield from (f"[emr_executor] cluster_template: {told}" for told in left_as_examples(pool.template))


def _identity_note(way: Way, access: AwsAccess, key_id: str, method: str) -> str:
    """Who the agent is to AWS, without a secret."""
    found_by = f"connection {access.aws_conn_id}" if access.aws_conn_id else method
    whose = f"AWS access key {key_id[:4]}...{key_id[-4:]}, found by {found_by}"
    if access.endpoint_url is not None:
        return whose
    try:
        return f"{whose}: {way.client('sts', **_ASK).get_caller_identity()['Arn']}"
    except (BotoCoreError, ClientError) as error:
        return f"{whose}; AWS STS does not say whose that is: {error}"


def _bucket_problem(way: Way, staging_uri: str) -> str | None:
    """What one HEAD of the bucket tells."""
    bucket = parse_s3_uri(staging_uri).bucket
    try:
        way.client("s3", **_ASK).head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response.get("ResponseMetadata", {})
        region = answer.get("HTTPHeaders", {}).get("x-amz-bucket-region")
        match answer.get("HTTPStatusCode"):
            case 404:
                why = "does not exist"
            case 403:
                why = "is refused to this identity (it needs s3:ListBucket), or belongs to somebody else"
            case 301 | 400 if region and region != way.region:
                why = (
                    f"is in region {region}, not in {way.region}: write [emr_executor] region_name = {region}"
                )
            case _:
                why = f"cannot be used: {error}"
    except BotoCoreError as error:
        why = f"cannot be asked for: {error}"
    else:
        return None
    return f"[emr_executor] staging_uri = {staging_uri}: bucket {bucket} {why}"


def _plain(text: str) -> str:
    """Without the user and password that an address may hold."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def look_around() -> Found:
    """Compare this host's clock with the API server's and the database's, and read Airflow's limits."""
    from airflow import settings
    from airflow.configuration import conf
    from airflow.executors.base_executor import get_execution_api_server_url

    url = get_execution_api_server_url()
    ahead_s = ask_ahead_s(url)
    problem = problem_of(ahead_s)
    notes = (
        None if problem else api_clock_note(url, ahead_s),
        database_clock_note(settings.get_engine()),
        queued_note(
            conf.getfloat("scheduler", "task_queued_timeout"),
            conf.getint("scheduler", "num_stuck_in_queued_retries", fallback=2),
        ),
    )
    return Found(problems=(problem,) if problem else (), notes=tuple(note for note in notes if note))


def api_clock_note(url: str, ahead_s: float | None) -> str | None:
    """What the comparison with the API server gave that is no problem."""
    if ahead_s is None:
        return f"the Airflow API server did not answer at {url}, so its clock could not be compared"
    return _difference("Airflow API server", ahead_s)


def database_clock_note(engine: Engine) -> str | None:
    """The same for the database's clock; None for SQLite, which has this host's."""
    if engine.dialect.name == "sqlite":
        return None
    try:
        with engine.connect() as connection:
            asked_at = datetime.now(tz=UTC)
            at = connection.execute(select(func.now())).scalar_one()
            answered_at = datetime.now(tz=UTC)
    except SQLAlchemyError as error:
        return f"the database did not answer ({type(error).__name__}), so its clock could not be compared"
    took_s = (answered_at - asked_at).total_seconds()
    return _difference("database", less_journey_s((answered_at - at).total_seconds(), took_s))


def queued_note(timeout_s: float, retries: int) -> str:
    """How long a task may wait for its prepare phase until Airflow fails it."""
    return (
        f"Airflow fails a task that waits in queued for {spoken_duration(timeout_s * (retries + 1))} "
        f"([scheduler] task_queued_timeout {timeout_s:g} s, and {retries} times more), as when no agent runs:"
        " raise task_queued_timeout to outlast longer ones (docs/operations.md, Tasks stuck in queued)"
    )


def _difference(whose: str, ahead_s: float) -> str | None:
    if abs(ahead_s) <= CLOCKS_AGREE_S:
        return None
    how = "ahead of" if ahead_s > 0 else "behind"
    return f"this host's clock is {abs(ahead_s):.0f} s {how} that of the {whose}: synchronise both (NTP)"

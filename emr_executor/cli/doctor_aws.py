"""What ``doctor`` finds of the configuration and of AWS: what was read and from where, whether it can work.

The only command that asks AWS: once for the identity, once for the bucket.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from emr_executor.aws.access import Way, way_of
from emr_executor.aws.layout import parse_s3_uri
from emr_executor.cli.doctor import Found
from emr_executor.cluster_template import is_example, left_as_examples
from emr_executor.config import AwsAccess, Settings
from emr_executor.config_load import load_settings, options_set
from emr_executor.errors import ConfigError, CredentialsMissing

_ASK = {"connect_timeout": 5, "read_timeout": 10, "retries": {"total_max_attempts": 2, "mode": "standard"}}


def look_at_configuration() -> Found:
    """Every problem with the options, the template and the way to AWS."""
    read = tuple(_read_lines())
    try:
        settings = load_settings()
    except ConfigError as error:
        return Found(problems=error.problems, notes=read)
    problems = list(example_problems(settings))
    try:
        way = way_of(settings.aws)
        found = way.find_credentials()
        key_id = str(found.get_frozen_credentials().access_key) if found else None
    except ConfigError as error:
        return Found(problems=(*problems, *error.problems), notes=read)
    except (CredentialsMissing, BotoCoreError, ClientError) as error:
        return Found(problems=(*problems, f"AWS credentials cannot be read: {error}"), notes=read)
    notes = [*read, *_places(way)]
    if key_id is None:
        problems.append(
            "no AWS credentials are found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "where the agent runs, give its host a role, or name an Airflow connection in [emr_executor] "
            "aws_conn_id"
        )
        return Found(problems=tuple(problems), notes=tuple(notes))
    notes.append(identity_note(way, settings.aws, key_id, getattr(found, "method", "botocore")))
    if not is_example(settings.staging_uri) and (problem := bucket_problem(way, settings.staging_uri)):
        problems.append(problem)
    return Found(problems=tuple(problems), notes=tuple(notes))


def _read_lines() -> Iterator[str]:
    from airflow.configuration import AIRFLOW_HOME

    for name, (text, source) in options_set().items():
        yield f"read {name} = {_plain(text)} ({source})"
        if name == "cluster_template":
            yield f"read {Path(AIRFLOW_HOME) / Path(text).expanduser()}"


def example_problems(settings: Settings) -> Iterator[str]:
    """Values that were copied and not changed."""
    if is_example(settings.staging_uri):
        yield f"[emr_executor] staging_uri = {settings.staging_uri} is an example: write your own bucket"
    for pool in settings.cluster_pools:
        yield from (f"[emr_executor] cluster_template: {told}" for told in left_as_examples(pool.template))


def identity_note(way: Way, access: AwsAccess, key_id: str, method: str) -> str:
    """Who the agent is to AWS, without a secret."""
    found_by = f"connection {access.aws_conn_id}" if access.aws_conn_id else method
    whose = f"AWS access key {key_id[:4]}...{key_id[-4:]}, found by {found_by}"
    if access.endpoint_url is not None:
        return whose
    try:
        return f"{whose}: {way.client('sts', **_ASK).get_caller_identity()['Arn']}"
    except (BotoCoreError, ClientError) as error:
        return f"{whose}; AWS STS does not say whose that is: {error}"


def bucket_problem(way: Way, staging_uri: str) -> str | None:
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


def _places(way: Way) -> Iterator[str]:
    for service, name in (("emr", "Amazon EMR"), ("s3", "Amazon S3")):
        yield f"{name}: region {way.region}, {_plain(way.endpoint_of(service) or 'the endpoint of AWS')}"


def _plain(text: str) -> str:
    """Without the user and password that an address may hold."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)

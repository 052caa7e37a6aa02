"""The one way to AWS of agent, phases and commands: what ``[emr_executor]`` and Airflow's connection say.

Blocking: it reads files, and with ``aws_conn_id`` asks Airflow for the connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader

from emr_executor.config import AwsAccess
from emr_executor.errors import ConfigError, CredentialsMissing

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60

MODELS = Loader()
"""AWS's API models, read and parsed once a process."""

# Else it tells where it found credentials each time that they are looked up again.
for _name in ("botocore.credentials", "botocore.configprovider"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How AWS is reached.

    find_credentials: a botocore credentials object, or None; looks anew at each call, since keys change.
        Raises CredentialsMissing, BotoCoreError
    endpoint_of: the endpoint of a service by its botocore name; None is AWS's own
    verify: as botocore takes it; None is its default
    config: what the connection says of timeouts, proxies and addressing
    """

    find_credentials: Callable[[], Any]
    region: str
    endpoint_of: Callable[[str], str | None]
    verify: bool | str | None = None
    config: Config | None = None

    def client_arguments(self, service: str, **always: Any) -> dict[str, Any]:
        """For ``create_client`` of a botocore session. always: options that no connection changes."""
        endpoint = self.endpoint_of(service)
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard"},
            user_agent_extra="emr-executor",
            # An endpoint of one's own has no name for each bucket.
            s3={"addressing_style": "path" if endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        if self.config is not None:
            config = config.merge(self.config)
        return {
            "region_name": self.region,
            "endpoint_url": endpoint,
            "verify": self.verify,
            "config": config.merge(Config(**always)),
        }

    def client(self, service: str, **always: Any) -> Any:
        """A boto3 client with the credentials of this moment."""
        session = botocore.session.Session()
        session.register_component("data_loader", MODELS)
        session.register_component("credential_provider", _Found(self.find_credentials))
        return boto3.Session(botocore_session=session).client(
            service, **self.client_arguments(service, **always)
        )


class _Found:
    """botocore's ``credential_provider`` component with one source."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find

    def load_credentials(self) -> Any:
        return self._find()


def way_of(access: AwsAccess) -> Way:
    """Raises ConfigError without a region, or where the connection is unknown or unusable."""
    if access.aws_conn_id is not None:
        return _way_by_connection(access, access.aws_conn_id)

    def find() -> Any:
        # A new session each time: one session never looks twice.
        return botocore.session.Session().get_credentials()

    return Way(
        find_credentials=find,
        region=_required(access.region_name or botocore.session.Session().get_config_variable("region")),
        endpoint_of=lambda _service: access.endpoint_url,
    )


def _way_by_connection(access: AwsAccess, conn_id: str) -> Way:
    from airflow.exceptions import AirflowException  # heavy, and not always needed
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

    def hook() -> Any:
        made = AwsGenericHook(aws_conn_id=conn_id, region_name=access.region_name, client_type="emr")
        if not made.conn_config:
            raise CredentialsMissing(f"Airflow knows no connection {conn_id!r}, which aws_conn_id names")
        return made

    def find() -> Any:
        # A new hook each time: the connection may have been edited.
        try:
            return hook().get_session().get_credentials()
        except (AirflowException, BotoCoreError, ClientError, ValueError) as fault:
            raise CredentialsMissing(f"Airflow connection {conn_id!r}: {fault}") from fault

    try:
        connection = hook().conn_config
        own = botocore.session.Session(profile=connection.profile_name)
        own.get_scoped_config()  # raises where there is no such profile
        region = access.region_name or connection.region_name or own.get_config_variable("region")
    except CredentialsMissing as unknown:
        raise ConfigError([f"[emr_executor] aws_conn_id = {conn_id}: {unknown}; add it to Airflow"]) from None
    except (AirflowException, BotoCoreError, ClientError, TypeError, ValueError) as fault:
        raise ConfigError(
            [f"[emr_executor] aws_conn_id = {conn_id}: the connection cannot be used: {fault}"]
        ) from fault
    return Way(
        find_credentials=find,
        region=_required(region),
        endpoint_of=lambda service: access.endpoint_url or connection.get_service_endpoint_url(service),
        verify=connection.verify,
        config=connection.botocore_config,
    )


def _required(region: Any) -> str:
    if not region:
        raise ConfigError(
            [
                "no AWS region is known; set [emr_executor] region_name,"  # noqa: ISC004 - one sentence
                " AWS_DEFAULT_REGION or the region of the AWS connection"
            ]
        )
    return str(region)

"""The agent's way to AWS: credentials that may come, change and go, and the clients, made once.

A botocore session keeps the credentials that it found first, also when it found none. Ours are looked up
again: every few seconds while there are none, every half minute otherwise, and at once after AWS refused
them. So a missing or rotated key heals without a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import botocore.session
import structlog
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.loaders import Loader

from emr_executor.aws.budget import Budget
from emr_executor.aws.emr import EmrClient
from emr_executor.aws.objects import S3Objects
from emr_executor.aws.records import S3StepRecords
from emr_executor.aws.staged import S3StagedObjects
from emr_executor.config import AwsAccess
from emr_executor.errors import ConfigError, CredentialsMissing
from emr_executor.ports import Clock

LOOK_MISSING_S = 3.0
LOOK_FOUND_S = 30.0
SOURCE_S = 300.0
"""How long one source (a profile's role session, an Airflow connection) is used before it is made anew."""
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
LOOK_TIMEOUT_S = 10
"""EMR answers in less than a second, and a tick waits for the answer to its look: the next looks again."""
S3_CONNECTIONS = 32

_models = Loader()
"""AWS's API models, read and parsed once a process."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aws:
    """Everything that the agent does with AWS, for one region."""

    emr: EmrClient
    objects: S3Objects
    region: str

    def records_for(self, deployment_id: str, staging_uri: str) -> S3StepRecords:
        """The step records of a deployment."""
        return S3StepRecords(self.objects, staging_uri, deployment_id)

    def staged_in(self, staging_uri: str) -> S3StagedObjects:
        """Everything below a ``staging_uri``, for housekeeping."""
        return S3StagedObjects(self.objects, staging_uri)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """What configuration and connection say together."""

    find_credentials: Callable[[], Any]
    region: str
    emr_endpoint: str | None
    s3_endpoint: str | None
    verify: bool | str | None = None


class LookedUpCredentials(AioCredentials):
    """What aiobotocore's signer asks before each request.

    find: makes a botocore credentials object, or None; blocking, so it runs in a thread
    """

    def __init__(self, find: Callable[[], Any], clock: Clock) -> None:
        super().__init__("", "", None, method="emr-executor")
        self._find, self._clock = find, clock
        self._lock = asyncio.Lock()
        self._source: Any = None
        self._frozen: Any = None
        self._look_at = self._renew_at = float("-inf")

    def refused(self) -> None:
        """AWS did not accept them: look again before the next call."""
        self._look_at = self._renew_at = float("-inf")

    async def get_frozen_credentials(self) -> Any:
        """Credentials to sign one request with. Raises NoCredentialsError."""
        async with self._lock:
            if self._clock.monotonic() >= self._look_at:
                await self._look()
        if self._frozen is None:
            raise NoCredentialsError
        return self._frozen

    async def _look(self) -> None:
        now = self._clock.monotonic()
        if self._source is None or self._is_static() or now >= self._renew_at:
            self._renew_at = now + SOURCE_S
            self._source = await self._try(self._find)
        before, self._frozen = self._frozen, None
        if self._source is not None:
            self._frozen = await self._try(self._source.get_frozen_credentials)
        if self._frozen is None:
            self._source = None
        if (before is None) != (self._frozen is None):
            _log.info("aws_credentials_found" if self._frozen else "aws_credentials_lost")
        self._look_at = self._clock.monotonic() + (LOOK_FOUND_S if self._frozen else LOOK_MISSING_S)

    def _is_static(self) -> bool:
        return not hasattr(self._source, "refresh_needed")

    async def _try(self, ask: Callable[[], Any]) -> Any:
        try:
            return await asyncio.to_thread(ask)
        except (BotoCoreError, ClientError, OSError, RuntimeError, ValueError) as fault:
            _log.warning("aws_credentials_not_readable", problem=f"{type(fault).__name__}: {fault}")
            return None


class _OneProvider:
    """botocore's ``credential_provider`` component with one answer."""

    def __init__(self, credentials: AioCredentials) -> None:
        self._credentials = credentials

    async def load_credentials(self) -> AioCredentials:
        return self._credentials


@asynccontextmanager
async def open_aws(access: AwsAccess, clock: Clock) -> AsyncIterator[Aws]:
    """The agent's clients, closed at the end. Raises ConfigError without a region.

    Credentials may be missing now and come later.
    """
    way = await asyncio.to_thread(_way_of, access)
    credentials = LookedUpCredentials(way.find_credentials, clock)
    session = AioSession()
    session.register_component("data_loader", _models)
    session.register_component("credential_provider", _OneProvider(credentials))
    async with AsyncExitStack() as stack:

        async def client(service: str, endpoint: str | None, **config: Any) -> Any:
            return await stack.enter_async_context(
                session.create_client(
                    service,
                    region_name=way.region,
                    endpoint_url=endpoint,
                    verify=way.verify,
                    config=_config(**config),
                )
            )

        emr = EmrClient(
            await client("emr", way.emr_endpoint, read_timeout=LOOK_TIMEOUT_S),
            await client("emr", way.emr_endpoint, retries={"total_max_attempts": 1, "mode": "standard"}),
            Budget(clock),
            credentials.refused,
        )
        s3 = await client(
            "s3",
            way.s3_endpoint,
            max_pool_connections=S3_CONNECTIONS,
            s3={"addressing_style": "path" if way.s3_endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        yield Aws(emr=emr, objects=S3Objects(s3, credentials.refused), region=way.region)


def _config(**options: Any) -> AioConfig:
    return AioConfig(
        **{
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"mode": "standard"},
            "user_agent_extra": "emr-executor",
            **options,
        }
    )


def _way_of(access: AwsAccess) -> _Way:
    """Blocking: reads files, and with ``aws_conn_id`` asks Airflow for the connection."""
    if access.aws_conn_id is not None:
        return _way_by_connection(access, access.aws_conn_id)

    def find() -> Any:
        # A new session each time: one session never looks twice.
        return botocore.session.Session().get_credentials()

    region = access.region_name or botocore.session.Session().get_config_variable("region")
    return _Way(
        find_credentials=find,
        region=_required(region),
        emr_endpoint=access.endpoint_url,
        s3_endpoint=access.endpoint_url,
    )


def _way_by_connection(access: AwsAccess, conn_id: str) -> _Way:
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook  # heavy, and not always needed

    def hook() -> Any:
        return AwsGenericHook(aws_conn_id=conn_id, region_name=access.region_name, client_type="emr")

    def find() -> Any:
        # A new hook each time: the connection may have been edited.
        return hook().get_session().get_credentials()

    try:
        first = hook()
        connection = first.conn_config
        region = access.region_name or connection.region_name or first.get_session().region_name
    except (BotoCoreError, ClientError) as fault:
        raise CredentialsMissing(f"Airflow connection {conn_id!r}: {fault}") from fault
    return _Way(
        find_credentials=find,
        region=_required(region),
        emr_endpoint=access.endpoint_url or connection.get_service_endpoint_url("emr"),
        s3_endpoint=access.endpoint_url or connection.get_service_endpoint_url("s3"),
        verify=connection.verify,
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

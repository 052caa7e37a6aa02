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

import structlog
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from emr_executor.aws.access import MODELS, way_of
from emr_executor.aws.budget import Budget
from emr_executor.aws.emr import EmrClient
from emr_executor.aws.objects import S3Objects
from emr_executor.config import AwsAccess
from emr_executor.errors import CredentialsMissing
from emr_executor.ports import Clock

LOOK_MISSING_S = 3.0
LOOK_FOUND_S = 30.0
SOURCE_S = 300.0
"""How long one source (a profile's role session, an Airflow connection) is used before it is made anew."""
LOOK_TIMEOUT_S = 10
"""EMR answers in less than a second, and a tick waits for the answer to its look: the next looks again."""
S3_CONNECTIONS = 32

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aws:
    """Everything that the agent does with AWS, for one region."""

    emr: EmrClient
    objects: S3Objects
    region: str


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
        except (BotoCoreError, ClientError, CredentialsMissing, OSError, RuntimeError, ValueError) as fault:
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
    """The agent's clients, closed at the end. Raises ConfigError as ``way_of`` does.

    Credentials may be missing now and come later.
    """
    way = await asyncio.to_thread(way_of, access)
    credentials = LookedUpCredentials(way.find_credentials, clock)
    session = AioSession()
    session.register_component("data_loader", MODELS)
    session.register_component("credential_provider", _OneProvider(credentials))
    async with AsyncExitStack() as stack:

        async def client(service: str, **always: Any) -> Any:
            arguments = way.client_arguments(service, **always)
            config = AioConfig().merge(arguments.pop("config"))
            return await stack.enter_async_context(session.create_client(service, config=config, **arguments))

        emr = EmrClient(
            await client("emr", read_timeout=LOOK_TIMEOUT_S),
            await client("emr", retries={"total_max_attempts": 1, "mode": "standard"}),
            Budget(clock),
            credentials.refused,
        )
        s3 = await client("s3", max_pool_connections=S3_CONNECTIONS)
        yield Aws(emr=emr, objects=S3Objects(s3, credentials.refused), region=way.region)

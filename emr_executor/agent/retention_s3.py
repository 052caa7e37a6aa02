"""Deletes from S3 what is old and needed by nobody, in small rounds; the rules stand in ``aws.layout``.

A *walk* goes once through everything of this deployment and everything that is shared below
``staging_uri``. First it gives a new age to the shared objects that live steps name and that have become
old: other deployments see only the age. Then it deletes page by page. What lives is asked of the database
*after* a page was listed, and a step parked later names no object that could be on that page.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import structlog

from emr_executor.aws.layout import (
    KEPT_AT_LEAST,
    SHARED_PREFIXES,
    claims_prefix,
    needs_refreshing,
    output_prefix,
    shared_names,
    state_prefix,
    submission_of_key,
)
from emr_executor.core.model import SubmissionId
from emr_executor.errors import TryAgain
from emr_executor.ports import Clock, StagedObject, StagedObjects
from emr_executor.store import reference_store
from emr_executor.store.runner import Runner

PAGES_A_ROUND = 5
"""ListObjectsV2 calls of one round, each followed by at most one DeleteObjects."""
REFRESHES_A_ROUND = 50
"""Shared objects given a new age in one round: a listing and a copy each."""
REFRESH_ATTEMPTS = 5
RECORD_KEPT_S = 86_400.0
"""A step's record is deleted when it is read; one left over is of no use to anybody, and listed often."""

log = structlog.get_logger("emr_executor.agent")


class Needs(Protocol):
    """What lives, as the database has it now. Methods may raise ``TryAgain``."""

    async def shared(self) -> set[str]:
        """Names of the shared objects (``aws.layout.shared_names``) that steps of live workloads refer to."""
        ...

    async def live(self, submission_ids: Collection[SubmissionId]) -> set[SubmissionId]:
        """Those of the submissions that are not over, or whose workload is not."""
        ...


class StoredNeeds:
    """``Needs`` from the store."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def shared(self) -> set[str]:
        """What steps of live workloads name."""
        return await self._runner.read(reference_store.named_by_live_steps, shared_names)

    async def live(self, submission_ids: Collection[SubmissionId]) -> set[SubmissionId]:
        """Submissions that may still be read or written."""
        return await self._runner.read(reference_store.live_submissions, submission_ids)


@dataclass(slots=True)
class Expired:
    """What rounds did: calls of ListObjectsV2, objects deleted, objects given a new age."""

    listings: int = 0
    objects: int = 0
    refreshed: int = 0


class S3Retention:
    """One walk after the other; ``keep_s`` 0: nothing is deleted, only refreshed for others' sake."""

    def __init__(
        self, *, staged: StagedObjects, needs: Needs, clock: Clock, deployment_id: str, keep_s: float
    ) -> None:
        self._staged, self._needs, self._clock = staged, needs, clock
        self._deployment_id = deployment_id
        shared_s = max(keep_s, KEPT_AT_LEAST.total_seconds())
        self._kept_s = {
            **dict.fromkeys(SHARED_PREFIXES, shared_s),
            output_prefix(deployment_id): keep_s,
            # A step that EMR has twice must find the claim, however late it begins.
            claims_prefix(deployment_id): keep_s,
            state_prefix(deployment_id): min(keep_s, RECORD_KEPT_S),
        }
        if not keep_s:
            self._kept_s = {}
        self._prefixes: deque[str] = deque()
        self._after = ""
        self._to_refresh: deque[tuple[str, int]] | None = deque()

    @property
    def is_walking(self) -> bool:
        """Whether a walk is under way."""
        return bool(self._prefixes) or self._to_refresh is None or bool(self._to_refresh)

    def begin(self) -> None:
        """Begin a walk; ``round`` does it."""
        self._prefixes, self._after = deque(self._kept_s), ""
        self._to_refresh = None

    async def round(self, did: Expired) -> None:
        """The next part of the walk, its effects counted in ``did`` as they happen.

        Raises TryAgain: the next round goes on where this one stood.
        """
        await self._refresh_some(did)
        for _ in range(PAGES_A_ROUND):
            if not self._prefixes:
                return
            await self._clear_page(did)

    async def _refresh_some(self, did: Expired) -> None:
        if self._to_refresh is None:
            now = self._clock.now()
            named = sorted(await self._needs.shared())
            self._to_refresh = deque((name, 1) for name in named if needs_refreshing(name, now))
        for _ in range(min(REFRESHES_A_ROUND, len(self._to_refresh))):
            name, attempt = self._to_refresh.popleft()
            try:
                await self._refresh(name, did)
            except TryAgain as error:
                # One that S3 always refuses must not hold up the others.
                if attempt < REFRESH_ATTEMPTS:
                    self._to_refresh.append((name, attempt + 1))
                else:
                    log.error("staged_object_not_refreshed", name=name, error=str(error))
                raise

    async def _refresh(self, name: str, did: Expired) -> None:
        page = await self._staged.page(name)
        did.listings += 1
        if not page.objects:
            log.error("staged_object_missing", name=name, why="a waiting or running step refers to it")
        for found in page.objects:
            await self._staged.refresh(found.key)
            did.refreshed += 1

    async def _clear_page(self, did: Expired) -> None:
        prefix = self._prefixes[0]
        page = await self._staged.page(prefix, self._after)
        did.listings += 1
        old = [found for found in page.objects if found.age_s >= self._kept_s[prefix]]
        if old and (keys := await self._unneeded(prefix, old)):
            did.objects += await self._staged.delete(keys)
        if page.more:
            self._after = page.objects[-1].key
        else:
            self._prefixes.popleft()
            self._after = ""

    async def _unneeded(self, prefix: str, old: Collection[StagedObject]) -> list[str]:
        """Keys of our own making that nothing alive refers to: any other object is left alone."""
        if prefix in SHARED_PREFIXES:
            named = await self._needs.shared()
            named_in = {found.key: shared_names(found.key) for found in old}
            return [key for key, names in named_in.items() if names and not names & named]
        owner = {found.key: submission_of_key(self._deployment_id, found.key) for found in old}
        live = await self._needs.live({submission for submission in owner.values() if submission})
        return [key for key, submission in owner.items() if submission and submission not in live]

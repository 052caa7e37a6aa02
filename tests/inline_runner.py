"""``store.runner.Runner`` for tests: each transaction on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Engine

from emr_executor.store.runner import transact

T = TypeVar("T")


class InlineRunner:
    """Runs each transaction on the spot: no thread, the same order every time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """A transaction that may write."""
        return transact(self._engine, work, *args)

    async def read(self, work: Callable[..., T], *args: Any) -> T:
        """A transaction that only reads."""
        return transact(self._engine, work, *args, read_only=True)

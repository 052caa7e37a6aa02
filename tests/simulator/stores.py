"""The store of a simulated world as everybody sees it: the production statements on SQLite in memory."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from emr_executor.store import phase_store, scheduler_store
from emr_executor.store.agent_store import AgentStore
from emr_executor.store.runner import Runner
from tests.simulator.sql_task_instances import SqlTaskInstances
from tests.simulator.sqlite_memory import MemoryRunner


class StoreFunctions:
    """The functions of a module of the store as coroutines, each in a transaction of its own.

    The executor and the processes of phases call them so, in transactions that they open themselves.
    """

    def __init__(self, runner: Runner, module: ModuleType) -> None:
        self._runner, self._module = runner, module

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        function = getattr(self._module, name)

        async def call(*args: Any, **named: Any) -> Any:
            return await self._runner.run(partial(function, **named) if named else function, *args)

        return call


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """One database as its users see it.

    scheduler, phase: functions of ``scheduler_store`` and ``phase_store``
    """

    agent: AgentStore
    scheduler: StoreFunctions
    phase: StoreFunctions
    task_instances: SqlTaskInstances
    transact: Callable[..., Any]


def stores_on(runner: Runner, transact: Callable[..., Any]) -> Stores:
    """What there is, through one runner."""
    return Stores(
        agent=AgentStore(runner),
        scheduler=StoreFunctions(runner, scheduler_store),
        phase=StoreFunctions(runner, phase_store),
        task_instances=SqlTaskInstances(transact),
        transact=transact,
    )


def in_memory() -> Stores:
    """A new database."""
    runner = MemoryRunner()
    return stores_on(runner, runner.transact)

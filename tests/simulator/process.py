"""Processes of the simulated world: each with its gate and its own set of tasks, so that it can be killed.

Whatever a process starts inherits its name through the context, as a real process owns its threads; killing
it ends all of them where they stand. A process that was started anew on the same host remembers nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulator.fault_profile import FaultProfile
from tests.simulator.fault_proxy import Gate

_CURRENT: contextvars.ContextVar[SimProcess | None] = contextvars.ContextVar("process", default=None)


class SimProcess:
    """One process. ``on_end`` is called once, soon after it was killed.

    gate: to be put before every port that the process reaches
    """

    def __init__(
        self,
        name: str,
        profile: FaultProfile,
        rng: random.Random,
        *,
        on_end: Callable[[SimProcess, str], None],
    ) -> None:
        self.name = name
        self.gate = Gate(name, profile, rng, on_crash=self._crashed)
        self._on_end = on_end
        # A dict as an ordered set: tasks hash by address, and their order is part of the story.
        self._tasks: dict[asyncio.Task[Any], None] = {}

    @property
    def is_dead(self) -> bool:
        """Whether it was killed."""
        return self.gate.is_dead

    def start(self, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run the process's main coroutine."""
        context = contextvars.Context()
        context.run(_CURRENT.set, self)
        return asyncio.get_running_loop().create_task(main, context=context)

    def kill(self, where: str = "from outside") -> None:
        """Nothing of it runs any more, as after kill -9."""
        self.gate.crash(where)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task that runs in this process."""
        self._tasks[task] = None
        task.add_done_callback(lambda ended: self._tasks.pop(ended, None))

    def _crashed(self, _gate: Gate, where: str) -> None:
        # Not at once: the crash may be met by one of the tasks that are to be ended.
        asyncio.get_running_loop().call_soon(self._bury, where, context=contextvars.Context())

    def _bury(self, where: str) -> None:
        self.gate.is_buried = True
        for task in list(self._tasks):
            task.cancel()
        self._on_end(self, where)


def task_factory(
    loop: asyncio.AbstractEventLoop, coro: Any, context: contextvars.Context | None = None
) -> asyncio.Task[Any]:
    """Gives each new task to the process that starts it."""
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, context=context)
    process = _CURRENT.get() if context is None else context.get(_CURRENT, None)
    if process is not None:
        process.adopt(task)
    return task

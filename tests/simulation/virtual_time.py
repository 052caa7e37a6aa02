"""Tests that are lived on a virtual loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulator.loop import run

Story = Callable[..., Coroutine[Any, Any, None]]


def in_virtual_time(make: Callable[[], Any] | None = None) -> Callable[[Story], Callable[..., None]]:
    """A test that is lived on a virtual loop. Its first argument is what ``make`` makes there, if given."""

    def made(story: Story) -> Callable[..., None]:
        async def live(given: dict[str, Any]) -> None:
            await (story(make(), **given) if make else story(**given))

        def test(**given: Any) -> None:
            run(live(given), seed=1)

        parameters = list(inspect.signature(story).parameters.values())[1 if make else 0 :]
        test.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        test.__name__, test.__doc__ = story.__name__, story.__doc__
        return test

    return made

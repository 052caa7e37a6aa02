"""Signs of life: given by the event loop itself, judged by a watchdog, and gone when a round is stuck."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress

import pytest

from emr_executor.agent.loop_watchdog import EXIT_HUNG, STUCK_ROUND_S, Watchdog, pulse

BLOCKED = """
import asyncio, threading
from emr_executor.agent.loop_watchdog import Watchdog, pulse
import emr_executor.agent.loop_watchdog as module
module.LOOK_S = 0.05

async def main():
    watchdog = Watchdog(0.5)
    watchdog.start()
    asyncio.create_task(pulse(watchdog, None, lambda: 0.0))
    await asyncio.sleep(0.1)
    threading.Event().wait()

asyncio.run(main())
"""


class Time:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.ended: list[float] = []

    def watchdog(self) -> Watchdog:
        return Watchdog(30.0, end=self.ended.append, monotonic=lambda: self.now_s)

    def passes(self, watchdog: Watchdog, seconds: float, *, alive: bool) -> None:
        for _ in range(int(seconds)):
            self.now_s += 1.0
            if alive:
                watchdog.moved()
            watchdog.look()


def test_a_loop_that_moves_is_left_alone_and_one_that_stands_still_is_ended() -> None:
    time = Time()
    watchdog = time.watchdog()
    time.passes(watchdog, 300, alive=True)
    time.passes(watchdog, 30, alive=False)
    assert time.ended == []
    time.passes(watchdog, 1, alive=False)
    assert time.ended == [31.0]


def test_a_process_that_was_stopped_as_a_whole_is_not_ended_for_it() -> None:
    time = Time()
    watchdog = time.watchdog()
    time.now_s += 3600.0
    watchdog.look()
    time.passes(watchdog, 30, alive=False)
    assert time.ended == []


def test_a_blocked_event_loop_ends_its_process_and_shows_where_it_stood() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == EXIT_HUNG
    assert "stood still for" in done.stderr.splitlines()[-1]
    assert "threading.py" in done.stderr


@pytest.mark.parametrize(("round_s", "given"), [(STUCK_ROUND_S - 1, b"."), (STUCK_ROUND_S, b"")])
async def test_signs_are_given_as_long_as_no_round_is_stuck(round_s: float, given: bytes) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    task = asyncio.create_task(pulse(Watchdog(60.0), write_end, lambda: round_s))
    await asyncio.sleep(0)
    task.cancel()
    os.close(write_end)
    assert os.read(read_end, 10) == given
    os.close(read_end)


async def test_a_parent_that_is_gone_does_not_end_the_pulse() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    task = asyncio.create_task(pulse(Watchdog(60.0), write_end, lambda: 0.0))
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    os.close(write_end)

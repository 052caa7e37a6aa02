"""The agent as a child: started, started again when it ends, killed when its event loop stands still."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from emr_executor.agent_process import HANG_MARGIN_S, START_S, AgentProcess, Child
from tests.executor.log import Log

HANG_S = 30.0


class FakeChild:
    """A child that a test makes speak, fall silent or end."""

    def __init__(self, pid: int) -> None:
        self.pid, self.speaks, self.code, self.killed = pid, True, None, False
        self.name = f"agent-{pid}"

    code: int | None
    code_when_killed: int | None = -9

    def exit_code(self) -> int | None:
        return self.code

    def gave_sign(self) -> bool:
        return self.speaks

    def close_stdin(self) -> None:
        self.code = 0

    def kill(self) -> None:
        self.killed, self.code = True, self.code_when_killed


class Room:
    """A scheduler's loop, its clock and the children that it started."""

    def __init__(self) -> None:
        self.now_s, self.children, self.log = 1000.0, list[FakeChild](), Log()
        self.restarts = list[tuple[str, str | None]]()
        self.agent = AgentProcess(
            self.log,
            hang_s=HANG_S,
            spawn=self._spawn,
            monotonic=lambda: self.now_s,
            on_restart=lambda why, dead: self.restarts.append((why, dead)),
        )

    def _spawn(self) -> FakeChild:
        self.children.append(FakeChild(len(self.children) + 1))
        return self.children[-1]

    def loops(self, seconds: float, each_s: float = 1.0) -> None:
        end = self.now_s + seconds
        while self.now_s < end:
            self.now_s += each_s
            self.agent.keep_running()


def test_a_child_that_speaks_is_left_alone() -> None:
    room = Room()
    room.loops(3600)
    assert len(room.children) == 1


def test_a_child_that_stands_still_is_killed_and_another_started() -> None:
    room = Room()
    room.loops(100)
    room.children[0].speaks = False
    room.loops(HANG_S + HANG_MARGIN_S)
    assert not room.children[0].killed
    room.loops(3)
    assert room.children[0].killed
    assert [child.pid for child in room.children] == [1, 2]
    assert room.restarts == [("hung", "agent-1")]
    assert "gave no sign of life for 36 s and was killed; it starts again in 1 s" in room.log.lines[1]


def test_a_new_child_has_time_to_begin() -> None:
    room = Room()
    room.loops(1)
    room.children[0].speaks = False
    room.loops(START_S - 1)
    assert not room.children[0].killed
    room.loops(3)
    assert room.children[0].killed


def test_a_scheduler_that_was_paused_itself_does_not_blame_its_child() -> None:
    room = Room()
    room.loops(100)
    room.children[0].speaks = False
    room.loops(600, each_s=600)
    assert not room.children[0].killed
    room.loops(HANG_S + HANG_MARGIN_S)
    assert not room.children[0].killed


def test_a_child_that_keeps_ending_is_started_ever_more_rarely_and_a_steady_one_soon() -> None:
    room = Room()
    for pause_s in (2.0, 4.0, 8.0):
        room.loops(1)
        before = len(room.children)
        room.children[-1].code = 1
        room.loops(1)
        assert f"ended with exit code 1; it starts again in {pause_s:.0f} s" in room.log.lines[-1]
        room.loops(pause_s - 1)
        assert len(room.children) == before
        room.loops(1)
        assert len(room.children) == before + 1
    room.loops(100)
    room.children[-1].code = 1
    room.loops(1)
    assert "it starts again in 1 s" in room.log.lines[-1]


def test_a_child_that_is_killed_at_its_work_again_and_again_is_started_soon_each_time() -> None:
    room = Room()
    for _ in range(9):
        room.loops(5)
        room.children[-1].code = -9
        room.loops(2)
    assert len(room.children) == 10
    assert room.restarts == [("ended", f"agent-{n}") for n in range(1, 10)]


def test_a_child_that_is_killed_before_its_first_sign_of_life_is_started_ever_more_rarely() -> None:
    room = Room()
    room.loops(1)
    for pause_s in (2.0, 4.0):
        room.children[-1].speaks, room.children[-1].code = False, -9
        room.loops(1)
        assert f"it starts again in {pause_s:.0f} s" in room.log.lines[-1]
        room.loops(pause_s)


def test_a_child_that_could_not_be_seen_dead_is_named_to_nobody() -> None:
    room = Room()
    room.loops(100)
    room.children[0].speaks, room.children[0].code_when_killed = False, None
    room.loops(HANG_S + HANG_MARGIN_S + 3)
    assert room.restarts == [("hung", None)]


def test_a_stopped_child_is_not_started_again() -> None:
    room = Room()
    room.loops(10)
    room.agent.stop()
    room.loops(100)
    assert len(room.children) == 1


def until(happens: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_real_child_speaks_through_its_pipe_and_is_killed_even_when_stopped() -> None:
    script = "import os, sys, time; os.write(int(sys.argv[-1]), b'.'); time.sleep(60)"
    child = Child(["-c", script])
    until(child.gave_sign)
    assert not child.gave_sign()
    assert child.exit_code() is None
    os.kill(child.pid, 19)  # SIGSTOP
    child.kill()
    assert child.exit_code() == -9
    assert not child.gave_sign()

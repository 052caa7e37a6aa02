"""Tells waiting tasks why they wait, in their logs: once for each piece of news."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from emr_executor.agent.stale import StaleWatch
from emr_executor.agent.surroundings import Surroundings
from emr_executor.agent.tasklog import agent_line
from emr_executor.core.model import WorkloadId
from emr_executor.core.waiting import Reason
from emr_executor.core.waiting_in_line import reasons_in_line

ROUND_S = 15.0
"""Between two looks at the whole line: with ``core.waiting_in_line.IN_LINE_S`` well within a minute."""
READY_LIMIT = 1000
"""READY workloads looked at in one tick; the rest is counted."""
AGAIN_S = 300.0
"""A reason that was told before and came back is told again when it has stood for so long."""


@dataclass(slots=True)
class _Told:
    """news: all that was told; last: the last of it; now: what stands, since when (monotonic)."""

    news: set[Hashable]
    last: Hashable
    now: Hashable
    since: float


class WaitingLines:
    """Remembers what each task was told. Kept in memory: a successor tells each what stands, once."""

    def __init__(self) -> None:
        self._told: dict[WorkloadId, _Told] = {}

    def news(
        self, reasons: Iterable[Reason], now: datetime, *, monotonic: float
    ) -> Iterator[tuple[WorkloadId, dict[str, Any]]]:
        """The lines of what is news. Two reasons that take turns are each told once."""
        for reason in reasons:
            if self._is_news(reason, monotonic):
                level = "warning" if reason.is_trouble else "info"
                yield reason.workload_id, agent_line(now, f"waiting: {reason.why}", level=level)

    def forget(self, live: Collection[WorkloadId]) -> None:
        """Let go of tasks that are over."""
        for gone in self._told.keys() - live:
            del self._told[gone]

    def _is_news(self, reason: Reason, monotonic: float) -> bool:
        """Whether the task is to be told of it, which it then counts as."""
        if (news := reason.news) is None:
            return False
        told = self._told.get(reason.workload_id)
        if told is None:
            self._told[reason.workload_id] = _Told({news}, news, news, monotonic)
            return True
        if told.now != news:
            told.now, told.since = news, monotonic
        if news == told.last or (news in told.news and monotonic - told.since < AGAIN_S):
            return False
        told.news.add(news)
        told.last = news
        return True


class LinesBetweenTicks:
    """Tells those that no tick looks at: tasks that no task runner has taken, and parked ones far back.

    no_runner: why this agent has no task runner now
    """

    def __init__(
        self, around: Surroundings, waiting_lines: WaitingLines, *, no_runner: Callable[[], str | None]
    ) -> None:
        self._store, self._task_log, self._clock = around.store, around.task_log, around.clock
        self._waiting_lines, self._at_once, self._no_runner = waiting_lines, around.host.capacity, no_runner
        self._states: StaleWatch[WorkloadId] = StaleWatch()

    async def round(self) -> None:
        """Look at the whole line, and write what is news. Raises StoreBusy."""
        line = await self._store.line()
        self._waiting_lines.forget({one.workload_id for one in line})
        monotonic = self._clock.monotonic()
        stood_s = self._states.look({one.workload_id: one.state for one in line}, monotonic=monotonic)
        now, log_of = self._clock.now(), {one.workload_id: one.log_path for one in line}
        found = reasons_in_line(
            line,
            stood_s,
            now=now,
            ready_limit=READY_LIMIT,
            at_once=self._at_once,
            no_runner=self._no_runner(),
        )
        news = self._waiting_lines.news(found, now, monotonic=monotonic)
        await self._task_log.append({log_of[workload_id]: [told] for workload_id, told in news})

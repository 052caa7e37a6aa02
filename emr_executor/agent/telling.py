"""Tells waiting tasks why they wait, in their logs: once for each piece of news."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime

from emr_executor.agent.desk import Desk
from emr_executor.core.model import WorkloadId
from emr_executor.core.waiting import Reason

AGAIN_S = 300.0
"""A reason that was told before and came back is told again when it has stood for so long."""


@dataclass(slots=True)
class _Told:
    """news: all that was told; last: the last of it; now: what stands, since when (monotonic)."""

    news: set[Hashable]
    last: Hashable
    now: Hashable
    since: float


class Telling:
    """Remembers what each task was told. Kept in memory: a successor tells each what stands, once."""

    def __init__(self) -> None:
        self._told: dict[WorkloadId, _Told] = {}

    def tell(self, desk: Desk, reasons: Iterable[Reason], now: datetime, *, monotonic: float) -> None:
        """Write what is news. Two reasons that take turns are each told once."""
        for reason in reasons:
            if reason.news is not None and self._is_news(reason, monotonic):
                level = "warning" if reason.is_trouble else "info"
                desk.tell(now, desk.workloads[reason.workload_id], f"waiting: {reason.why}", level=level)
        for gone in self._told.keys() - desk.workloads.keys():
            del self._told[gone]

    def _is_news(self, reason: Reason, monotonic: float) -> bool:
        news = reason.news
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

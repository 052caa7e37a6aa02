"""Signs of life at their pace, and writes that insist, in a time of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from emr_executor.errors import StaleWriter, StoreBusy
from emr_executor.task.results import PhaseResults
from emr_executor.task.ticker import Ticker


class Row(PhaseResults):
    """Results that note when they are written. errors: raised by the next writes, in turn."""

    def __init__(self, *errors: Exception) -> None:
        self.renewed_at: list[float] = []
        self.errors = list(errors)
        self.now_s = 0.0

    def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s

    def _write(self, *_values: Any, **_named: Any) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.renewed_at.append(self.now_s)

    def ticker(self) -> Ticker:
        return Ticker(self, interval_s=5, monotonic=lambda: self.now_s, sleep=self.sleep)


def test_a_long_wait_renews_at_its_interval() -> None:
    row = Row()
    row.ticker().sleep(16)
    assert row.renewed_at == [1, 6, 11, 16]


def test_a_store_that_is_away_for_one_renewal_does_no_harm() -> None:
    row = Row(StoreBusy("locked"))
    row.ticker().sleep(7)
    assert row.renewed_at == [6]


@pytest.mark.parametrize("act", [Ticker.tick, lambda ticker: ticker.write(lambda: None)])
def test_a_lost_claim_stays_lost(act: Callable[[Ticker], None]) -> None:
    row = Row(StaleWriter("lost"))
    ticker = row.ticker()
    with pytest.raises(StaleWriter):
        ticker.tick()
    assert ticker.is_lost
    with pytest.raises(StaleWriter):
        act(ticker)


def test_a_result_is_written_once_the_store_answers() -> None:
    row = Row(StoreBusy("1"), StoreBusy("2"))
    row.ticker().write(row.renew)
    assert row.renewed_at == [6]


def test_a_store_that_stays_away_is_told_in_the_end() -> None:
    row = Row(*(StoreBusy(str(n)) for n in range(100)))
    with pytest.raises(StoreBusy):
        row.ticker().write(row.renew)
    assert row.now_s == 240


def test_a_result_waits_through_an_outage_of_minutes_and_shows_life_meanwhile() -> None:
    row = Row(*(StoreBusy(str(n)) for n in range(20)))
    seconds: list[float] = []
    row.ticker().write(row.renew, meanwhile=lambda: seconds.append(row.now_s))
    assert row.renewed_at == [180]
    assert seconds == [float(s) for s in range(1, 181)]


def test_an_error_that_is_no_outage_is_not_waited_for_long() -> None:
    row = Row(*(ValueError(str(n)) for n in range(100)))
    with pytest.raises(ValueError, match="5"):
        row.ticker().write(row.renew)
    assert row.now_s == 30


def test_an_intent_is_written_once_and_a_store_that_is_away_holds_nothing_up() -> None:
    row = Row(StoreBusy("away"))
    ticker = row.ticker()
    ticker.intend("success")
    assert (row.renewed_at, row.now_s) == ([], 0.0)
    ticker.intend("success")
    assert row.renewed_at == [0.0]


def test_a_lost_claim_may_not_tell_airflow() -> None:
    ticker = Row(StaleWriter("lost")).ticker()
    for _ in range(2):
        with pytest.raises(StaleWriter):
            ticker.intend("success")
    assert ticker.is_lost

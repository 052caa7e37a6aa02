"""Pauses double, and end at the longest, however often something fails."""

from __future__ import annotations

from emr_executor.core.backoff import doubled_s


def test_each_failure_doubles_the_pause_up_to_the_longest() -> None:
    assert [doubled_s(2.0, 60.0, failures=n) for n in range(7)] == [2.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert doubled_s(2.0, 60.0, failures=100_000) == 60.0

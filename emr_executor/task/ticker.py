"""Signs of life of a phase's process, whose one thread may be busy for long."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from emr_executor.errors import StaleWriter
from emr_executor.task.results import PhaseResults

log = structlog.get_logger(__name__)

_WRITE_ATTEMPTS = 6
_WRITE_PAUSE_S = 2.0
_SLEEP_S = 1.0


class Ticker:
    """Renews the claim of a phase's row and writes its result, from whatever the thread is busy with.

    interval_s: between two renewals; ``tick`` may be called much more often
    """

    def __init__(
        self,
        results: PhaseResults,
        *,
        interval_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._results = results
        self._interval_s = interval_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._last: float | None = None
        self.is_lost = False
        """The claim went to somebody else: the phase must leave no trace from then on."""

    def tick(self) -> None:
        """Renew the claim when its time has come. Raises StaleWriter, from then on always."""
        now = self._monotonic()
        if not self.is_lost and self._last is not None and now - self._last < self._interval_s:
            return
        self._last = now
        try:
            self._guarded(self._results.renew)
        except StaleWriter:
            raise
        except Exception:
            log.warning("claim_not_renewed", exc_info=True)

    def intend(self, airflow_state: str) -> None:
        """Write down what Airflow is about to be told. Raises StaleWriter: it may not be told.

        A store that does not answer holds nothing up: only the story would miss a line.
        """
        try:
            self._guarded(lambda: self._results.intend(airflow_state))
        except StaleWriter:
            raise
        except Exception:
            log.warning("intent_not_written", airflow_state=airflow_state, exc_info=True)

    def sleep(self, delay_s: float) -> None:
        """Wait, ticking. Raises StaleWriter."""
        end = self._monotonic() + delay_s
        while (left := end - self._monotonic()) > 0:
            self._sleep(min(left, _SLEEP_S))
            self.tick()

    def write(self, write: Callable[[], None]) -> None:
        """Write a result, again if the store does not answer. Raises StaleWriter, or the last error."""
        for attempt in range(1, _WRITE_ATTEMPTS):
            try:
                self._guarded(write)
            except StaleWriter:
                raise
            except Exception:
                log.warning("result_not_written", attempt=attempt, exc_info=True)
                self._sleep(_WRITE_PAUSE_S * attempt)
            else:
                return
        self._guarded(write)

    def _guarded(self, act: Callable[[], None]) -> None:
        if self.is_lost:
            raise StaleWriter("the claim of this phase was lost")
        try:
            act()
        except StaleWriter:
            self.is_lost = True
            raise

"""Signs of life of a phase's process, whose one thread may be busy for long."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from emr_executor.errors import StaleWriter, TryAgain
from emr_executor.task.results import PhaseResults

log = structlog.get_logger(__name__)

_WRITE_PAUSES_S = (2.0, 4.0, 6.0, 8.0, 10.0)
"""Between two attempts to write a result; the last one again and again."""
_SLEEP_S = 1.0


class Ticker:
    """Renews the claim of a phase's row and writes its result, from whatever the thread is busy with.

    interval_s: between two renewals; ``tick`` may be called much more often
    patience_s: how long a result waits for a store that is away
    """

    def __init__(
        self,
        results: PhaseResults,
        *,
        interval_s: float,
        patience_s: float = 240.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._results = results
        self._interval_s, self._patience_s = interval_s, patience_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._last: float | None = None
        self._is_failing = False
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
        except Exception as error:
            if not self._is_failing:
                log.warning("claim_not_renewed", error=str(error), exc_info=not isinstance(error, TryAgain))
            self._is_failing = True
        else:
            self._is_failing = False

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
        self._pause(delay_s, self.tick)

    def write(self, write: Callable[[], None], meanwhile: Callable[[], None] = lambda: None) -> None:
        """Write a result, again and again while the store is away. Raises StaleWriter, or the last error.

        What was achieved took user code to achieve, so it is not given up for an outage of minutes.
        meanwhile: called every second of a wait
        """
        until = self._monotonic() + self._patience_s
        attempt = 0
        while True:
            try:
                self._guarded(write)
            except StaleWriter:
                raise
            except Exception as error:
                is_outage = isinstance(error, TryAgain)
                if self._monotonic() >= until or (not is_outage and attempt == len(_WRITE_PAUSES_S)):
                    raise
                if attempt == 0 or not is_outage:
                    log.warning("result_not_written", error=str(error), exc_info=not is_outage)
                pause_s = _WRITE_PAUSES_S[min(attempt, len(_WRITE_PAUSES_S) - 1)]
                self._pause(min(pause_s, max(until - self._monotonic(), 0.0)), meanwhile)
                attempt += 1
            else:
                return

    def _pause(self, delay_s: float, meanwhile: Callable[[], None]) -> None:
        end = self._monotonic() + delay_s
        while (left := end - self._monotonic()) > 0:
            self._sleep(min(left, _SLEEP_S))
            meanwhile()

    def _guarded(self, act: Callable[[], None]) -> None:
        if self.is_lost:
            raise StaleWriter("the claim of this phase was lost")
        try:
            act()
        except StaleWriter:
            self.is_lost = True
            raise

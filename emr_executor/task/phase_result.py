"""What the end of a phase means: the result that its supervisor stores. No Airflow here.

``task.supervise`` brings the task runner's real process, the simulator a script in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Protocol, TypeGuard

import httpx

from emr_executor.core.model import Workload
from emr_executor.errors import StaleWriter
from emr_executor.task.results import PhaseResults, backoff_s
from emr_executor.task.skew import problem_of_answer
from emr_executor.task.ticker import Ticker

EXIT_NO_RESULT = 75
"""Exit code of a supervisor that wrote no result: its claim runs out and the phase runs again."""
EXIT_BROKEN = 70
"""Exit code of a supervisor that met an error of its own, with or without a result."""
LONGEST_PAUSE_S = 5.0
"""Between two attempts of one call: a try that nobody heard of for long must be heard of soon."""

_NOT_WANTED = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.CONFLICT})
"""The Execution API's answers that mean: this try is no longer to run."""
_REFUSED_TOKEN = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class TaskRunner(Protocol):
    """The child of a supervisor, once ``/run`` was accepted."""

    @property
    def exit_code(self) -> int:
        """After ``wait``."""
        ...

    @property
    def parked(self) -> bool:
        """The step is staged and stored: the result is there."""
        ...

    @property
    def is_refused(self) -> bool:
        """A heartbeat was answered with "not wanted", which ended it."""
        ...

    @property
    def is_in_outage(self) -> bool:
        """It was ended because something that it needs is away."""
        ...

    @property
    def told_state(self) -> str:
        """The state that Airflow was told, where ``unfinished`` is None."""
        ...

    def wait(self) -> object:
        """To its end, of which Airflow is told. Raises httpx.HTTPError when it could not be."""
        ...

    def unfinished(self) -> str | None:
        """Why the phase has to run again, or None when it ended the try one way or the other."""
        ...


def supervise(
    start: Callable[[], TaskRunner], workload: Workload, results: PhaseResults, ticker: Ticker
) -> int:
    """Run a phase to its end and write its result. Returns the exit code. Raises StaleWriter.

    start: ``/run``, and the task runner; raises httpx.HTTPError when that is not accepted
    """
    # The row already counts this attempt.
    delay_s = backoff_s(workload.phase_attempts - 1)
    failure: httpx.HTTPError | None = None
    try:
        runner = start()
    except httpx.HTTPError as error:
        no_answer = f"no answer from the Execution API: {error!r}"
        if isinstance(error, httpx.HTTPStatusError):
            no_answer = f"the Execution API refused to start the phase: {refusal_text(error)}"
        ticker.write(_unheard(results, error, delay_s, no_answer))
        return 0
    try:
        runner.wait()
    except httpx.HTTPError as error:
        failure = error
    if ticker.is_lost:
        raise StaleWriter(f"the claim of workload {workload.workload_id} was lost while its phase ran")
    if not runner.parked:
        ticker.write(_result(runner, failure, results, delay_s))
    return runner.exit_code


def _unheard(results: PhaseResults, error: httpx.HTTPError, delay_s: float, note: str) -> Callable[[], None]:
    """What to store when ``/run`` or the end was not accepted. note: why the phase runs again, if it does."""
    if is_not_wanted(error):
        return partial(results.gone, f"Airflow no longer wants the try: {refusal_text(error)}")
    return partial(results.retry, delay_s, note, spent=not is_outage(error))


def _result(
    runner: TaskRunner, failure: httpx.HTTPError | None, results: PhaseResults, delay_s: float
) -> Callable[[], None]:
    """What to store of a phase that came to its end without parking."""
    if runner.is_refused:
        return partial(results.gone, "Airflow no longer wants the try (answer to a heartbeat)")
    if failure is not None:
        return _unheard(results, failure, delay_s, f"Airflow was not told of the end: {failure!r}")
    if why := runner.unfinished():
        return partial(results.retry, delay_s, why, spent=not runner.is_in_outage)
    return partial(results.over, runner.told_state)


def is_not_wanted(error: BaseException | None) -> TypeGuard[httpx.HTTPStatusError]:
    """Whether an error says that Airflow no longer wants the try."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in _NOT_WANTED


def is_outage(error: BaseException | None) -> bool:
    """Whether an error says that the API server is away, serves nothing now, or takes no token of ours."""
    if not isinstance(error, httpx.HTTPStatusError):
        return isinstance(error, httpx.HTTPError)
    status = error.response.status_code
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _REFUSED_TOKEN


def refusal_text(error: httpx.HTTPStatusError) -> str:
    """The server's own words for a refusal, for people."""
    detail = getattr(error, "detail", None)
    words = detail if isinstance(detail, dict) else {}
    parts = [str(words[key]) for key in ("reason", "message", "previous_state") if words.get(key)]
    if error.response.status_code == HTTPStatus.FORBIDDEN and (problem := problem_of_answer(error.response)):
        parts.append(problem)
    return f"{error.response.status_code} {', '.join(parts)}".strip()

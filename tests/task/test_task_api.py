"""The agent's client of the Execution API against a server: what each answer means, and refused tokens."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import airflow.configuration  # noqa: F401 - its first import sets structlog up, which ends a capture_logs
import pytest
import structlog
from structlog.testing import capture_logs

from emr_executor.core.model import WorkloadId
from emr_executor.errors import TaskGone, TokenRefused, TryAgain
from emr_executor.task import task_api
from emr_executor.task.skew import ahead_s, ask_ahead_s, problem_of
from emr_executor.task.task_api import HttpTaskApi
from tests.task.conftest import IDENTITY
from tests.task.fake_api import AWAY, ApiServer

TRY = WorkloadId("00000000-0000-0000-0000-000000000001")
NOW = datetime(2031, 5, 6, 7, 8, 9, 500_000, tzinfo=UTC)
REFUSED = (403, {"detail": "Invalid auth token: The token is not yet valid (nbf)"})


@pytest.fixture(autouse=True)
def fresh_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A logger that has logged before keeps its processors (Airflow lets structlog cache them)."""
    monkeypatch.setattr(task_api, "log", structlog.get_logger(task_api.__name__))


@pytest.fixture
def server() -> Iterator[ApiServer]:
    server = ApiServer()
    yield server
    server.close()


def api_of(server: ApiServer) -> HttpTaskApi:
    return HttpTaskApi(server.url, lambda _: "token")


async def test_an_end_that_comes_too_late_is_gone(server: ApiServer) -> None:
    """API:426: 409 invalid_state to /state for a try that is not RUNNING; never heals."""
    server.api.state = "success"
    api = api_of(server)
    with pytest.raises(TaskGone):
        await api.fail_terminally(TRY, ended_at=NOW)
    with pytest.raises(TaskGone):
        await api.heartbeat(TRY, IDENTITY)
    server.api.answers["PATCH", "/state"] = (409, {"detail": {"reason": "something_new"}})
    with pytest.raises(TryAgain, match="something_new"):
        await api.fail_terminally(TRY, ended_at=NOW)
    server.api.answers["PATCH", "/state"] = (AWAY, None)
    with pytest.raises(TryAgain, match="did not answer"):
        await api.fail_terminally(TRY, ended_at=NOW)
    await api.close()


@pytest.mark.parametrize(
    ("server_ahead_s", "why"),
    [
        # HTTP dates have whole seconds, and a busy machine adds some: how far is the business of ``skew``.
        (-60.0, "s ahead of the Airflow API server's"),
        (900.0, "s behind the Airflow API server's"),
        (0.0, "another signing key"),
    ],
)
async def test_a_refused_token_is_told_once_with_its_cause(
    server: ApiServer, server_ahead_s: float, why: str
) -> None:
    server.api.clock_ahead_s = server_ahead_s
    server.api.answers["PUT", "/heartbeat"] = REFUSED
    api = api_of(server)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(TokenRefused, match=why):
                await api.heartbeat(TRY, IDENTITY)
        del server.api.answers["PUT", "/heartbeat"]
        server.api.state, server.api.identity = "running", (IDENTITY.hostname, "airflow", IDENTITY.pid)
        for _ in range(2):
            await api.heartbeat(TRY, IDENTITY)
    told = [entry["event"] for entry in logs]
    assert told == ["api_server_refuses_tokens", "api_server_takes_tokens_again"]
    assert why in logs[0]["why"]
    await api.close()


@pytest.mark.parametrize(("server_ahead_s", "told"), [(0.0, 0), (-60.0, 1), (100.0, 0), (700.0, 1)])
async def test_a_clock_that_is_wrong_is_told_at_the_start(
    server: ApiServer, server_ahead_s: float, told: int
) -> None:
    server.api.clock_ahead_s = server_ahead_s
    api = api_of(server)
    with capture_logs() as logs:
        await api.look_at_clock()
    assert [entry["event"] for entry in logs] == ["api_server_refuses_tokens"] * told
    await api.close()
    found = ask_ahead_s(server.url)
    assert found == pytest.approx(-server_ahead_s, abs=5.0)
    assert bool(problem_of(found)) == bool(told)


async def test_a_server_that_is_away_says_nothing_of_clocks(server: ApiServer) -> None:
    server.api.answers["GET", "/health"] = (AWAY, None)
    api = api_of(server)
    with capture_logs() as logs:
        await api.look_at_clock()
    assert logs == []
    assert ask_ahead_s(server.url) is None
    await api.close()


@pytest.mark.parametrize(
    ("date", "took_s", "ahead"),
    [
        ("Tue, 06 May 2031 07:08:09 GMT", 0.0, 0.0),
        ("Tue, 06 May 2031 07:07:59 GMT", 0.0, 10.0),
        ("soon", 0.0, None),
        (None, 0.0, None),
        # An answer that took 30 s may have been written at once, or just now.
        ("Tue, 06 May 2031 07:07:59 GMT", 30.0, 0.0),
        ("Tue, 06 May 2031 07:07:29 GMT", 30.0, 10.0),
        ("Tue, 06 May 2031 07:08:19 GMT", 30.0, -10.0),
    ],
)
def test_a_date_header_tells_how_far_this_host_is_ahead(
    date: str | None, took_s: float, ahead: float | None
) -> None:
    assert ahead_s(date, NOW, took_s=took_s) == ahead


@pytest.mark.parametrize(
    ("ahead", "is_one"), [(9.9, False), (10.1, True), (-609.0, False), (-611.0, True), (None, False)]
)
def test_clocks_must_agree_as_far_as_tokens_need(ahead: float | None, is_one: bool) -> None:
    """Airflow's defaults: leeway 10 s, lifetime 600 s."""
    assert bool(problem_of(ahead)) is is_one

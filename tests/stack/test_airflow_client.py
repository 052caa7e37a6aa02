"""What the client makes of Airflow's answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.airflow_stack.airflow_client import AirflowClient, RunState
from tests.airflow_stack.components import StackError

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler) -> AirflowClient:
    return AirflowClient("http://airflow", transport=httpx.MockTransport(handler))


def answer(body: Any) -> httpx.Response:
    return httpx.Response(200, json=body)


def task(state: str | None, map_index: int = -1) -> dict[str, Any]:
    return {
        "task_id": "job",
        "map_index": map_index,
        "state": state,
        "try_number": 1,
        "duration": None,
    }


def test_a_refused_token_is_replaced_once() -> None:
    seen: list[tuple[str, str | None]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.path, request.headers.get("authorization")))
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "new"})
        if request.headers.get("authorization") != "Bearer new":
            return httpx.Response(401)
        return answer({"dag_run_id": "run-1"})

    assert client(handler).trigger("delays", {"a": 1}) == "run-1"
    assert seen == [
        ("/api/v2/dags/delays/dagRuns", None),
        ("/auth/token", None),
        ("/api/v2/dags/delays/dagRuns", "Bearer new"),
    ]


def test_a_refusal_carries_airflows_words() -> None:
    refusing = client(lambda _request: httpx.Response(409, json={"detail": "already there"}))
    with pytest.raises(StackError, match=r"refused POST /api/v2/dags/delays/dagRuns: 409 .*already there"):
        refusing.trigger("delays")


def test_the_text_of_a_log_has_its_exceptions() -> None:
    content = [
        {
            "event": "Task failed with exception",
            "error_detail": [{"exc_type": "StepTooLong", "exc_value": "x"}],
        },
        {"event": "after"},
    ]
    log = client(lambda _request: answer({"content": content, "continuation_token": None}))
    assert log.task_log("d", "r", "t") == "Task failed with exception\nStepTooLong: x\nafter"


def test_watch_yields_changes_to_the_end() -> None:
    answers = iter(
        [
            ("queued", [task(None, 0)]),
            ("running", [task("running", 0)]),
            ("running", [task("running", 0)]),
            ("success", [task("success", 0)]),
        ]
    )
    now: dict[str, Any] = {}

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/taskInstances"):
            return answer({"task_instances": now["tasks"]})
        now["state"], now["tasks"] = next(answers)
        return answer({"state": now["state"]})

    seen = list(client(handler).watch("d", "r", timeout_s=30, poll_s=0))
    assert [(run.state, run.states()) for run in seen] == [
        ("queued", {"job[0]": None}),
        ("running", {"job[0]": "running"}),
        ("success", {"job[0]": "success"}),
    ]
    assert isinstance(seen[-1], RunState)
    assert seen[-1].is_over


def test_a_late_run_is_told_with_its_states() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/taskInstances"):
            return answer({"task_instances": [task("running")]})
        return answer({"state": "running"})

    with pytest.raises(StackError, match=r"run r of d was not over after 0 s: .*running"):
        list(client(handler).watch("d", "r", timeout_s=0, poll_s=0))


def test_nothing_listening_is_not_healthy() -> None:
    def handler(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    assert client(handler).health() == {}


def test_a_missing_xcom_is_none() -> None:
    assert client(lambda _request: httpx.Response(404)).xcom("d", "r", "t") is None
    assert client(lambda _request: answer({"value": json.dumps([1])})).xcom("d", "r", "t") == "[1]"

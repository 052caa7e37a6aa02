"""The few calls of Airflow's public REST API (v2) that the demo and the tests make."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.airflow_stack.components import StackError

_OVER = {"success", "failed"}
_UNAUTHORIZED = 401
_NOT_FOUND = 404


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """One task instance as the API shows it. ``state`` is None before it is scheduled."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    duration_s: float | None

    @property
    def name(self) -> str:
        """``task`` or ``task[n]``."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A DAG run and its task instances at one moment."""

    state: str
    tasks: tuple[TaskState, ...]

    @property
    def is_over(self) -> bool:
        return self.state in _OVER

    def states(self) -> dict[str, str | None]:
        return {task.name: task.state for task in self.tasks}


class AirflowClient:
    """Talks to an API server whose simple auth manager makes everyone an admin (loopback only)."""

    def __init__(self, base_url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=30.0, trust_env=False, transport=transport)
        self.close = self._http.close

    def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """One call below ``/api/v2``; a fresh token is taken when the old one is refused."""
        response = self._http.request(method, f"/api/v2{path}", **arguments)
        if response.status_code == _UNAUTHORIZED:
            token = self._http.get("/auth/token")
            token.raise_for_status()
            self._http.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
            response = self._http.request(method, f"/api/v2{path}", **arguments)
        return response

    def json(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        """The JSON that a call gives. Raises StackError with Airflow's own words for a refusal."""
        return _json_of(self.call(method, path, **arguments))

    def health(self) -> dict[str, str | None]:
        """Component to its status, as ``/monitor/health`` has it; empty while nothing answers."""
        try:
            answer = self._http.get("/api/v2/monitor/health", timeout=5.0)
        except httpx.HTTPError:
            return {}
        if answer.is_error:
            return {}
        return {name: (part or {}).get("status") for name, part in answer.json().items()}

    def has_dag(self, dag_id: str) -> bool:
        """Whether the DAG has been parsed and can be triggered."""
        answer = self.call("GET", f"/dags/{dag_id}")
        # Of a DAG whose file went away the row stays.
        return answer.status_code != _NOT_FOUND and not answer.json().get("is_stale")

    def import_errors(self) -> list[str]:
        """``file: last line`` of every DAG file that could not be imported."""
        errors = self.json("GET", "/importErrors")["import_errors"]
        return [f"{e['filename']}: {e['stack_trace'].strip().splitlines()[-1]}" for e in errors]

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a DAG run; its run id."""
        body = {"logical_date": None, "conf": dict(conf or {})}
        return str(self.json("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> RunState:
        path = f"/dags/{dag_id}/dagRuns/{run_id}"
        state = str(self.json("GET", path)["state"])
        rows = self.json("GET", f"{path}/taskInstances", params={"limit": 1000})["task_instances"]
        tasks = (
            TaskState(
                task_id=row["task_id"],
                map_index=row["map_index"],
                state=row["state"],
                try_number=row["try_number"],
                duration_s=row["duration"],
            )
            for row in sorted(rows, key=lambda row: (row["task_id"], row["map_index"]))
        )
        return RunState(state=state, tasks=tuple(tasks))

    def watch(
        self,
        dag_id: str,
        run_id: str,
        *,
        timeout_s: float = 300.0,
        poll_s: float = 0.5,
        changes_only: bool = True,
    ) -> Iterator[RunState]:
        """The run each time that something of it changed (or at each look), to its end.

        Raises StackError when the run is not over within ``timeout_s``.
        """
        deadline, last = time.monotonic() + timeout_s, None
        while last is None or not last.is_over:
            now = self.run(dag_id, run_id)
            if not changes_only or last is None or (now.state, now.states()) != (last.state, last.states()):
                yield now
            last = now
            if not now.is_over:
                if time.monotonic() > deadline:
                    late = f"run {run_id} of {dag_id} was not over after {timeout_s:g} s"
                    raise StackError(f"{late}: {now.states()}")
                time.sleep(poll_s)

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1
    ) -> str:
        """The text of a task log: one line an event, and below it the exceptions that it carries."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        params = {"map_index": map_index, "full_content": True}
        content = self.json("GET", path, params=params, headers={"Accept": "application/json"})["content"]
        return "\n".join(line for event in content for line in _lines(event))

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """The value of an XCom, or None when there is none."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        response = self.call("GET", path, params={"map_index": map_index, "deserialize": False})
        return None if response.status_code == _NOT_FOUND else _json_of(response)["value"]


def _json_of(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        asked = f"{response.request.method} {response.request.url.path}"
        raise StackError(f"Airflow refused {asked}: {response.status_code} {response.text[:500]}")
    answer: dict[str, Any] = response.json()
    return answer


def _lines(event: str | Mapping[str, Any]) -> Iterator[str]:
    """The event, and ``Type: message`` of each exception in Airflow's ``error_detail``."""
    if isinstance(event, str):
        yield event
        return
    yield str(event.get("event", ""))
    for error in event.get("error_detail") or ():
        yield f"{error.get('exc_type')}: {error.get('exc_value')}"

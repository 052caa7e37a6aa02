"""Runs, steps and ledgers of a small demo run: two months and the merge, on clusters j-A and j-B."""

from __future__ import annotations

from typing import Any

from emr_executor.local.ledger import LedgerEntry
from tests.airflow_stack.airflow_client import RunState, TaskState
from tests.demo_run.checks import FLIGHTS, Evidence
from tests.demo_run.emr_now import EmrStep


def task(task_id: str, map_index: int = -1, **other: Any) -> TaskState:
    values = {"state": "success", "try_number": 1, "duration_s": 1.0}
    return TaskState(task_id=task_id, map_index=map_index, **(values | other))


def run(*tasks: TaskState, state: str = "success") -> RunState:
    return RunState(
        state=state,
        tasks=tasks or (task("load"), task("month", 0), task("month", 1), task("merge"), task("check")),
    )


def step(name: str, n: int = 1, cluster: str = "j-A", state: str = "COMPLETED") -> EmrStep:
    return EmrStep(
        task=name,
        workload=f"w-{name}",
        n=n,
        cluster_id=cluster,
        step_id=f"s-{name}-{n}",
        state=state,
        created_at=99.0,
        started_at=100.0,
        duration_s=9.0,
    )


def entry(event: str, cluster_id: str, **other: Any) -> LedgerEntry:
    return LedgerEntry(seq=1, at=1.0, event=event, cluster_id=cluster_id, cluster_name="pool", **other)


GOOD = Evidence(
    run=run(),
    ran=(
        step("month[0]"),
        step("month[1]", cluster="j-B", state="CANCELLED"),
        step("month[1]", n=2),
        step("merge"),
    ),
    entries=(
        entry("cluster_launched", "j-A"),
        entry("cluster_launched", "j-B"),
        entry("cluster_lost", "j-B"),
    ),
    losses={"month[1]": ("cluster j-B ended",)},
    lost_cluster="j-B",
    checked={"flights": FLIGHTS, "routes": 2, "output": "s3://b/routes", "worst": []},
)
"""A run of which everything is true: a cluster was lost in its middle."""


def status_step(name: str, state: str, **timeline: float) -> dict[str, Any]:
    return {
        "Id": "s-1",
        "Name": name,
        "Status": {"State": state, "Timeline": {"CreationDateTime": 1.0, **timeline}},
    }


def status_cluster(cluster_id: str, state: str, *steps: dict[str, Any], lost: bool = False) -> dict[str, Any]:
    return {"Id": cluster_id, "Status": {"State": state}, "Lost": lost, "Steps": list(steps)}

"""One moment of a run, put together from the three that know: EMR, Airflow, and the executor's tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.airflow_stack.airflow_client import RunState
from tests.demo_run.executor_history import ExecutorHistory

_UP = frozenset({"RUNNING", "WAITING"})
_WAITS = frozenset({"PENDING"})
_RUNS = frozenset({"RUNNING", "CANCEL_PENDING"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNow:
    """A cluster as EMR shows it, and the numbers of its steps.

    lost: its machine is gone, whatever EMR still shows
    last_start: when the youngest of its running steps started, epoch seconds
    """

    cluster_id: str
    state: str
    lost: bool
    waiting: int
    running: int
    done: int
    last_start: float = 0.0

    @property
    def is_up(self) -> bool:
        """Whether it serves steps."""
        return self.state in _UP and not self.lost


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSnapshot:
    """Everything that the live view shows.

    said: what we did ourselves, and when (seconds since the start)
    """

    elapsed_s: float
    run: RunState
    clusters: tuple[ClusterNow, ...]
    told: ExecutorHistory
    said: tuple[tuple[float, str], ...] = ()

    def saying(self, text: str) -> RunSnapshot:
        """The moment with one more sentence of ours."""
        return replace(self, said=(*self.said, (self.elapsed_s, text)))


def clusters_now(status: Mapping[str, Any]) -> tuple[ClusterNow, ...]:
    """The clusters of the endpoint's ``status()``, oldest first."""
    return tuple(_cluster(cluster) for cluster in status["clusters"])


def cluster_to_lose(clusters: Iterable[ClusterNow], *, done: int, min_done: int) -> str | None:
    """The cluster whose loss would be felt most, once two are at work and ``min_done`` tasks are done."""
    at_work = [cluster for cluster in clusters if cluster.is_up and cluster.running]
    if done < min_done or len(at_work) < 2:
        return None
    return max(at_work, key=lambda cluster: (cluster.running, cluster.last_start)).cluster_id


def _cluster(cluster: Mapping[str, Any]) -> ClusterNow:
    states = [step["Status"]["State"] for step in cluster["Steps"]]
    starts = [
        step["Status"]["Timeline"].get("StartDateTime", 0.0)
        for step in cluster["Steps"]
        if step["Status"]["State"] in _RUNS
    ]
    return ClusterNow(
        cluster_id=cluster["Id"],
        state=cluster["Status"]["State"],
        lost=bool(cluster["Lost"]),
        waiting=sum(state in _WAITS for state in states),
        running=sum(state in _RUNS for state in states),
        done=states.count("COMPLETED"),
        last_start=max(starts, default=0.0),
    )

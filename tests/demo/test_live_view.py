"""What the live view shows of a moment, and which cluster is taken away."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from tests.demo.builders import GOOD, run, status_cluster, status_step, task
from tests.demo_run.emr_now import ClusterNow, cluster_to_lose, clusters_now, emr_steps_of
from tests.demo_run.executor_history import ExecutorHistory
from tests.demo_run.flights import in_order, losses_table, tasks_table
from tests.demo_run.live_view import LiveView, RunSnapshot, picture

STEP = "airflow-emr/01-ab-2/delays_by_month.month[3]"
STATUS = {
    "clusters": [
        status_cluster(
            "j-A",
            "RUNNING",
            status_step(STEP, "COMPLETED", StartDateTime=2.0, EndDateTime=9.5),
            status_step(STEP, "RUNNING", StartDateTime=10.0),
            status_step(STEP, "PENDING"),
        ),
        status_cluster("j-B", "RUNNING", status_step(STEP, "RUNNING", StartDateTime=11.0), lost=True),
    ]
}
CLUSTER = ClusterNow(
    cluster_id="j-A", state="RUNNING", lost=False, waiting=1, running=1, done=1, last_start=10.0
)
LOST = ClusterNow(cluster_id="j-B", state="RUNNING", lost=True, waiting=0, running=1, done=0, last_start=11.0)
MOMENT = RunSnapshot(
    elapsed_s=12.0,
    run=run(task("month", 0), task("month", 1, state="running"), task("merge", state=None), state="running"),
    clusters=(CLUSTER, LOST),
    told=ExecutorHistory(waiting=4, submitted=2, lines=((1005.0, "month[1]: running as s-1 on j-A"),)),
    said=((12.0, "taking cluster j-B away, as a spot loss"),),
)


def text_of(*shown: object) -> str:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(*shown)
    return console.export_text()


def test_clusters_are_read_from_emr() -> None:
    assert clusters_now(STATUS) == (CLUSTER, LOST)


def test_steps_are_read_from_emr() -> None:
    first, *_ = emr_steps_of(STATUS, "delays_by_month")
    assert (first.task, first.workload, first.n, first.duration_s) == ("month[3]", "01-ab", 2, 7.5)
    assert emr_steps_of(STATUS, "delays") == ()


def test_a_picture_shows_clusters_tasks_queue_and_events() -> None:
    shown = text_of(picture(MOMENT, 1000.0))
    assert "month: 1 success 1 running" in shown
    assert "merge: 1 to come" in shown
    assert "waiting 4, on a cluster 2" in shown
    assert "5 s  month[1]: running as s-1 on j-A" in shown
    assert "12 s  taking cluster j-B away, as a spot loss" in shown
    (row,) = [line for line in shown.splitlines() if line.startswith("│ j-B")]
    assert "lost" in row


def test_without_a_terminal_each_line_is_told_once() -> None:
    console = Console(file=io.StringIO(), width=120, record=True)
    view = LiveView(console, started_epoch=1000.0)
    with view.shown:
        view.show(MOMENT)
        view.show(MOMENT)
    lines = [line.strip() for line in console.export_text().splitlines()]
    counts = "tasks: month: 1 success 1 running, merge: 1 to come; 4 steps wait for a cluster"
    said = "taking cluster j-B away, as a spot loss"
    assert lines == ["5 s  month[1]: running as s-1 on j-A", f"12 s  {said}", f"12 s  {counts}"]


def test_a_terminal_is_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=True)
    view = LiveView(console, started_epoch=1000.0)
    with view.shown:
        view.show(MOMENT)
    assert "j-A" in file.getvalue()
    assert file.getvalue().endswith("\x1b[2K")  # the last thing written erases a line of the picture


def busy(cluster_id: str, last_start: float, running: int = 1, **other: object) -> ClusterNow:
    values = {"state": "RUNNING", "lost": False, "waiting": 0, "done": 0} | other
    return ClusterNow(cluster_id=cluster_id, running=running, last_start=last_start, **values)


def test_the_cluster_that_is_taken_has_the_youngest_work() -> None:
    assert cluster_to_lose((busy("j-A", 5.0), busy("j-B", 7.0)), done=3, min_done=3) == "j-B"
    assert cluster_to_lose((busy("j-A", 5.0, running=2), busy("j-B", 7.0)), done=3, min_done=3) == "j-A"


def test_no_cluster_is_taken_before_the_middle_or_while_one_works_alone() -> None:
    both = (busy("j-A", 5.0), busy("j-B", 7.0))
    assert cluster_to_lose(both, done=2, min_done=3) is None
    assert cluster_to_lose((both[0], busy("j-B", 0.0, running=0)), done=9, min_done=3) is None
    assert cluster_to_lose((both[0], busy("j-B", 7.0, lost=True)), done=9, min_done=3) is None


def test_the_end_tells_which_steps_served_a_task_and_why() -> None:
    evidence = replace(GOOD, run=in_order(GOOD.run))
    shown = text_of(tasks_table(evidence))
    assert [task.task_id for task in evidence.run.tasks] == ["load", "month", "month", "merge", "check"]
    assert "s-month[1]-1" in shown
    assert "s-month[1]-2" in shown
    assert "lost" in shown
    resubmitted = [line for line in text_of(losses_table(evidence)).splitlines() if "month[1]" in line]
    assert resubmitted
    assert "cluster j-B ended" in resubmitted[0]

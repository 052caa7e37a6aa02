"""``make demo``: 336,776 flights, a step on EMR for each month, and a cluster lost in the middle.

The run is followed live; at its end stands a table of what ran where, and every claim made of it with
what was seen. It counts as good only when every claim holds.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.airflow_stack.airflow_client import RunState
from tests.airflow_stack.components import StackError
from tests.airflow_stack.emr_local_control import EmrLocalControl
from tests.airflow_stack.stack import BUCKET, LocalStack
from tests.demo_run.checks import CHECK_TASK, DAG_ID, MAX_CLUSTERS, MONTH_TASK, TASKS, Check, Evidence, claims
from tests.demo_run.emr_now import EmrStep, cluster_to_lose, clusters_now, emr_steps_of
from tests.demo_run.executor_history import OurTables
from tests.demo_run.live_view import LiveView, RunSnapshot, Said, beside

OPTIONS = {"emr_executor": {"max_clusters": str(MAX_CLUSTERS), "prefetch": "1", "idle_timeout": "20"}}
"""Of the pool; the rest is what a stack sets itself."""
LOSE_AFTER_DONE = 3
NOTICE_AFTER_S = 3.0
"""From the loss of a machine to the moment when EMR shows it."""
RUN_TIMEOUT_S = 600.0
LOOK_EVERY_S = 1.0
LOG_LINES = 30


def run(stack: LocalStack, console: Console, started: float) -> bool:
    """One run of the DAG in a healthy stack, shown live; whether everything that is claimed was seen.

    started: when the demo began, on the monotonic clock
    """
    if stack.endpoint is None:
        raise StackError("The demo needs the local EMR endpoint: start the stack with it.")
    control = stack.endpoint.control()
    run_id = stack.trigger(DAG_ID, {"data": f"s3://{BUCKET}/{DAG_ID}"})
    last, lost_cluster = _follow(stack, console, run_id, control=control, started=started)
    status = control.status()
    evidence = Evidence(
        run=last,
        ran=emr_steps_of(status, DAG_ID),
        entries=control.ledger(),
        losses=OurTables(stack.metadata_url).losses(DAG_ID),
        lost_cluster=lost_cluster,
        checked=stack.client.xcom(DAG_ID, run_id, CHECK_TASK) or {},
    )
    judged = claims(evidence)
    _tell_failures(stack, console, run_id, last)
    console.print(tasks_table(evidence))
    if evidence.losses:
        console.print(losses_table(evidence))
    _show_output(console, stack, evidence)
    for claim in judged:
        console.print(_claim_row(claim))
    return all(claim.holds for claim in judged)


def _follow(
    stack: LocalStack, console: Console, run_id: str, *, control: EmrLocalControl, started: float
) -> tuple[RunState, str | None]:
    """The run when it is over, and the cluster that was taken away in its middle."""
    said: tuple[Said, ...] = ()
    lost: str | None = None
    last: RunState | None = None
    tables = OurTables(stack.metadata_url)
    view = LiveView(console, started_epoch=time.time() - (time.monotonic() - started))
    looks = stack.watch(DAG_ID, run_id, timeout_s=RUN_TIMEOUT_S, poll_s=LOOK_EVERY_S, changes_only=False)
    with view.shown:
        for look in looks:
            last = in_order(look)
            elapsed_s, clusters = time.monotonic() - started, clusters_now(control.status())
            if lost is None:
                done = sum(task.task_id == MONTH_TASK and task.state == "success" for task in last.tasks)
                lost = cluster_to_lose(clusters, done=done, min_done=LOSE_AFTER_DONE)
                if lost is not None:
                    said = ((elapsed_s, f"taking cluster {lost} away, as a spot loss"),)
                    control.lose_cluster(lost, notice_after_s=NOTICE_AFTER_S)
            view.show(
                RunSnapshot(elapsed_s=elapsed_s, run=last, clusters=clusters, told=tables.now(), said=said)
            )
    if last is None:
        raise StackError(f"run {run_id} was never seen")
    return last, lost


def tasks_table(evidence: Evidence) -> Table:
    """One row a task, with a line for each step that ran it."""
    table = Table(title="What ran where", title_justify="left")
    for column in ("task", "try", "state", "cluster", "step", "took"):
        table.add_column(column, justify="right" if column in {"try", "took"} else "left", no_wrap=True)
    for task in evidence.run.tasks:
        steps = [step for step in evidence.ran if step.task == task.name]
        table.add_row(
            task.name,
            str(task.try_number),
            Text(task.state or "-", "green" if task.state == "success" else "bold red"),
            "\n".join(step.cluster_id for step in steps),
            "\n".join(step.step_id for step in steps),
            "\n".join(_took(step, evidence) for step in steps) or f"{task.duration_s or 0:.0f} s",
        )
    return table


def losses_table(evidence: Evidence) -> Table:
    """What was resubmitted and why: one row a reason."""
    table = Table("tasks", "because", title="Resubmitted", title_justify="left")
    tasks: dict[str, list[str]] = {}
    for task in evidence.run.tasks:
        for why in evidence.losses.get(task.name, ()):
            tasks.setdefault(why, []).append(task.name)
    for why, names in tasks.items():
        table.add_row(Text(" ".join(names)), Text(why))
    return table


def in_order(run: RunState) -> RunState:
    """The run with its tasks as they follow each other."""
    place = {task_id: index for index, task_id in enumerate(TASKS)}
    return replace(run, tasks=tuple(sorted(run.tasks, key=lambda task: place.get(task.task_id, len(place)))))


def _took(step: EmrStep, evidence: Evidence) -> str:
    if step.state == "COMPLETED":
        return f"{step.duration_s:.0f} s"
    return "lost" if step.cluster_id == evidence.lost_cluster else step.state.lower()


def _show_output(console: Console, stack: LocalStack, evidence: Evidence) -> None:
    checked = evidence.checked
    if not checked:
        return
    place = str(checked["output"])
    title = "The routes with the largest mean delay on arrival"
    table = Table("carrier", "route", title=title, title_justify="left")
    for column in ("flights", "mean (minutes)", "in rain"):
        table.add_column(column, justify="right")
    for row in checked["worst"]:
        wet = row["wet_delay_min"] / row["wet_arrived"] if row["wet_arrived"] else None
        table.add_row(
            row["carrier"],
            f"{row['origin']}-{row['dest']}",
            str(row["flights"]),
            f"{row['mean_min']:.1f}",
            "-" if wet is None else f"{wet:.1f}",
        )
    console.print(table)
    files = stack.home / "emr" / "s3" / place.removeprefix("s3://")
    console.print(f"Output: {place}", markup=False, soft_wrap=True)
    console.print(f"   file {_short(files)}", markup=False, soft_wrap=True)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _claim_row(claim: Check) -> Table:
    mark = Text("true", "green") if claim.holds else Text("FALSE", "bold red")
    return beside(mark, Text.assemble(claim.text, (f" ({claim.seen})" if claim.seen else "", "dim")))


def _tell_failures(stack: LocalStack, console: Console, run_id: str, last: RunState) -> None:
    for task in last.tasks:
        if task.state == "failed":
            console.print(f"[bold red]{task.name} failed.[/] Last lines of its log:")
            text = stack.task_log(
                DAG_ID, run_id, task.task_id, try_number=task.try_number, map_index=task.map_index
            )
            console.print("\n".join(f"  {line}" for line in text.splitlines()[-LOG_LINES:]), markup=False)

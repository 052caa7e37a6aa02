"""Shows a run while it goes: tables that change in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.airflow_stack.airflow_client import RunState
from tests.demo_run.snapshot import ClusterNow, RunSnapshot

_EVENTS_SHOWN = 8
_CLUSTERS_SHOWN = 4
"""The view must fit into a terminal of 24 lines: the last clusters, the last events."""
_STATE_ORDER = ("success", "running", "queued", "scheduled", "none", "failed", "upstream_failed")
_STYLES = {
    "success": "green",
    "failed": "bold red",
    "upstream_failed": "red",
    "RUNNING": "green",
    "WAITING": "cyan",
    "STARTING": "yellow",
    "BOOTSTRAPPING": "yellow",
}

Said = tuple[float, str]
"""Seconds since the start, and a sentence."""


class LiveView:
    """A context manager; ``show`` is called with each moment. It keeps what was said until its end.

    started_epoch: when second 0 was, to place the executor's lines
    """

    def __init__(self, console: Console, *, started_epoch: float | None = None) -> None:
        self._console = console
        self._started = time.time() if started_epoch is None else started_epoch
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )
        self._shown_lines: set[Said] = set()
        self._clusters: dict[str, str] = {}
        self._counts = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, moment: RunSnapshot) -> None:
        """The moment in place of the last one, or what is new in it."""
        if self._live is not None:
            self._live.update(picture(moment, self._started), refresh=True)
            return
        for at, text in sorted(self._news(moment)):
            self._console.print(beside(f"{at:4.0f} s", text))

    def _news(self, moment: RunSnapshot) -> Iterator[Said]:
        for line in story(moment, self._started):
            if line not in self._shown_lines:
                self._shown_lines.add(line)
                yield line
        counts = (
            f"tasks: {', '.join(task_counts(moment.run))}; {moment.told.waiting} steps wait for a cluster"
        )
        if counts != self._counts:
            self._counts = counts
            yield moment.elapsed_s, counts


def beside(mark: str | Text, text: str | Text) -> Table:
    """A mark and its text, which is wrapped at words within its own column."""
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_row(
        mark if isinstance(mark, Text) else Text(mark), text if isinstance(text, Text) else Text(text)
    )
    return row


def picture(moment: RunSnapshot, started_epoch: float) -> Group:
    """The whole view of a moment."""
    told = moment.told
    queue = f"preparing {told.preparing}, waiting {told.waiting}, on a cluster {told.submitted}"
    return Group(
        Text(f"{moment.elapsed_s:4.0f} s  run {moment.run.state}", style="bold"),
        clusters_table(moment.clusters[-_CLUSTERS_SHOWN:]),
        Text(f"Tasks    {'   '.join(task_counts(moment.run))}"),
        Text(f"Queue    {queue}"),
        Text(""),
        *(event_text(at, text) for at, text in story(moment, started_epoch)[-_EVENTS_SHOWN:]),
    )


def clusters_table(clusters: tuple[ClusterNow, ...]) -> Table:
    """One row a cluster."""
    table = Table(title="Clusters", title_justify="left")
    table.add_column("cluster")
    table.add_column("state", min_width=22)
    for column in ("steps running", "waiting", "done"):
        table.add_column(column, justify="right")
    for cluster in clusters:
        state = "lost" if cluster.lost else cluster.state
        style = "bold red" if cluster.lost else _STYLES.get(cluster.state, "dim")
        running = "-" if cluster.lost else str(cluster.running)
        table.add_row(
            cluster.cluster_id, Text(state, style), running, str(cluster.waiting), str(cluster.done)
        )
    return table


def task_counts(run: RunState) -> list[str]:
    """``month: 3 success 9 running`` for each task id, in the order of their first appearance."""
    counts: dict[str, Counter[str]] = {}
    for task in run.tasks:
        counts.setdefault(task.task_id, Counter())[task.state or "none"] += 1
    return [f"{task_id}: {_in_words(of_task)}" for task_id, of_task in counts.items()]


def story(moment: RunSnapshot, started_epoch: float) -> list[Said]:
    """What the executor wrote and what we said, in order."""
    lines = [
        (max(line.at - started_epoch, 0.0), f"{line.about}: {line.text}" if line.about else line.text)
        for line in moment.told.lines
    ]
    return sorted([*lines, *moment.said])


def event_text(at: float, text: str) -> Text:
    """One line of the story; a loss stands out."""
    loss = any(word in text for word in ("taking cluster", "will run again", " lost"))
    return Text(
        f"{at:4.0f} s  {text}", style="bold yellow" if loss else "", no_wrap=True, overflow="ellipsis"
    )


def _in_words(counts: Counter[str]) -> str:
    known = [state for state in _STATE_ORDER if counts[state]]
    others = sorted(set(counts) - set(known))
    words = {"none": "to come"}
    return " ".join(f"{counts[state]} {words.get(state, state)}" for state in [*known, *others])

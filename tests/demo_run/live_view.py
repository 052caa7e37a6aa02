"""Shows a run while it goes: tables that change in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.airflow_stack.airflow_client import RunState
from tests.demo_run.emr_now import ClusterNow
from tests.demo_run.executor_history import ExecutorHistory

_EVENTS_SHOWN = 8
_CLUSTERS_SHOWN = 4
"""The view must fit into a terminal of 24 lines: the last clusters, the last events."""
_STATE_ORDER = ("success", "running", "queued", "scheduled", "to come", "failed", "upstream_failed")
_STYLES = {
    "lost": "bold red",
    "RUNNING": "green",
    "WAITING": "cyan",
    "STARTING": "yellow",
    "BOOTSTRAPPING": "yellow",
}

Said = tuple[float, str]
"""Seconds since the start, and a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSnapshot:
    """One moment of a run, as Airflow, EMR and the executor's tables know it.

    said: what we did ourselves, and when
    """

    elapsed_s: float
    run: RunState
    clusters: tuple[ClusterNow, ...]
    told: ExecutorHistory
    said: tuple[Said, ...] = ()


class LiveView:
    """A context manager while there is a terminal; ``show`` is called with each moment.

    started_epoch: when second 0 was, to place the executor's lines
    """

    def __init__(self, console: Console, *, started_epoch: float | None = None) -> None:
        self._console = console
        self._started = time.time() if started_epoch is None else started_epoch
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )
        self.shown = self._live or nullcontext()
        self._shown_lines: set[Said] = set()
        self._counts = ""

    def show(self, moment: RunSnapshot) -> None:
        """The moment in place of the last one, or what is new in it."""
        if self._live is not None:
            self._live.update(picture(moment, self._started), refresh=True)
            return
        news = [line for line in _story(moment, self._started) if line not in self._shown_lines]
        self._shown_lines.update(news)
        counts = (
            f"tasks: {', '.join(_task_counts(moment.run))}; {moment.told.waiting} steps wait for a cluster"
        )
        if counts != self._counts:
            self._counts = counts
            news.append((moment.elapsed_s, counts))
        for at, text in sorted(news):
            self._console.print(beside(f"{at:4.0f} s", text))


def beside(mark: str | Text, text: str | Text) -> Table:
    """A mark and its text, which is wrapped at words within its own column."""
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_row(*(Text(one) if isinstance(one, str) else one for one in (mark, text)))
    return row


def picture(moment: RunSnapshot, started_epoch: float) -> Group:
    """The whole view of a moment."""
    told = moment.told
    queue = f"preparing {told.preparing}, waiting {told.waiting}, on a cluster {told.submitted}"
    return Group(
        Text(f"{moment.elapsed_s:4.0f} s  run {moment.run.state}", style="bold"),
        _clusters_table(moment.clusters[-_CLUSTERS_SHOWN:]),
        Text(f"Tasks    {'   '.join(_task_counts(moment.run))}"),
        Text(f"Queue    {queue}"),
        Text(""),
        *(_event_text(at, text) for at, text in _story(moment, started_epoch)[-_EVENTS_SHOWN:]),
    )


def _clusters_table(clusters: Sequence[ClusterNow]) -> Table:
    table = Table(title="Clusters", title_justify="left")
    table.add_column("cluster")
    table.add_column("state", min_width=22)
    for column in ("steps running", "waiting", "done"):
        table.add_column(column, justify="right")
    for one in clusters:
        state = "lost" if one.lost else one.state
        running = "-" if one.lost else str(one.running)
        styled = Text(state, _STYLES.get(state, "dim"))
        table.add_row(one.cluster_id, styled, running, str(one.waiting), str(one.done))
    return table


def _task_counts(run: RunState) -> list[str]:
    """``month: 3 success 9 running`` for each task id, in the order of their first appearance."""
    counts: dict[str, Counter[str]] = {}
    for task in run.tasks:
        counts.setdefault(task.task_id, Counter())[task.state or "to come"] += 1
    return [f"{task_id}: {_in_words(of_task)}" for task_id, of_task in counts.items()]


def _in_words(counts: Counter[str]) -> str:
    known = [state for state in _STATE_ORDER if counts[state]]
    return " ".join(f"{counts[state]} {state}" for state in [*known, *sorted(counts.keys() - set(known))])


def _story(moment: RunSnapshot, started_epoch: float) -> list[Said]:
    """What the executor wrote and what we said, in order."""
    lines = [(max(at - started_epoch, 0.0), text) for at, text in moment.told.lines]
    return sorted([*lines, *moment.said])


def _event_text(at: float, text: str) -> Text:
    """One line of the story; a loss stands out."""
    loss = any(word in text for word in ("taking cluster", "will run again", " lost"))
    return Text(
        f"{at:4.0f} s  {text}", style="bold yellow" if loss else "", no_wrap=True, overflow="ellipsis"
    )

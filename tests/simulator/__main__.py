"""``python -m tests.simulator``: live simulated worlds and say what the checkers found.

One seed is told with the story of each violation; a range with a sum. The exit code is 1 when a promise
was broken.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.simulator.campaign import Result, Total, run_campaign
from tests.simulator.run import run_seed
from tests.simulator.scenario import draw_scenario
from tests.simulator.world import Outcome

WORKLOADS = 200
_TOLD = (
    ("tries queued", "airflow/queued"),
    ("clusters launched", "emr/cluster_launched"),
    ("clusters lost", "emr/cluster_lost"),
    ("nodes lost", "emr/node_lost"),
    ("steps added", "emr/step_added"),
    ("agents that died", "died/agent"),
    ("schedulers that died", "died/scheduler"),
    ("phases that died", "died/phase"),
    ("outages", "chaos/outage"),
    ("tries cleared, marked or timed out", "people"),
)
_TOLD_ALONE = ("never_lost", "never_twice_at_once", "done_once", "never_too_early", "never_leaked")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="one world, told in full")
    which.add_argument("--seeds", type=_range, metavar="FROM:TO", help="many worlds, TO not included")
    parser.add_argument("--workloads", type=int, default=WORKLOADS, help="tasks of each world (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="remember finished seeds in this file")
    asked = parser.parse_args(arguments)
    console = Console(highlight=False)
    if asked.seed is not None:
        return _one(console, asked.seed, asked.workloads)
    return _many(console, asked.seeds, asked.workloads, jobs=asked.jobs, memory=asked.resume)


def replay_of(seed: int, tasks: int) -> str:
    """The command that lives a seed's world again."""
    return f"make simulate SEED={seed} WORKLOADS={tasks}"


def _range(text: str) -> range:
    first, mark, after = text.partition(":")
    try:
        return range(int(first), int(after) if mark else int(first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no range of seeds like 0:1000") from None


def _one(console: Console, seed: int, tasks: int) -> int:
    profile = draw_scenario(seed, workloads=tasks).profile
    console.print(f"seed {seed}, {tasks} tasks; faults: {profile.told()}")
    outcome = run_seed(seed, workloads=tasks)
    for subject, lines in outcome.stories.items():
        console.print(f"\nthe story of {subject}")
        for line in lines:
            console.print(line, markup=False)
    _print_violations(console, outcome)
    console.print(
        f"{outcome.counts['workloads']} workloads in {outcome.virtual_s:,.0f} virtual seconds,"
        f" {len(outcome.violations)} violations"
    )
    return 1 if outcome.violations else 0


def _print_violations(console: Console, outcome: Outcome) -> None:
    for violation in outcome.violations:
        text = f"{violation.promise}: {violation.subject}: {violation.text}"
        console.print(text, style="red", markup=False)


def _many(console: Console, seeds: range, tasks: int, *, jobs: int, memory: Path | None) -> int:
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("worlds", total=len(seeds))

        def told(result: Result) -> None:
            progress.advance(bar)
            for violation in result.violations[:3]:
                text = (
                    f"seed {result.seed}: {violation['promise']}: {violation['subject']}: {violation['text']}"
                )
                progress.console.print(text, style="red", markup=False)
            if result.violations:
                progress.console.print(f"  replay: {replay_of(result.seed, tasks)}", markup=False)

        total = run_campaign(seeds, tasks, jobs=jobs, memory=memory, on_result=told)
        progress.update(bar, completed=len(seeds))
    _print_total(console, total, tasks, time.monotonic() - began)
    return 1 if total.broken else 0


def _print_total(console: Console, total: Total, tasks: int, wall_s: float) -> None:
    table = Table("what", "how many", title=f"{tasks} tasks a world")
    counts = total.counts
    counts["people"] = counts["airflow/cleared"] + counts["airflow/marked"] + counts["airflow/timed_out"]
    for place in range(8):
        counts["died/agent"] += counts[f"died/agent{place}"]
        counts["died/scheduler"] += counts[f"died/scheduler{place}"]
    table.add_row("worlds", f"{total.seeds:,}")
    table.add_row("workloads", f"{total.workloads:,}")
    for name, key in _TOLD:
        table.add_row(name, f"{counts[key]:,}")
    table.add_row("virtual hours", f"{total.virtual_s / 3600:,.0f}")
    rate = total.workloads / total.cpu_s if total.cpu_s else 0.0
    table.add_row("workloads a CPU second", f"{rate:,.0f}")
    table.add_row("wall seconds of this run", f"{wall_s:,.0f}")
    for promise in _TOLD_ALONE:
        table.add_row(f"violations of {promise}", f"{total.promises[promise]:,}")
    others = sum(total.promises.values()) - sum(total.promises[promise] for promise in _TOLD_ALONE)
    table.add_row("other violations", f"{others:,}")
    console.print(table)
    for seed in total.broken[:20]:
        console.print(f"broken: {replay_of(seed, tasks)}", markup=False)


if __name__ == "__main__":
    # As Ctrl-C does: the worlds under way come to their end, and no process is left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())

"""Tasks a second through the store on PostgreSQL and SQLite, and what ten times the rows change in that.

    python -m benchmarks.store_rates [--rounds 10] [--only postgresql]

Each database is filled three times: as a base, with ten times as many tasks over, and with ten times as many
parked. Rounds go through the three in turn, and each figure is compared with the base's of the same round, so
that the speed of the machine, which changes, is no part of the ratio.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.table import Table

from benchmarks.filling import Size, databases, launch
from benchmarks.life import SLOTS, Life, in_loop

PARKED, OVER, TIMES = 1_000, 10_000, 10
WAVE = 50
"""Tasks of a round: what a second brings at the budget."""
BUDGET_A_SECOND = 50
LOOKS = ("tick", "heartbeats")
"""Parts that a round pays once, however many tasks it brings."""


@dataclass
class Figures:
    """What the rounds of one database took, in seconds.

    waves: a round's tasks, all that is paid for each of them
    parts: by the name of a part, each round
    """

    waves: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)

    def add(self, life: Life) -> None:
        for name, seconds in life.spent_s.items():
            self.parts.setdefault(name, []).append(seconds)
        self.waves.append(sum(seconds for name, seconds in life.spent_s.items() if name not in LOOKS))

    @property
    def rate(self) -> float:
        """Tasks a second."""
        return WAVE / median(self.waves)

    @property
    def busy(self) -> float:
        """The share of a second that the budget's tasks and one tick take."""
        return (median(self.waves) * BUDGET_A_SECOND / WAVE) + median(self.parts["tick"])


def main() -> None:
    arguments = _arguments()
    console = Console()
    base = Size(parked=arguments.parked, over=arguments.over)
    sizes = (
        base,
        Size(parked=base.parked, over=base.over * TIMES),
        Size(parked=base.parked * TIMES, over=base.over),
    )
    for dialect in arguments.only or ("postgresql", "sqlite"):
        began = perf_counter()
        with tempfile.TemporaryDirectory() as folder, databases(dialect, sizes, Path(folder)) as lives:
            filled_s = perf_counter() - began
            figures = measure(lives, arguments.rounds)
        console.print(rates(dialect, sizes, figures))
        console.print(parts(sizes, figures))
        console.print(f"filled in {filled_s:.0f} s, {arguments.rounds} rounds of {WAVE} tasks each\n")


def measure(lives: Sequence[Life], rounds: int) -> list[Figures]:
    """The figures of each database; the first round of each is not counted."""
    figures = [Figures() for _ in lives]
    clusters = [in_loop(launch(life, -(-WAVE // SLOTS))) for life in lives]
    for n in range(rounds + 1):
        for life, its_clusters, its_figures in zip(lives, clusters, figures, strict=True):
            gc.collect()
            life.spent_s.clear()
            in_loop(life.whole(WAVE, its_clusters))
            in_loop(life.heartbeat())
            if n:
                its_figures.add(life)
    return figures


def rates(dialect: str, sizes: Sequence[Size], figures: Sequence[Figures]) -> Table:
    """A line for each database."""
    table = Table(title=f"{dialect}: tasks through the store, one connection", title_justify="left")
    for name in ("parked", "over", "tasks/s", "ratio", "tick ms", "ratio", "heartbeats ms", "ratio", "busy"):
        table.add_column(name, justify="right")
    base = figures[0]
    for size, one in zip(sizes, figures, strict=True):
        cells = [f"{size.parked:,}", f"{size.over:,}", f"{one.rate:.0f}", _ratio(base.waves, one.waves)]
        for part in LOOKS:
            cells += [f"{median(one.parts[part]) * 1000:.0f}", _ratio(one.parts[part], base.parts[part])]
        table.add_row(*cells, f"{one.busy:.0%}")
    table.caption = (
        f"ratio: to the first line, round by round, median (lowest to highest); busy: of one connection's "
        f"time, with {BUDGET_A_SECOND} tasks and a tick a second"
    )
    return table


def parts(sizes: Sequence[Size], figures: Sequence[Figures]) -> Table:
    """What the parts of a task's life take."""
    table = Table(title="milliseconds a task, by part", title_justify="left")
    table.add_column("part")
    for size in sizes:
        table.add_column(f"{size.parked:,} / {size.over:,}", justify="right")
    for name in figures[0].parts:
        if name in LOOKS:
            continue
        table.add_row(name, *(f"{median(one.parts[name]) * 1000 / WAVE:.2f}" for one in figures))
    return table


def _ratio(above: Sequence[float], below: Sequence[float]) -> str:
    if above is below:
        return ""
    each = sorted(a / b for a, b in zip(above, below, strict=True))
    return f"{median(each):.2f} ({each[0]:.2f}-{each[-1]:.2f})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="counted rounds of each database")
    parser.add_argument("--parked", type=int, default=PARKED, help="parked tasks of the base")
    parser.add_argument("--over", type=int, default=OVER, help="tasks of the base that are over")
    parser.add_argument("--only", choices=("postgresql", "sqlite"), action="append", help="one database only")
    return parser.parse_args()


if __name__ == "__main__":
    main()

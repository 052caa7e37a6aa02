"""Tasks a second through the store on PostgreSQL and SQLite, and what ten times the rows change in that.

    python -m benchmarks.store_rates [--rounds 20] [--only postgresql]

Each database is filled three times: as a base, with ten times as many tasks over, and with ten times as many
parked. Rounds go through the three in turn, and each figure is compared with the base's of the same round, so
that the speed of the machine, which changes, is no part of the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

from rich.console import Console
from rich.table import Table

from benchmarks.filling import Size, databases, launch
from benchmarks.life import SLOTS, Life, cpu_s

PARKED, OVER, TIMES = 1_000, 10_000, 10
WAVE = 50
"""Tasks of a round: what a second brings at the budget."""
BUDGET_A_SECOND = 50
CLOCK_S = 0.01
"""Other processes' CPU time is counted in steps of this."""
LOOKS = ("tick", "heartbeats")
"""Parts that a round pays once, however many tasks it brings."""


@dataclass
class Figures:
    """What the rounds of one database took, in seconds.

    waves: a round's tasks, all that is paid for each of them
    parts: by the name of a part, each round
    worked: CPU seconds of ``waves``, as ``wave``, and of the looks
    """

    waves: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    worked: dict[str, list[float]] = field(default_factory=dict)

    def add(self, life: Life, worked_s: float) -> None:
        for name, seconds in life.spent_s.items():
            self.parts.setdefault(name, []).append(seconds)
        self.waves.append(sum(seconds for name, seconds in life.spent_s.items() if name not in LOOKS))
        for name, seconds in life.worked_s.items():
            self.worked.setdefault(name, []).append(seconds)
        self.worked.setdefault("wave", []).append(worked_s - sum(life.worked_s.values()))

    @property
    def rate(self) -> float:
        """Tasks a second."""
        return WAVE / median(self.waves)

    @property
    def cores(self) -> float:
        """How many the budget's tasks and a tick keep busy, every second."""
        return median(self.worked["wave"]) * BUDGET_A_SECOND / WAVE + median(self.worked["tick"])


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
            figures = asyncio.run(measure(lives, arguments.rounds))
        console.print(rates(dialect, sizes, figures))
        console.print(looks(sizes, figures))
        console.print(parts(sizes, figures))
        console.print(f"filled in {filled_s:.0f} s, {arguments.rounds} rounds of {WAVE} tasks each\n")


async def measure(lives: Sequence[Life], rounds: int) -> list[Figures]:
    """The figures of each database; the first round of each is not counted."""
    figures = [Figures() for _ in lives]
    clusters = [await launch(life, -(-WAVE // SLOTS)) for life in lives]
    for n in range(rounds + 1):
        for life, its_clusters, its_figures in zip(lives, clusters, figures, strict=True):
            gc.collect()
            life.spent_s.clear()
            life.worked_s.clear()
            began = cpu_s()
            await life.whole(WAVE, its_clusters)
            await life.heartbeat()
            if n:
                its_figures.add(life, cpu_s() - began)
    return figures


def rates(dialect: str, sizes: Sequence[Size], figures: Sequence[Figures]) -> Table:
    """Whole lives, a line for each database."""
    table = Table(title=f"{dialect}: tasks through the store", title_justify="left", caption_justify="left")
    for name in ("parked", "over", "tasks/s", "ratio", "CPU ms/task", "ratio", "cores"):
        table.add_column(name, justify="right")
    base = figures[0]
    for size, one in zip(sizes, figures, strict=True):
        cells = [f"{one.rate:.0f}", _ratio(base.waves, one.waves)]
        cells += [f"{_ms(one.worked['wave']) / WAVE:.1f}", _ratio(one.worked["wave"], base.worked["wave"])]
        table.add_row(f"{size.parked:,}", f"{size.over:,}", *cells, f"{one.cores:.2f}")
    table.caption = (
        "ratio: to the first line, round by round, median (quartiles)\n"
        "CPU: of this process and the server\n"
        f"cores: kept busy by {BUDGET_A_SECOND} tasks and one tick a second"
    )
    return table


def looks(sizes: Sequence[Size], figures: Sequence[Figures]) -> Table:
    """What is read of everything that lives, whether or not anything happens."""
    table = Table(title="a tick's look, and that of the heartbeats", title_justify="left")
    for name in ("parked", "over", "tick ms", "CPU ms", "ratio", "heartbeats ms", "CPU ms", "ratio"):
        table.add_column(name, justify="right")
    for size, one in zip(sizes, figures, strict=True):
        cells = []
        for look in LOOKS:
            cells += [f"{_ms(one.parts[look]):.0f}", f"{_ms(one.worked[look]):.0f}"]
            cells.append(_ratio(one.worked[look], figures[0].worked[look]))
        table.add_row(f"{size.parked:,}", f"{size.over:,}", *cells)
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
        table.add_row(name, *(f"{_ms(one.parts[name]) / WAVE:.2f}" for one in figures))
    return table


def _ms(seconds: Sequence[float]) -> float:
    return median(seconds) * 1000


def _ratio(above: Sequence[float], below: Sequence[float]) -> str:
    if above is below:
        return ""
    low, middle, high = quantiles((a / max(b, CLOCK_S) for a, b in zip(above, below, strict=True)), n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="counted rounds of each database")
    parser.add_argument("--parked", type=int, default=PARKED, help="parked tasks of the base")
    parser.add_argument("--over", type=int, default=OVER, help="tasks of the base that are over")
    parser.add_argument("--only", choices=("postgresql", "sqlite"), action="append", help="one database only")
    return parser.parse_args()


if __name__ == "__main__":
    main()

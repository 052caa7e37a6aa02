"""CPU time of a tick of the steering agent, idle and with news, and what ten times the tasks change in it.

    python -m benchmarks.ticks [--ticks 15] [--only sqlite]

Nine of ten parked tasks have a step that runs, 45 on each cluster, and the others wait for a slot. The agent,
its store and its decisions are those of production; EMR and S3 answer from memory, ListSteps as often as the
call budget allows. In a busy tick 50 steps end by their wrappers' records, and as many tasks take their slot.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import tempfile
from pathlib import Path
from statistics import median, quantiles

import structlog
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, Engine, select, update

from benchmarks.filling import SEEDS, Size, databases
from benchmarks.life import SLOTS, cpu_s
from emr_executor.aws.launch import cluster_name
from emr_executor.aws.step import STEP_NAME_PREFIX
from emr_executor.config import ClusterPool, Settings
from emr_executor.core.model import ClusterId, ObservedCluster, ObservedStep, StepId, Submission
from emr_executor.core.states import ClusterState, RecordPhase, StepState, SubmissionState
from emr_executor.store.rows import submission_from
from emr_executor.store.schema import CLUSTER, SUBMISSION
from tests.agent.fakes import DEPLOYMENT, World

PARKED, TIMES = 1_000, 10
NEWS = 50
STEPS_PER_S = 0.5
"""ListSteps refills one call in two seconds, for the whole account."""

Figures = tuple[list[float], list[float]]


class Ticks:
    """One agent over one filled database; each tick is a second later than the one before."""

    def __init__(self, engine: Engine, parked: int, folder: Path) -> None:
        pool = ClusterPool(
            template={"ReleaseLabel": "emr-7.10.0", "StepConcurrencyLevel": SLOTS},
            max_clusters=parked // SEEDS,
        )
        settings = Settings(staging_uri="s3://bucket/emr/", cluster_pools=(pool,))
        self.world = World(engine, folder, settings=settings)
        with engine.begin() as connection:
            connection.execute(update(CLUSTER).values(template_hash=settings.cluster_pools[0].template_hash))
            self._submissions = _running(connection)
            clusters = connection.execute(select(CLUSTER).where(CLUSTER.c.state == ClusterState.RUNNING))
            for row in clusters.mappings():
                self._show(row["cluster_uuid"], ClusterId(row["cluster_id"]))
        self._rest = iter(self._submissions)
        self._ticks = 0

    def _show(self, cluster_uuid: str, cluster_id: ClusterId) -> None:
        emr = self.world.emr
        name = cluster_name(DEPLOYMENT, "default", cluster_uuid)
        emr.clusters[cluster_id] = ObservedCluster(
            cluster_id=cluster_id, name=name, state=ClusterState.RUNNING
        )
        emr.steps[cluster_id] = [
            ObservedStep(
                step_id=one.step_id or StepId(""),
                name=f"{STEP_NAME_PREFIX}{one.submission_id}",
                state=StepState.RUNNING,
            )
            for one in self._submissions
            if one.cluster_uuid == cluster_uuid
        ]

    async def begin(self) -> None:
        """Take the lease, and see everything once."""
        await self.world.begin()
        for _ in range(5):
            await self.tick()

    def news(self, how_many: int) -> None:
        """So many steps end."""
        for _ in range(how_many):
            one = next(self._rest)
            self.world.records.chunks[one.submission_id, 1] = b"hello\n" * 100
            self.world.records.write(one, RecordPhase.ENDED, exit_code=0, chunks=1)

    async def tick(self) -> float:
        """One tick; its CPU seconds, with those of the database's server."""
        self._ticks += 1
        self.world.emr.polls_left = int(self._ticks * STEPS_PER_S) - int((self._ticks - 1) * STEPS_PER_S)
        self.world.clock.passed_s += 1.0
        began = cpu_s()
        await self.world.record_poll.round()
        await self.world.steering.tick(self.world.token)
        spent_s = cpu_s() - began
        await self.world.actions.settle()
        return spent_s


def _running(connection: Connection) -> list[Submission]:
    live = select(SUBMISSION).where(SUBMISSION.c.state == SubmissionState.RUNNING)
    return [submission_from(row) for row in connection.execute(live).mappings()]


async def measure(ticks: Ticks, rounds: int) -> Figures:
    """CPU seconds of idle and of busy ticks."""
    idle, busy = [], []
    for _ in range(rounds):
        gc.collect()
        idle.append(await ticks.tick())
    for _ in range(rounds):
        ticks.news(NEWS)
        gc.collect()
        busy.append(await ticks.tick())
    return idle, busy


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ticks", type=int, default=15, help="counted ticks of each kind, at most 18")
    parser.add_argument("--only", choices=("postgresql", "sqlite"), action="append", help="one database only")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    sizes = [Size(parked=PARKED * times, over=PARKED) for times in (1, TIMES)]
    table = Table(title="CPU milliseconds of a tick, median (the slowest of twenty)", title_justify="left")
    for name in ("database", "parked", "idle", "ratio", f"{NEWS} steps end", "ratio"):
        table.add_column(name, justify="right")
    for dialect in arguments.only or ("postgresql", "sqlite"):
        with tempfile.TemporaryDirectory() as folder, databases(dialect, sizes, Path(folder)) as lives:
            all_ticks = [
                Ticks(life.engine, size.parked, Path(folder, f"logs-{size.parked}"))
                for life, size in zip(lives, sizes, strict=True)
            ]
            figures = asyncio.run(_all(all_ticks, arguments.ticks))
        for size, (idle, busy) in zip(sizes, figures, strict=True):
            cells = [_told(idle), f"{median(idle) / median(figures[0][0]):.1f}"]
            cells += [_told(busy), f"{median(busy) / median(figures[0][1]):.1f}"]
            table.add_row(dialect, f"{size.parked:,}", *cells)
    Console().print(table)


async def _all(all_ticks: list[Ticks], rounds: int) -> list[Figures]:
    for ticks in all_ticks:
        await ticks.begin()
    return [await measure(ticks, rounds) for ticks in all_ticks]


def _told(seconds: list[float]) -> str:
    return f"{median(seconds) * 1000:.1f} ({quantiles(seconds, n=20)[-1] * 1000:.1f})"


if __name__ == "__main__":
    main()

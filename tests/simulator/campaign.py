"""Many seeds in several processes, with a file that remembers what was done: a campaign can be resumed.

Each line of the file is one seed's result for one number of tasks, so that ranges may be run in any order,
stopped at any moment, and summed up later. A seed that is in the file already is not run again.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from tests.simulator.run import run_seed
from tests.simulator.world import Outcome

ASKED_AHEAD = 2
"""Seeds that wait for each process, so that none idles and few are lost when a campaign is stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One seed's result, as the file keeps it: of a world of ``tasks``, which took ``cpu_s``."""

    seed: int
    tasks: int
    workloads: int
    counts: dict[str, int]
    virtual_s: float
    cpu_s: float
    violations: list[dict[str, str]]


@dataclass(slots=True)
class Total:
    """The sum of a campaign; ``broken`` are the seeds with a violation."""

    seeds: int = 0
    workloads: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    promises: Counter[str] = field(default_factory=Counter)
    broken: list[int] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Count one seed."""
        self.seeds += 1
        self.workloads += result.workloads
        self.virtual_s += result.virtual_s
        self.cpu_s += result.cpu_s
        self.counts.update(result.counts)
        self.promises.update(violation["promise"] for violation in result.violations)
        if result.violations:
            self.broken.append(result.seed)


def run_campaign(
    seeds: Iterable[int],
    tasks: int,
    *,
    jobs: int,
    memory: Path | None = None,
    on_result: Callable[[Result], None] = lambda _: None,
) -> Total:
    """Run all seeds that the file does not have; the total of the seeds asked for, those in the file too."""
    wanted = list(seeds)
    total = Total()
    _end_torn_line(memory)
    known = {result.seed: result for result in _read(memory) if result.tasks == tasks}
    for seed in wanted:
        if seed in known:
            total.add(known[seed])
    for result in _run([seed for seed in wanted if seed not in known], tasks, jobs):
        if memory is not None:
            with memory.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
        total.add(result)
        on_result(result)
    return total


def _run(seeds: list[int], tasks: int, jobs: int) -> Iterator[Result]:
    if jobs == 1:
        for seed in seeds:
            yield run_one(seed, tasks)
        return
    left = iter(seeds)
    fresh = get_context("spawn")
    with ProcessPoolExecutor(max_workers=jobs, mp_context=fresh, max_tasks_per_child=200) as pool:
        running: set[Future[Result]] = set()
        while True:
            for next_seed in islice(left, jobs * ASKED_AHEAD - len(running)):
                running.add(pool.submit(run_one, next_seed, tasks))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def run_one(seed: int, tasks: int) -> Result:
    """One seed in this process; an exception that escapes is a violation too."""
    began = time.process_time()
    try:
        outcome = run_seed(seed, workloads=tasks)
    except Exception as error:  # noqa: BLE001 - a campaign goes on, and tells
        crash = {"promise": "no_bug", "subject": "world", "text": f"{type(error).__name__}: {error}"}
        return Result(
            seed=seed, tasks=tasks, workloads=0, counts={}, virtual_s=0.0, cpu_s=0.0, violations=[crash]
        )
    return _result_of(outcome, tasks, time.process_time() - began)


def _result_of(outcome: Outcome, tasks: int, cpu_s: float) -> Result:
    told = [{"promise": v.promise, "subject": v.subject, "text": v.text} for v in outcome.violations]
    return Result(
        seed=outcome.seed,
        tasks=tasks,
        workloads=outcome.counts["workloads"],
        counts=dict(outcome.counts),
        virtual_s=outcome.virtual_s,
        cpu_s=cpu_s,
        violations=told,
    )


def _end_torn_line(memory: Path | None) -> None:
    """So that the next result has a line of its own."""
    if memory is not None and memory.exists() and not memory.read_text().endswith("\n"):
        with memory.open("a") as file:
            file.write("\n")


def _read(memory: Path | None) -> Iterator[Result]:
    if memory is None or not memory.exists():
        return
    with memory.open() as file:
        for line in file:
            try:
                yield Result(**json.loads(line))
            except (ValueError, TypeError, KeyError):
                # The last line of a campaign that was killed while it wrote: that seed is run again.
                continue

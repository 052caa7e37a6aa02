"""kill -9 at every point of the tables: each task ends as it would have, without a retry or a second step.

By the endpoint's own ledger and Airflow's database (arena.check). A few points run in ``make test``, all of
them in ``make test-all``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest

from tests.with_airflow import lives
from tests.with_airflow.arena import Arena, running_arena
from tests.with_airflow.kill_points import EMR_ACTS, LIFE_OF, NOT_HERE, Point, edges, effectful, points
from tests.with_airflow.lives import Life

IN_ONE_LIFE = 3
"""Points that kill one after the other in one life of the matrix."""
FEW = (
    "scheduler after workload nothing>ACCEPTED handed_over",
    "agent after workload ACCEPTED>PREPARING claimed",
    "supervisor after workload PREPARING>READY parked",
    "agent after cluster nothing>INTENDED decided",
    "agent after act run_job_flow",
    "agent after act add_steps",
    "agent after workload SUBMITTED>FINISHABLE step_completed",
    "supervisor after act succeed",
    "runner after act say FinishBegan",
    "agent after act terminate_clusters",
)
POINTS = {point.name: point for point in points()}


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with running_arena(tmp_path_factory.mktemp("arena")) as made:
        yield made


def survive(arena: Arena, life: Life, points: Sequence[str]) -> list[str]:
    """Live one life in which each of the points kills; those at which it did not come by."""
    arena.arm(*points)
    try:
        life(arena)
    finally:
        arena.arm()
        arena.bench.control.clear_faults()
    return [point for point in points if not arena.has_fired(point)]


def test_every_edge_of_the_tables_is_a_point_or_is_told_why_not() -> None:
    assert LIFE_OF.keys() | NOT_HERE.keys() == edges().keys()
    assert not LIFE_OF.keys() & NOT_HERE.keys()


def test_every_call_that_changes_something_in_emr_is_a_point() -> None:
    assert effectful() == EMR_ACTS.keys()


@pytest.mark.parametrize("name", FEW)
def test_a_process_that_dies_here_costs_nothing(arena: Arena, name: str) -> None:
    point = POINTS[name]
    assert survive(arena, point.life, [*point.first, name]) == []


def _batches() -> list[tuple[Life, tuple[Point, ...]]]:
    """Points of one life together, but for those that need another one before them."""
    by_life: defaultdict[Life, list[Point]] = defaultdict(list)
    for point in points():
        by_life[point.life].append(point)
    found: list[tuple[Life, tuple[Point, ...]]] = []
    for life, its_points in by_life.items():
        together = [point for point in its_points if not point.first]
        starts = range(0, len(together), IN_ONE_LIFE)
        found += [(life, tuple(together[start : start + IN_ONE_LIFE])) for start in starts]
        found += [(life, (point,)) for point in its_points if point.first]
    return found


@pytest.mark.matrix
@pytest.mark.parametrize(("life", "batch"), _batches(), ids=lambda value: getattr(value, "__name__", None))
def test_processes_that_die_at_every_point_cost_nothing(
    arena: Arena, life: Life, batch: tuple[Point, ...]
) -> None:
    first = [name for point in batch for name in point.first]
    missed = survive(arena, life, [*first, *(point.name for point in batch)])
    # What one death changed may lead past the next point: that one gets a life of its own.
    for name in missed if len(batch) > 1 else ():
        assert survive(arena, life, [name]) == []
    assert len(batch) > 1 or missed == []


def test_no_answer_to_a_launch_or_to_new_steps_costs_nothing(arena: Arena) -> None:
    for life in (lives.unheard_launch, lives.unheard_steps):
        assert survive(arena, life, []) == []


def test_no_answer_and_an_agent_that_dies_before_it_looks_again_costs_nothing(arena: Arena) -> None:
    assert survive(arena, lives.unheard_launch_and_death, []) == []
    assert survive(arena, lives.unheard_steps_and_death, []) == []

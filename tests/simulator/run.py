"""One seed, from its number to its outcome."""

from __future__ import annotations

from tests.simulator import loop
from tests.simulator.error_capture import captured_errors
from tests.simulator.scenario import Scenario, draw_scenario
from tests.simulator.stores import Stores, in_memory
from tests.simulator.world import Outcome, Plant, World


def run_seed(seed: int, *, workloads: int) -> Outcome:
    """Live the world of a seed."""
    return run_scenario(draw_scenario(seed, workloads=workloads), in_memory())


def run_scenario(scenario: Scenario, stores: Stores, plant: Plant | None = None) -> Outcome:
    """Live a world as it was planned; ``plant`` may put a bug into the surroundings of its agents."""

    async def live() -> Outcome:
        return await World(scenario, stores, errors, plant).live()

    with captured_errors() as errors:
        return loop.run(live(), seed=scenario.seed)

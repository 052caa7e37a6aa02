"""A world that was lived, and what can still be asked of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from emr_executor.local.ledger import LedgerEntry
from tests.simulator import loop
from tests.simulator.airflow_ledger import AirflowEntry
from tests.simulator.error_capture import captured_errors
from tests.simulator.scenario import Scenario, draw_scenario
from tests.simulator.stores import in_memory
from tests.simulator.world import Outcome, World


@dataclass(frozen=True, slots=True)
class FinishedWorld:
    """A world after its end; its loop is closed."""

    world: World
    outcome: Outcome

    @property
    def emr(self) -> list[LedgerEntry]:
        return list(self.world.cloud.model.ledger)

    @property
    def airflow(self) -> list[AirflowEntry]:
        return list(self.world.airflow.ledger)

    def digest(self) -> str:
        """Of both ledgers, all counts and the violations."""
        told = [self.emr, self.airflow, sorted(self.outcome.counts.items()), self.outcome.violations]
        return hashlib.sha256(repr(told).encode()).hexdigest()


def live(
    seed: int, *, workloads: int, plan: Callable[[Scenario], Scenario] = lambda scenario: scenario
) -> FinishedWorld:
    """Live the world of a seed, as ``plan`` changes it, and keep it."""
    scenario = plan(draw_scenario(seed, workloads=workloads))

    async def life() -> FinishedWorld:
        world = World(scenario, in_memory(), errors)
        return FinishedWorld(world, await world.live())

    with captured_errors() as errors:
        return loop.run(life(), seed=seed)

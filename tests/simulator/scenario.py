"""One world's plan, drawn from its seed: sizes, settings, tasks, clocks and faults.

Everything random about a world before it begins is here; what is drawn while it lives comes from
generators that are seeded by the same number. So a seed and a commit are the whole story.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from emr_executor.config import ClusterPool, Settings
from emr_executor.core.model import TaskKey
from emr_executor.local.entities import ModelOptions
from tests.simulator.airflow_entities import FinishEnd, PrepareEnd, TaskScript, TryScript
from tests.simulator.cloud import StepScript
from tests.simulator.fault_profile import FaultProfile, draw

DEPLOYMENT = "5eed5eed-0000-4000-8000-000000000001"
POOL = "default"
MAX_SKEW_S = 4.0
"""Of a host's wall clock. Airflow's API refuses tokens of a host that is 10 s ahead (``jwt_leeway``)."""
TASKS_A_RUN = 20
STEPS_A_PAGE = (50, 50, 50, 20, 10)
"""Of ListSteps: mostly EMR's own, and some so small that a look takes many ticks."""
VISIBLE_STEPS = (1000, 1000, 100)
"""To ListSteps: mostly EMR's own, and some so few that steps that still run are hidden."""
KEEP_HISTORY_S = (300.0, 900.0, 30 * 86_400.0)
"""Most of them shorter than the configuration allows, so that rows are purged within a world's life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTask:
    """A task of a DAG run that is triggered ``at_s`` virtual seconds after the start."""

    at_s: float
    key: TaskKey
    script: TaskScript


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A world before it begins.

    refused_share: how many of the workloads have a step that EMR never takes
    stormy_s: for how long faults happen; then everything must converge
    cap: what the ledgers are judged by; the settings say the same unless a bug is planted
    """

    seed: int
    profile: FaultProfile
    settings: Settings
    model: ModelOptions
    tasks: tuple[PlannedTask, ...]
    skews_s: tuple[float, ...]
    schedulers: int
    foreign_clusters: int
    refused_share: float
    stormy_s: float
    cap: int
    max_submissions: int


def draw_scenario(seed: int, *, workloads: int) -> Scenario:
    """The world of a seed with so many tasks."""
    rng = random.Random(f"scenario/{seed}")
    profile = draw(rng)
    # Drawn apart, so that seeds that once failed are still the same worlds.
    keep_rng = random.Random(f"keep/{seed}")
    settings = _settings(rng, workloads, keep_history_s=keep_rng.choice(KEEP_HISTORY_S))
    refusal_rng = random.Random(f"refusal/{seed}")
    page_rng = random.Random(f"page/{seed}")
    pool = settings.cluster_pools[0]
    return Scenario(
        seed=seed,
        profile=profile,
        settings=settings,
        model=ModelOptions(
            start_delay_s=rng.uniform(1, 90),
            bootstrap_delay_s=rng.uniform(1, 60),
            terminate_delay_s=rng.uniform(0.1, 40),
            step_start_delay_s=rng.choice((0.0, 0.0, 1.0)),
            running_step_on_terminate=rng.choice(("CANCELLED", "INTERRUPTED")),  # type: ignore[arg-type]
            steps_a_page=page_rng.choice(STEPS_A_PAGE),
            visible_steps=page_rng.choice(VISIBLE_STEPS),
            cancelled_step_frees_slot=rng.random() < 0.8,
        ),
        tasks=_tasks(rng, workloads),
        skews_s=tuple(rng.uniform(-MAX_SKEW_S, MAX_SKEW_S) for _ in range(rng.choice((1, 2, 2, 3)))),
        schedulers=rng.choice((1, 1, 2)),
        foreign_clusters=rng.randrange(4),
        refused_share=refusal_rng.choice((0.0, 0.0, 0.0, 0.01, 0.1)),
        stormy_s=rng.uniform(600, 1800),
        cap=pool.max_clusters,
        max_submissions=pool.max_submissions,
    )


def template(slots: int) -> dict[str, Any]:
    """A RunJobFlow request that the model of EMR accepts."""
    return {
        "ReleaseLabel": "emr-7.10.0",
        "JobFlowRole": "EMR_EC2_DefaultRole",
        "ServiceRole": "EMR_DefaultRole",
        "StepConcurrencyLevel": slots,
        "Instances": {
            "MasterInstanceType": "m5.xlarge",
            "SlaveInstanceType": "m5.xlarge",
            "InstanceCount": 3,
        },
    }


def _settings(rng: random.Random, workloads: int, *, keep_history_s: float) -> Settings:
    slots = rng.choice((1, 2, 4, 8, 16, 32))
    wanted = max(1, workloads // 12)
    cap = min(rng.choice((1, 2, 3, 5, 8, 16)), max(1, wanted // slots + 1))
    slots = max(slots, min(128, wanted // cap))
    return Settings(
        staging_uri="s3://sim/staging/",
        cluster_pools=(
            ClusterPool(
                name=POOL,
                template=template(slots),
                max_clusters=cap,
                min_clusters=0,
                idle_timeout_s=rng.choice((30.0, 60.0, 120.0)),
                max_submissions=rng.choice((2, 3, 5, 10)),
                prefetch=rng.choice((0, 1, 2, 8)),
                launch_unknown_s=180.0,
            ),
        ),
        task_runner_parallelism=rng.choice((4, 16, 64)),
        records_interval_s=2.0,
        step_poll_interval_s=rng.choice((20.0, 60.0)),
        cluster_poll_interval_s=rng.choice((5.0, 15.0, 30.0)),
        tick_interval_s=rng.choice((1.0, 2.0, 4.0)),
        keep_history_s=keep_history_s,
    )


def _tasks(rng: random.Random, workloads: int) -> tuple[PlannedTask, ...]:
    over_s = rng.choice((10.0, 120.0, 600.0))
    longest_s = rng.choice((5.0, 30.0, 90.0))
    mapped = rng.random() < 0.5
    tasks = []
    for number in range(workloads):
        run, place = divmod(number, TASKS_A_RUN)
        key = TaskKey(
            dag_id=f"dag{run % 7}",
            task_id="mapped" if mapped else f"task{place}",
            run_id=f"run{run}",
            try_number=0,
            map_index=place if mapped else -1,
        )
        script = _script(rng, longest_s)
        tasks.append(PlannedTask(at_s=(run * TASKS_A_RUN / workloads) * over_s, key=key, script=script))
    return tuple(tasks)


def _script(rng: random.Random, longest_s: float) -> TaskScript:
    retries = rng.choice((0, 0, 1, 2))
    return TaskScript(
        tries=tuple(_try(rng, longest_s) for _ in range(retries + 1)),
        retries=retries,
        retry_delay_s=rng.uniform(1, 60),
        priority_weight=rng.choice((1, 1, 1, 5)),
    )


def _try(rng: random.Random, longest_s: float) -> TryScript:
    timeout_s = rng.uniform(1, longest_s) if rng.random() < 0.04 else None
    return TryScript(
        prepare_s=rng.uniform(0.2, 2.0),
        stage_s=0.1,
        finish_s=rng.uniform(0.1, 1.0),
        prepare=PrepareEnd.RAISES if rng.random() < 0.01 else PrepareEnd.PARKS,
        finish=FinishEnd.RAISES if rng.random() < 0.01 else FinishEnd.BY_OUTCOME,
        execution_timeout_s=timeout_s,
        step=StepScript(
            duration_s=rng.uniform(0.2, longest_s),
            exit_code=1 if rng.random() < 0.05 else 0,
            timeout_s=timeout_s,
        ),
    )

"""Whatever is asked of the two stores, in whatever order, they answer the same."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from emr_executor.core.states import WorkloadState
from emr_executor.store.dialect import engine_for
from emr_executor.store.schema import AIRFLOW, METADATA
from tests.store.both_stores import memory_store, sql_store
from tests.store.lockstep import Lockstep, Op

WEIGHTS = {
    "accept": 4,
    "task": 3,
    "outcomes": 4,
    "adopt": 1,
    "cancel": 2,
    "claim": 5,
    "forward": 4,
    "claims": 1,
    "renew": 2,
    "parked": 3,
    "intent": 2,
    "over": 3,
    "retry": 1,
    "gone": 1,
    "free": 2,
    "lease": 1,
    "look": 2,
    "tick": 8,
    "purge": 1,
    "rows": 1,
}
WRITES_OF_A_PHASE = ("renew", "parked", "intent", "over", "retry", "gone")
NAMES = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
START: list[Op] = [
    ("lease", 2, 0, 0),
    ("accept", 0, 2, 0),
    ("accept", 3, 2, 0),
    ("claim", 1, 3, 0),
    ("parked", 0, 0, 0),
    ("tick", 1, 1, 1),
]
"""Somebody steers and there is work; the rest is chance."""

EXPECTED = frozenset(
    {
        *(
            "apply ok",
            "apply StaleWriter",
            "apply InvalidTransition",
            "accept nothing",
            "adopt ok",
            "cancel ok",
        ),
        *("claim PREPARING ok", "claim FINISHING ok", "claims ok", "free True", "free False"),
        *(f"{write} {end}" for write in WRITES_OF_A_PHASE for end in ("nothing", "StaleWriter")),
        *("take ok", "take nothing", "beat True", "beat False", "purge ok", "unwanted ok", "heartbeats ok"),
        *("outcome CANCELLED", "outcome FINISHED", "end CANCELLED 1", "end FINISHED 2", "end CANCELLED 2"),
        *(f"end {state} 0" for state in WorkloadState),
        *(f"snapshot {state} CANCEL" for state in ("ACCEPTED", "PREPARING", "READY", "SUBMITTED")),
    }
)
"""What the walks must meet, lest they prove nothing."""


@pytest.fixture(scope="module")
def sqlite_in_memory() -> Iterator[Engine]:
    engine = engine_for("sqlite://")
    METADATA.create_all(engine)
    AIRFLOW.create_all(engine)
    yield engine
    engine.dispose()


def walk(engine: Engine, ops: list[Op]) -> Counter[str]:
    """Both stores, new and empty, through the operations; what was seen."""
    with engine.begin() as conn:
        for table in (*METADATA.sorted_tables, *AIRFLOW.sorted_tables):
            conn.execute(table.delete())
    lockstep = Lockstep(memory=memory_store(), sql=sql_store(engine))
    asyncio.run(lockstep.run([*START, *ops]))
    return lockstep.seen


def test_many_long_walks(sqlite_in_memory: Engine) -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        dice = random.Random(seed)
        ops = [(dice.choice(NAMES), *(dice.randrange(40) for _ in range(3))) for _ in range(LENGTH)]
        seen += walk(sqlite_in_memory, ops)
    assert not EXPECTED - seen.keys()


SEEDS, LENGTH = 150, 40
small = st.integers(0, 39)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ops=st.lists(st.tuples(st.sampled_from(NAMES), small, small, small), min_size=10, max_size=60))
def test_any_walk(sqlite_in_memory: Engine, ops: list[Op]) -> None:
    walk(sqlite_in_memory, ops)

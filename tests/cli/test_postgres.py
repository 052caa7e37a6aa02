"""The same answers from PostgreSQL, in a transaction that could not write."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from emr_executor.cli.read_only import read
from emr_executor.config import Settings
from tests.cli.world import World, workload_of
from tests.store.builders import at


def test_explain_and_status_read_postgresql(postgres: Engine, settings: Settings) -> None:
    world = World(postgres, settings)
    world.scheduler()
    world.take_lease()
    world.run()
    assert world.explain().sentences[1] == (
        "It waits for upstream tasks (trigger rule all_success): extract (not scheduled)."
    )
    ti_id = world.set_task(
        "average", state="running", start_date=at(10), try_number=1, max_tries=2, last_heartbeat_at=at(50)
    )
    world.store(workload_of(ti_id))
    assert world.explain().sentences[1] == (
        "Its step is parked for 1 min 20 s and waits for a slot, first in its line: no cluster of its pool "
        "is up yet; a cluster is being launched."
    )

    facts = world.status()
    assert (facts.ready, facts.last_heartbeat_at, facts.wrong) == (1, at(50), ())


def test_nothing_can_be_written_by_what_reads(postgres: Engine) -> None:
    def write(conn: Any) -> None:
        conn.execute(text("DELETE FROM emr_history"))

    with pytest.raises(DBAPIError, match="read-only transaction"):
        read(write, engine=postgres)

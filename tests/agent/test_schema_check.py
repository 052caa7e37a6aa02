"""An agent and tables of another release: what it says at its start, and that it ends when they come."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, Engine, MetaData, String, Table, insert, update

from emr_executor.agent.schema_check import LOOK_EVERY_S, check_tables, until_other_tables
from emr_executor.errors import ConfigError, StoreBusy
from emr_executor.store.revision import REVISIONS, revision_problem
from emr_executor.store.schema import HISTORY, VERSION_TABLE
from tests.agent.fakes import ManualClock
from tests.inline_runner import InlineRunner

VERSION = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32)))


@pytest.fixture
def stamped(engine: Engine) -> Engine:
    with engine.begin() as conn:
        VERSION.create(conn)
        conn.execute(insert(VERSION).values(version_num=REVISIONS[-1]))
    return engine


def stamp(engine: Engine, revision: str) -> None:
    with engine.begin() as conn:
        conn.execute(update(VERSION).values(version_num=revision))


async def test_tables_of_this_release_are_fine(stamped: Engine) -> None:
    await check_tables(InlineRunner(stamped))


async def test_a_missing_table_names_the_command(stamped: Engine) -> None:
    HISTORY.drop(stamped)
    with pytest.raises(ConfigError, match="no table emr_history: run `airflow db migrate`"):
        await check_tables(InlineRunner(stamped))


async def test_tables_of_a_newer_release_ask_for_the_package(stamped: Engine) -> None:
    stamp(stamped, "9999")
    with pytest.raises(ConfigError, match=r"revision 9999, this release works with .*Upgrade the package"):
        await check_tables(InlineRunner(stamped))


def test_tables_of_an_older_release_ask_for_the_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emr_executor.store.revision.REVISIONS", ("0001", "0002"))
    assert revision_problem("0002") is None
    assert (revision_problem("0001") or "").endswith("works with 0002: run `airflow db migrate`")


async def test_an_agent_hears_of_a_migration_and_an_outage_is_none(stamped: Engine) -> None:
    clock = ManualClock()

    class Runner(InlineRunner):
        looks = 0

        async def read(self, work, *args):  # type: ignore[no-untyped-def]
            self.looks += 1
            if self.looks == 2:
                raise StoreBusy("away")
            if self.looks == 3:
                raise RuntimeError("a bug")
            if self.looks == 5:
                stamp(stamped, "9999")
            return await super().read(work, *args)

    problem = await until_other_tables(Runner(stamped), clock)
    assert "Upgrade the package" in str(problem)
    assert clock.passed_s == 5 * LOOK_EVERY_S

"""A store on SQLite with our tables and those of Airflow's that we read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from emr_executor.store.agent_store import AgentStore
from emr_executor.store.dialect import engine_for
from emr_executor.store.schema import AIRFLOW, METADATA
from tests.agent.fakes import ManualClock, World
from tests.inline_runner import InlineRunner


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = engine_for(f"sqlite:///{tmp_path}/store.db")
    METADATA.create_all(engine)
    AIRFLOW.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> AgentStore:
    return AgentStore(InlineRunner(engine))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def world(engine: Engine, tmp_path: Path) -> World:
    return World(engine, tmp_path / "logs")

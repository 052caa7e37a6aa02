"""What ``doctor`` notes of clocks and of Airflow's limit on queued tasks."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, create_engine

from emr_executor.cli import doctor


def test_the_limit_on_queued_tasks_is_named_with_its_numbers() -> None:
    note = doctor.queued_note(600.0, 2)
    assert "waits in queued for 30 min" in note
    assert "task_queued_timeout 600 s, and 2 times more" in note


@pytest.mark.parametrize(("ahead_s", "words"), [(60.0, "60 s ahead of that"), (-5.0, "5 s behind that")])
def test_clocks_that_differ_are_noted(ahead_s: float, words: str) -> None:
    note = doctor.api_clock_note("http://api", ahead_s)
    assert note is not None
    assert words in note


def test_clocks_that_agree_are_not_worth_a_line() -> None:
    assert doctor.api_clock_note("http://api", 1.0) is None
    assert doctor.database_clock_note(create_engine("sqlite://")) is None


def test_an_api_server_that_does_not_answer_is_noted() -> None:
    assert "did not answer at http://api" in str(doctor.api_clock_note("http://api", None))


@pytest.mark.processes
def test_the_databases_clock_is_asked(postgres: Engine) -> None:
    assert doctor.database_clock_note(postgres) is None

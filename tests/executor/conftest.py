"""Airflow's real tables beside ours, as the commands' tests have them."""

from __future__ import annotations

from tests.cli.conftest import postgres, template

__all__ = ["postgres", "template"]

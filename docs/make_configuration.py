"""Writes docs/configuration.md from the options in ``emr_executor.config``: ``make docs``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from emr_executor.config import OPTIONS, Option

PAGE = """\
# Configuration

This page is made from the options in `emr_executor/config.py` by `make docs`; a test fails where the two
differ.

The options stand in the section `[emr_executor]` of `airflow.cfg`, or in environment variables such as
`AIRFLOW__EMR_EXECUTOR__MAX_CLUSTERS`. Durations are seconds, or a number with s, m, h or d: `90`, `90s` and
`1.5m` are the same. Comments need a line of their own. `airflow emr doctor` tells everything that is wrong at
once, with its place.

## Options

{options}

## Tuning

The defaults of these fit nearly everybody.

{tuning}
"""


def table(options: Iterable[Option]) -> str:
    """Options as a table."""
    rows = ["| option | default | for example | what it does |", "|---|---|---|---|"]
    for one in options:
        default = "must be set" if one.is_required else f"`{one.default}`" if one.default else "unset"
        rows.append(f"| `{one.name}` | {default} | `{one.example}` | {one.description} |")
    return "\n".join(rows)


def page() -> str:
    """The whole page."""
    return PAGE.format(
        options=table(one for one in OPTIONS if not one.tuning),
        tuning=table(one for one in OPTIONS if one.tuning),
    )


if __name__ == "__main__":
    (Path(__file__).parent / "configuration.md").write_text(page())

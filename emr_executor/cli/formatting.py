"""Values as people and programs read them: spans of time, tables for 100 columns, JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from emr_executor.core.workload import spoken_duration

PIPED_COLUMNS = 100
"""Width where standard output is no terminal and COLUMNS says nothing."""


def since(at: datetime | None, now: datetime) -> str:
    """How long ago a moment was; ``-`` for none."""
    return "-" if at is None else spoken_duration((now - at).total_seconds())


def clock(at: datetime, now: datetime) -> str:
    """A moment in UTC, with its date when that is not today's."""
    moment, today = at.astimezone(UTC), now.astimezone(UTC).date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M:%S")


def counted(number: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> Table:
    """A table without rules; cells are folded, those of ``whole`` columns last, and hold no markup."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        made.add_column(column, overflow="fold", justify=justify, no_wrap=column in whole)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def labelled(rows: Sequence[tuple[str, RenderableType]]) -> Table:
    """Lines with a label at their left."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for label, value in rows:
        made.add_row(label, Text(value) if isinstance(value, str) else value)
    return made


def plain(value: Any) -> Any:
    """A value as JSON holds it: dataclasses as objects, times in ISO 8601, UTC."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    # Enumerations of Airflow and ours are strings whose str() is their value.
    return str(value) if isinstance(value, str) else value


def show(view: RenderableType) -> None:
    """Print what a person reads. A pipe gets no colours and a fixed width."""
    console = Console(markup=False, highlight=False, emoji=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(
            markup=False,
            highlight=False,
            emoji=False,
            width=_columns(console),
            no_color=True,
            file=sys.stdout,
        )
    console.print(view)


def show_json(value: Any) -> None:
    """Print what a program reads."""
    sys.stdout.write(json.dumps(plain(value), indent=2) + "\n")


def _columns(console: Console) -> int:
    # Rich itself reads COLUMNS, and says 80 where nothing is known.
    return max(console.width, PIPED_COLUMNS)

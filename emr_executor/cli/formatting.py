"""Values as people and programs read them: spans of time, tables for 100 columns, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.table import Table

from emr_executor.core.workload import spoken_duration

PIPED_COLUMNS = 100
"""Width where standard output is no terminal and COLUMNS says nothing."""

T = TypeVar("T")


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


def task_name(row: Any) -> str:
    """``dag.task[map_index]`` of something with these three."""
    mapped = f"[{row.map_index}]" if row.map_index >= 0 else ""
    return f"{row.dag_id}.{row.task_id}{mapped}"


def clause(text: str) -> str:
    """Somebody else's sentence within one of ours."""
    return text.rstrip(". ")


def filled(kind: type[T], source: object, **more: Any) -> T:
    """A dataclass with the fields that ``source`` has by the same names; ``more`` goes before them."""
    names = [field.name for field in fields(kind) if hasattr(source, field.name)]  # type: ignore[arg-type]
    return kind(**{name: getattr(source, name) for name in names} | more)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> Table:
    """A table without rules; cells are folded, those of ``whole`` columns last."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        justify = "right" if name in right else "left"
        made.add_column(name, overflow="fold", justify=justify, no_wrap=name in whole)  # type: ignore[arg-type]
    for row in rows:
        made.add_row(*row)
    return made


def labelled(rows: Sequence[tuple[str, RenderableType | Sequence[str]]]) -> Table:
    """Lines with a label at their left; a label without lines is left out."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for label, value in rows:
        shown = "\n".join(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        if shown:
            made.add_row(label, shown)
    return made


def as_json(value: Any) -> str:
    """Dataclasses as objects, times in ISO 8601, UTC."""
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def show(view: RenderableType) -> None:
    """Print what a person reads; rich gives a pipe no colours, and 80 columns where COLUMNS is not set."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, PIPED_COLUMNS)
    console.print(view)

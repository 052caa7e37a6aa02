"""What an option of ``[emr_executor]`` is, and how it is written. The options stand in ``config``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

SECTION = "emr_executor"
_UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "": 1}
_SIZES = {"GIB": 2**30, "MIB": 2**20, "KIB": 2**10, "B": 1, "": 1}


@dataclass(frozen=True, slots=True)
class Option:
    """One option, in the annotation of the field that it fills.

    description: what it does, in sentences to the user
    tuning: the default fits nearly everybody
    name: where it is not the field's without its unit
    part, field, default: known from where it stands; a default is as a user would write it, and None means
        that leaving it out means "none"
    is_required: there is no default that could work
    is_whole: it is a whole number
    """

    description: str
    example: str
    tuning: bool = False
    name: str = ""
    part: str = ""
    field: str = ""
    default: str | None = None
    is_required: bool = False
    is_whole: bool = False


def written(field: str, value: Any) -> str | None:
    """A field's value as a user would write it."""
    if isinstance(value, tuple):
        return ",".join(value)
    if field.endswith("_bytes"):
        return f"{value // _SIZES['MIB']} MiB"
    if field.endswith("_s") and value is not None:
        unit = next(unit for unit, size in _UNITS_S.items() if value >= size and value % size == 0)
        return f"{value / _UNITS_S[unit]:g}{unit.replace('s', '')}"
    return None if value is None else str(value)


def duration_s(given: Any) -> Any:
    """Seconds of ``90``, ``90s``, ``1.5m``, ``2h`` or ``1d``; what is no text stays. Raises ValueError."""
    if not isinstance(given, str):
        return given
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", given.strip())
    if match is None:
        raise ValueError("it must be seconds, or a number with s, m, h or d, such as 90 or 1.5m")
    return float(match[1]) * _UNITS_S[match[2]]


def size_bytes(given: Any) -> Any:
    """Bytes of ``4096`` or ``16 MiB``; what is no text stays. Raises ValueError."""
    if not isinstance(given, str):
        return given
    match = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", given)
    if match is None or match[2].upper() not in _SIZES:
        raise ValueError("it must be bytes, or a whole number with KiB, MiB or GiB")
    return int(match[1]) * _SIZES[match[2].upper()]


def names(given: Any) -> Any:
    """The names in a text with commas between them; what is no text stays. Raises ValueError."""
    if not isinstance(given, str):
        return given
    found = tuple(part.strip() for part in given.split(","))
    if not all(found):
        raise ValueError("an empty name; separate the names by single commas")
    if len(set(found)) != len(found):
        raise ValueError("each name may stand there once")
    return found
